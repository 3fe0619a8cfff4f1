"""Where a run lives: its directory, its state, the lock, and the results it ends with."""
