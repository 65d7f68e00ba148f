"""Measurements of the real system, run by `make bench`; tests only check that they run."""
