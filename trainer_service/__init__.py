"""Runs training as torchrun jobs: starts, watches, restarts and stops them; imports no torch."""
