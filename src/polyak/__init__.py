"""Weight averaging for PyTorch, and the laboratory that shows what it buys."""

__version__ = "0.1.0"
