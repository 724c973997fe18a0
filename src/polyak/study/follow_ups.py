"""Runs that the paper's protocol does not need and its conclusions do: they follow the choice.

held       the search's run again, its learning rate held from EMA (acc.)'s epoch on: does time or
           the decay of the learning rate end the average's lead?
annealed   the refit with a cosine that ends at that epoch: what SGD makes of the same budget, and
           what an average gains on the shorter schedule; without refits the search likewise
"""

from collections.abc import Mapping
from dataclasses import replace
from math import ceil, floor

from polyak.records.studies import RowRecord
from polyak.records.vocabulary import FollowUp, Stop
from polyak.study import plan
from polyak.study.plan import Row
from polyak.training.config import RunConfig

Stops = tuple[Stop, ...]


def follow_ups(row: Row, record: RowRecord) -> dict[FollowUp, dict[int, RunConfig]]:
    """The row's runs that follow its choice, by name and seed; empty before it."""
    build = {"held": held, "annealed": annealed}
    found: dict[FollowUp, dict[int, RunConfig]] = {}
    for seed, stops in stops_of(record).items():
        learning_rate = record.learning_rate_of(str(seed))
        if learning_rate is not None:
            for name in row.follow_ups:
                found.setdefault(name, {}).update(build[name](row, learning_rate, {seed: stops}))
    return found


def stops_of(record: RowRecord) -> dict[int, Stops]:
    """A row's choice by seed."""
    return {int(seed): stops for seed, stops in record.stops.items()}


def held(row: Row, learning_rate: float, stops: Mapping[int, Stops]) -> dict[int, RunConfig]:
    """The search again, its learning rate held at what it is at each seed's epoch of EMA (acc.).

    Where that epoch lies in warm-up, from the end of warm-up on.
    """
    searched = _searched(row, learning_rate)
    return {
        seed: replace(
            searched[seed],
            optim=replace(
                searched[seed].optim,
                schedule="held",
                hold_epoch=max(_epoch(chosen), ceil(row.config.optim.warmup_epochs)),
            ),
        )
        for seed, chosen in stops.items()
    }


def annealed(row: Row, learning_rate: float, stops: Mapping[int, Stops]) -> dict[int, RunConfig]:
    """The row's runs again with as many epochs, and a cosine as long, as EMA (acc.) needed.

    Of a refit the shorter run's own stops lie at the same shares of it, rounded, so that nothing
    is chosen anew:

        e' = max(1, round(e·e_acc/E)),   E epochs of the whole schedule

    In a row without refits it is the search that is shortened, and its own hold-out chooses.
    """
    runs = plan.refit(row, learning_rate, stops) if row.refits else _searched(row, learning_rate)
    return {seed: _shortened(runs[seed], _epoch(chosen)) for seed, chosen in stops.items()}


def _searched(row: Row, learning_rate: float) -> dict[int, RunConfig]:
    """The search's runs at a learning rate, by seed."""
    return plan.search(replace(row, learning_rates=(learning_rate,)))[learning_rate]


def _shortened(run: RunConfig, epochs: int) -> RunConfig:
    epochs = max(epochs, floor(run.optim.warmup_epochs) + 1)
    stops = tuple(
        replace(stop, epoch=max(1, round(stop.epoch * epochs / run.epochs))) for stop in run.stops
    )
    return replace(run, epochs=epochs, stops=stops)


def _epoch(stops: Stops) -> int:
    """The epoch of EMA (acc.)."""
    return next(stop.epoch for stop in stops if stop.rule == "acc")
