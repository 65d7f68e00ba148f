"""Faults of the store and of replicas, injected under load into real processes, and what must hold.

`python -m benchmarks.chaos` runs scenarios; every process writes what it saw into one record, and
`python -m benchmarks.chaos.check RECORD` judges such a record alone, without the system.
"""
