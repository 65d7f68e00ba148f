"""What weight deltas cost and save on real training runs."""
