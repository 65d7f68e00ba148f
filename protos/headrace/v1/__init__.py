"""Generated message modules."""
