"""The contract between stages: what lies in an output folder, written atomically."""
