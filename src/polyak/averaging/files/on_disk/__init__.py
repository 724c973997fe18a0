"""Weights that stay in their files until they are asked for, one tensor after the other."""
