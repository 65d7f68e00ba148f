"""Decisions of the trainer, pure: when to publish, whether to start again, how fast to step."""
