"""Sums of the weights in files: which shares, and are they of one network?"""
