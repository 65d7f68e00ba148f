"""Callbacks that publish from other libraries' training loops; each needs its library."""
