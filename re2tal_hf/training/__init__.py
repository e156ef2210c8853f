"""Training: arguments, loop, optimiser groups, schedules, evaluation."""
