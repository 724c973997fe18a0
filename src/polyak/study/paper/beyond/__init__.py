"""Studies of what the paper leaves open, with claims to register before they run."""
