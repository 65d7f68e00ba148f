"""Decisions of a training loop that publishes, pure."""
