"""The user's module: its weights at this moment, lending it others, modes, shards, copies."""
