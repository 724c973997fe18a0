"""Where averages lie, how an update moves them, and their state."""
