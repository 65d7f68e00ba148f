"""A seeded discrete-event simulator that runs the gateway's own policy code, with baselines."""
