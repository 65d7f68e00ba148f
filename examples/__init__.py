"""Models and loops to run, to read and to copy from."""
