"""Weights in files: our own, other tools', and means and mixtures of several."""
