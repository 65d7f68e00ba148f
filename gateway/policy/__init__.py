"""What the gateway decides: pure cores that take `now` and never wait, read a clock or log."""
