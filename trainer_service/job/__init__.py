"""The job of one run: a torchrun agent and its workers. Only this package imports torch."""
