"""Every average of one run, compared on held-out items."""
