"""What may leave the machine: files by a list, text without local paths, and Markdown that says what was meant."""
