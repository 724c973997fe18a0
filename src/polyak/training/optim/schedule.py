"""The learning rate at every step."""

from math import cos, pi, sqrt

from polyak.training.optim.settings import OptimConfig


def learning_rate(step: int, config: OptimConfig, *, steps_per_epoch: int, epochs: int) -> float:
    """Learning rate of a step.

        lr·s/W                           for s < W      (at s = 0: 1e-8·lr)
        lr·(1 + cos(π·(s − W)/(S − W)))/2               after it, with schedule "cosine"
        lr, then lr·(1 − x) or lr·(1 − √x)              with "wsd", x the share of its decay

    Args:
        step: Step s from 0.
        config: Its settings.
        steps_per_epoch: Short last batch included.
        epochs: Length of the run; S = epochs·steps_per_epoch.

    Returns:
        A learning rate in [0, lr]; the same at any later restart, since nothing accumulates.

    Source:
        The paper's section 4.1; warm-up per step from 1e-8 is the authors' code.
    """
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return config.lr * max(step / warmup, 1e-8)
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "step":
        drops = sum(step >= epoch * steps_per_epoch for epoch in config.milestones)
        return float(config.lr / config.drop**drops)
    if config.schedule == "wsd":
        left = epochs * steps_per_epoch
        share = max(0.0, 1 - (left - step) / (config.decay_share * left))
        return config.lr * (1 - (share if config.decay_shape == "linear" else sqrt(share)))
    if config.schedule == "held":
        assert config.hold_epoch is not None
        step = min(step, config.hold_epoch * steps_per_epoch)
    share = (step - warmup) / (epochs * steps_per_epoch - warmup)
    return config.lr * cosine(share)


def cosine(share: float) -> float:
    """(1 + cos(π·share))/2: from 1 where a decay begins to 0 where it ends."""
    return (1 + cos(pi * share)) / 2
