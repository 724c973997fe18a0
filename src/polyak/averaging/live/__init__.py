"""Models that are an average, at any time: they lie in its memory."""
