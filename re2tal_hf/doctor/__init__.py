"""What is likely wrong with a recipe, its data or a run; see `examination.findings`."""
