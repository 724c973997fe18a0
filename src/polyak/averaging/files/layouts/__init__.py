"""Checkpoints of other tools: what lies where in them, and what it is."""
