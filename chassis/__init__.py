"""What every process stands on: settings, errors, tensors, telemetry, RPC plumbing, lifecycle."""
