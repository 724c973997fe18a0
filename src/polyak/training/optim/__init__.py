"""Settings of the optimiser, its learning rate at every step; `optimizers` needs torch."""

from polyak.training.optim.schedule import cosine, learning_rate
from polyak.training.optim.settings import OptimConfig, unknown_settings

__all__ = ["OptimConfig", "cosine", "learning_rate", "unknown_settings"]
