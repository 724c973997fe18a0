"""What averages are made of: shares of past weights, in full, in a few numbers and in words."""
