"""The referee: which of the paper's claims a study's runs bear out, and which they do not."""
