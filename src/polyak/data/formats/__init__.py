"""Decoders of what data comes in: files and tables to images and labels."""
