"""What of a device torch does not order by itself: lanes of work, memory near it, graphs."""
