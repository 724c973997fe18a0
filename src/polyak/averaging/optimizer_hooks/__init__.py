"""Counting the steps of optimizers that took place, each once."""
