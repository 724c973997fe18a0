"""Averages as sums of all weights of a run, with shares that are written out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from runs import DECAYS, FILES, Run
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

import polyak
from polyak import EMA, Combination
from polyak.averaging.saved_weights import SavedWeights

WIDTHS, MOMENTS = 18, (25, 23, 21, 17, 13, 9, 5)
STARTS = (0.0, 0.125, 0.25, 0.5)
"""Shares of the moment."""


@dataclass(frozen=True)
class Place:
    """One of the exhaustive board."""

    family: str
    width: float
    moment: int
    start: float
    """Share of the moment before which no weights are in it."""


def places(run: Run) -> Iterator[Place]:
    """18 widths from 3 weights to 0.6 of the run, seven moments, four kinds, four starts of EMAs.

    504 have none of the starts but 0: a plain mean has only that of its width, a power average
    next to nothing of the beginning.
    """
    ratio = (0.6 * run.steps / 3.0) ** (1.0 / (WIDTHS - 1))
    for moment in (run.steps * k // FILES for k in MOMENTS):
        for family in ("EMA", "uniform", "power", "lag-free"):
            for n in (3.0 * ratio**k for k in range(WIDTHS)):
                starts = STARTS if family in ("EMA", "lag-free") else STARTS[:1]
                yield from (Place(family, n, moment, start) for start in starts)


def shares(place: Place) -> Tensor:
    """Of the weights after 0, 1, … updates, float64."""
    n, m = place.width, place.moment
    s = round(place.start * m)
    if place.family == "EMA":
        return _of_ema((n - 1) / (n + 1), m, s)
    if place.family == "lag-free":
        parts = [c * _of_ema(kind.decay, m, s) for kind, c in Combination.lag_free(n).of]
        return torch.stack(parts).sum(dim=0)
    found = torch.zeros(m + 1, dtype=torch.float64)
    if place.family == "uniform":
        begun = max(0, m - round(n))
        found[begun + 1 :] = 1.0 / (m - begun)
        return found
    gamma = max(0.01, 2 * m / (n - 1) - 2)
    found[1:] = (torch.arange(m + 1.0, dtype=torch.float64) / m).pow(gamma + 1.0).diff()
    return found


def _of_ema(decay: float, moment: int, start: int) -> Tensor:
    found = (1.0 - decay) * decay ** (moment - torch.arange(moment + 1.0, dtype=torch.float64))
    found[:start] = 0.0
    found[start] = decay ** (moment - start)
    return found


class Written:
    """What a board asks for, as written-out sums; each is made and scored once."""

    every = 1

    def __init__(self, run: Run, model: nn.Module, weights: Tensor, x: Tensor, y: Tensor) -> None:
        self.moments = [run.steps * k // FILES for k in range(1, FILES + 1)]
        self.kept = EMA(DECAYS[-1], None)
        self._model, self._weights, self._x, self._y = model.eval(), weights, x, y
        self._made: dict[tuple[str, int], SavedWeights] = {}
        self._known: dict[int, Tensor] = {}

    def make(self, kind: polyak.Average, steps: int, _error: float) -> tuple[SavedWeights, float]:
        key = (kind.label, steps)
        if key not in self._made:
            own = torch.tensor(polyak.profile(kind, updates=steps), dtype=torch.float32)
            state = self.state(own @ self._weights[: steps + 1])
            self._made[key] = SavedWeights({kind.label: state}, manifest={})
        return self._made[key], 0.0

    def state(self, flat: Tensor) -> dict[str, Tensor]:
        named = list(self._model.named_parameters())
        parts = flat.split([p.numel() for _, p in named])
        return {n: x.reshape(p.shape) for (n, p), x in zip(named, parts, strict=True)}

    @torch.no_grad()
    def losses(self, state: dict[str, Tensor], items: Tensor | slice = slice(None)) -> Tensor:
        """Of the held-out items, or of some."""
        logits = functional_call(self._model, state, (self._x[items],))
        return cross_entropy(logits, self._y[items], reduction="none").double()

    def score(self, chosen: Tensor) -> Callable[[dict[str, Tensor]], Tensor]:
        """A score of these items for `compare`, of averages that `make` has made."""

        def known(state: dict[str, Tensor]) -> Tensor:
            key = next(iter(state.values())).data_ptr()
            if key not in self._known:
                self._known[key] = self.losses(state)
            return self._known[key][chosen]

        return known

    def everything(self, run: Run, items: Tensor) -> tuple[list[Place], Tensor, Tensor]:
        """The exhaustive board: weights, flat, and losses of the items that choose."""
        all_places = list(places(run))
        own = torch.zeros(len(all_places), run.steps + 1)
        for row, place in zip(own, all_places, strict=True):
            row[: place.moment + 1] = shares(place)
        made = own @ self._weights
        found = [self.losses(self.state(flat), items) for flat in made]
        return all_places, made, torch.stack(found).mean(dim=1)
