"""The search looks where something may be found: a later start only of what has a beginning."""

import pytest
import torch

from polyak import EMA
from polyak.averaging.boards import search
from polyak.averaging.boards.board import compare
from polyak.averaging.kinds.profiles.profile import contents, profile
from polyak.averaging.saved_weights import SavedWeights

ITEMS, STEPS = 400, 400


class Run:
    """Weights of which only the shares are known, and how much those before a step cost."""

    every, moments, kept = 1, list(range(40, STEPS + 1, 40)), EMA(0.99, None)

    def __init__(self, *, best_noise, until):
        self.best_noise, self.until = best_noise, until

    def make(self, kind, steps, _error):
        old = sum(map(abs, profile(kind, updates=steps)[: self.until]))
        noise = torch.tensor(self.best_noise / contents(kind, updates=steps).effective).log()
        off = torch.tensor([30 * old, float(noise), (STEPS - steps) / 40])
        return SavedWeights({kind.label: {"off": off}}, manifest={}), 0.0


def score(state):
    return state["off"].square().sum().expand(ITEMS)


def starts(row):
    """Where the EMAs of an average begin."""
    parts = row.average.parts or ((row.average, 1.0),)
    return {kind.start for kind, _ in parts if isinstance(kind, EMA)}


def test_an_average_that_begins_later_wins_where_its_beginning_is_bad(monkeypatch):
    run = Run(best_noise=250, until=60)
    # A plain mean leaves the beginning out by its width, a power average by its form.
    for other in ("uniform", "power"):
        monkeypatch.delitem(search.FAMILIES, other)
    found = compare(run, score)
    assert found.scores <= 40
    assert starts(found.best) in ({100}, {200})
    monkeypatch.setattr(search, "STARTS", ())
    assert compare(run, score).best.scored > 1.25 * found.best.scored


@pytest.mark.parametrize("best_noise", [5, 12])
def test_no_start_is_tried_of_what_has_no_beginning(best_noise):
    found = compare(Run(best_noise=best_noise, until=0), score)
    assert {start for row in found.rows for start in starts(row)} == {0}
