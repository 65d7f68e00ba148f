"""Decisions that every server shares; they never wait."""
