"""Decays for runs of another length than the paper's."""

from dataclasses import replace

from polyak.averaging.kinds.lengths import REFERENCE_UPDATES, fitted_decays
from polyak.errors import ConfigError
from polyak.study.plan import Row
from polyak.training.config import PAPER_DECAYS

PAPER_UPDATES = REFERENCE_UPDATES
"""Updates of the paper's run on CIFAR-10."""


def fit_decays(row: Row, *, train_images: int) -> Row:
    """The row with its decays fitted to the length that its runs have with so many images.

    Only where `paper_updates` says from which length; else as it is.

    Raises:
        ConfigError: if that is too short for decays that differ.
    """
    if row.paper_updates is None:
        return row
    config = row.config
    length = updates(
        config.data.train_limit or train_images,
        batch_size=config.batch_size,
        epochs=config.epochs,
        every=config.averaging.every,
    )
    try:
        decays = scaled_decays(
            length,
            paper=row.paper_decays,
            paper_updates=row.paper_updates,
            digits=row.decay_digits,
        )
    except ConfigError as error:
        raise ConfigError(f"{row.label}: {error}") from error
    averaging = replace(config.averaging, decays=decays)
    names = dict(zip(config.averaging.names, averaging.names, strict=True))
    bootstrap = None if config.bootstrap is None else names[config.bootstrap]
    return replace(row, config=replace(config, averaging=averaging, bootstrap=bootstrap))


def updates(images: int, *, batch_size: int, epochs: int, every: int) -> int:
    """Updates of the averages in a whole run.

    Example:
        >>> updates(50_000, batch_size=128, epochs=200, every=16)
        4887
    """
    return epochs * -(-images // batch_size) // every


def scaled_decays(
    updates: int,
    *,
    paper: tuple[float, ...] = PAPER_DECAYS,
    paper_updates: int = PAPER_UPDATES,
    digits: int = 3,
) -> tuple[float, ...]:
    """The paper's decays for a run of another length: each keeps its share of the run.

        d' = d^(U_paper/U),   U updates in the whole run

    Args:
        updates: U, at least 1.
        paper: The paper's decays d.
        paper_updates: U_paper, of its run on the same data set.
        digits: Decimals kept, so that names stay readable.

    Raises:
        ConfigError: if U is so small that decays become equal.

    Source:
        Ours; `polyak.averaging.kinds.lengths` has the rule, which the plug-in offers, too.

    Example:
        >>> scaled_decays(540)
        (0.745, 0.864, 0.93, 0.964, 0.982)
    """
    return fitted_decays(paper, updates=updates, reference=paper_updates, digits=digits)
