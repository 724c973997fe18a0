"""Text as bytes: files, cut into windows, that make a data set."""
