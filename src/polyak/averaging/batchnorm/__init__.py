"""BatchNorm statistics for given weights, in one pass over the data."""
