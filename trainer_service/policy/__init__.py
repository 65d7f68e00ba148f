"""Decisions of the trainer, pure: whether to start again, how fast to step."""
