"""`make bench-scheduling`: goodput and latency through overload and failures, on the real stack."""
