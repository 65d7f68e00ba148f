"""The situations that are simulated, by theme."""
