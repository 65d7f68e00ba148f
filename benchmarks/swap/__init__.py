"""`make bench-swap`: what publishing and swapping cost in requests, time, memory and reads."""
