"""A row that differs from another in one respect, as data."""

from dataclasses import dataclass, replace

from polyak.records.vocabulary import Selection
from polyak.study.fitting import fit_decays
from polyak.study.paper.datasets import IMAGES
from polyak.study.paper.rows import PAPER_ROWS, papers_updates
from polyak.study.plan import Row
from polyak.training.config import OptimConfig

PERIOD_DIGITS = 6
"""Decimals of decays for another period: 0.998 every 16 steps is 0.999875 every step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variation:
    """What one row has other than the row it is compared with."""

    row: str
    """Name in `PAPER_ROWS` of the row that is varied."""

    words: str
    """What is other, at the end of the row's label."""

    drops: tuple[float, ...] = ()
    """Shares of the run at which the learning rate is divided by 5. Empty: cosine."""

    bootstrap: int | None = None
    """Place in the bank, from 0, of the average that SGD goes on from after each epoch."""

    every_step: bool = False
    """Update the averages after each step, with decays d^(1/T)."""

    weight_decay: float | None = None
    selection: Selection = "paper"


def vary(base: Row, variation: Variation) -> Row:
    """The row with that one thing changed.

    Its network's name says so, which keeps the paper's numbers of the row away from it.
    """
    row = replace(
        base,
        label=f"{base.label}, {variation.words}",
        architecture=f"{base.architecture}, {variation.words}",
        against=base.label,
        transfer=(),
        follow_ups=(),
        config=replace(base.config, optim=_optim(base, variation), selection=variation.selection),
    )
    if variation.bootstrap is not None:
        name = row.config.averaging.names[variation.bootstrap]
        row = replace(row, config=replace(row.config, bootstrap=name))
    return _every_step(row, variation.row) if variation.every_step else row


def with_period(row: Row, name: str, *, every: int) -> Row:
    """The row with another period of its averages and the decays that go with it."""
    averaging = replace(row.config.averaging, every=every)
    return fit_decays(
        replace(row, config=replace(row.config, averaging=averaging), decay_digits=PERIOD_DIGITS),
        train_images=IMAGES[PAPER_ROWS[name].images].train_images,
    )


def _every_step(row: Row, name: str) -> Row:
    # As many updates as steps: fitted to them, each decay d is d^(1/T).
    return with_period(replace(row, paper_updates=papers_updates(name)), name, every=1)


def _optim(base: Row, variation: Variation) -> OptimConfig:
    optim, epochs = base.config.optim, base.config.epochs
    if variation.drops:
        milestones = tuple(round(share * epochs, 3) for share in variation.drops)
        optim = replace(optim, schedule="step", milestones=milestones, drop=5.0)
    if variation.weight_decay is not None:
        optim = replace(optim, weight_decay=variation.weight_decay)
    return optim
