"""Per-batch work: when a batch leaves, which endpoint takes it, what becomes of a failed one."""
