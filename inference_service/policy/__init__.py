"""Decisions of the replica that need neither clock nor I/O."""
