"""Published checkpoints of other projects, made into models of ours."""
