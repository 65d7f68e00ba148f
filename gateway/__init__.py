"""The OIP server in front of the replicas: admits, batches, balances and retries."""
