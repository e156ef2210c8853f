"""The metric, and what is measured beside it."""
