"""The commands of `polyak`, one file each."""
