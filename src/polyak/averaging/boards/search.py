"""The search for the best average of a run, in few scores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor

from polyak.averaging.boards.runs import Run
from polyak.averaging.kinds import EMA, Average, Combination, PowerEMA, Uniform
from polyak.averaging.kinds.profiles.profile import profile
from polyak.averaging.saved_weights import SavedWeights
from polyak.errors import ConfigError, NonFiniteError, StateError

Score = Callable[[dict[str, Tensor]], Any]
"""From a state dict to the loss of each held-out item, in the same order every time."""

MOST_SCORES = 40
_FEWEST_ITEMS = 8
"""Held out, of which half choose."""

STARTS = (0.25, 0.5)
"""Later beginnings that are tried, as shares of the moment."""

_STARTING = ("EMA", "lag-free")
"""Kinds of which they are."""

_OLD = 0.01
"""Of its shares an average has to have before half of its moment, for a later start to matter."""

FAMILIES: dict[str, Callable[[float, int, int, int], Average]] = {
    "EMA": lambda n, _steps, _every, start: EMA(
        (n - 1) / (n + 1), warmup=None, start=start, name=_named(f"ema_of_{n:.4g}", start)
    ),
    "uniform": lambda n, steps, every, _start: Uniform(
        start=max(0, (steps // every - round(n)) * every), name=f"last_{round(n)}"
    ),
    "power": lambda n, steps, every, _start: PowerEMA(
        gamma=max(0.01, 2 * steps / every / (n - 1) - 2), name=f"power_of_{n:.4g}"
    ),
    "lag-free": lambda n, _steps, _every, start: Combination.lag_free(
        n, start=start, name=_named(f"lag_free_{n:.4g}", start)
    ),
}
"""Averages with about the noise of a plain mean of n weights, by their kind: of n, a step, the
period, and the step before which an EMA copies the weights. The plain mean starts where its width
says, and a power average has next to nothing of the beginning."""


def _named(name: str, start: int) -> str:
    return f"{name}_from_{start}" if start else name


@dataclass(frozen=True, slots=True)
class Tried:
    """An average that was scored."""

    family: str
    width: float
    """Weights of a plain mean of its noise; 0 of the average that was kept."""

    average: Average
    steps: int
    error: float
    losses: Tensor
    """Of each held-out item."""

    start: float = 0.0
    """Where it begins, as a share of its steps; 0 of a plain mean, whose width says it."""

    @property
    def chosen(self) -> float:
        """Mean loss on the half that chooses."""
        return float(self.losses[half_of(len(self.losses), scores=False)].mean())


class Search:
    """What was scored so far."""

    def __init__(self, run: Run, score: Score, largest_error: float) -> None:
        self._run, self._score, self._largest_error = run, score, largest_error
        self.calls = 0
        self._tried: dict[tuple[str, int], Tried] = {}
        self._first: SavedWeights | None = None

    def try_one(
        self, family: str, kind: Average, steps: int, width: float = 0.0, start: float = 0.0
    ) -> Tensor | None:
        """Losses of an average; None if it cannot be made, or scores have run out."""
        key = (kind.label, steps)
        if key in self._tried or self.calls >= MOST_SCORES:
            return self._tried[key].losses if key in self._tried else None
        try:
            made, error = self._run.make(kind, steps, self._largest_error)
        except (ConfigError, StateError):
            return None
        self._first = self._first or made
        losses = self._losses(made)
        self._tried[key] = Tried(family, width, kind, steps, error, losses, start)
        return losses

    def _losses(self, made: Mapping[str, dict[str, Tensor]]) -> Tensor:
        [(name, state)] = made.items()
        self.calls += 1
        found = torch.as_tensor(self._score(dict(state))).detach().double().cpu().reshape(-1)
        earlier = next((x.losses for x in self._tried.values()), found)
        if len(found) < _FEWEST_ITEMS or len(found) != len(earlier):
            raise ConfigError(
                f"score gives {len(found)} losses; expected that of each held-out item, as many "
                f"every time, at least {_FEWEST_ITEMS}."
            )
        if bool(found.isnan().any()):
            raise NonFiniteError(
                f"score gives NaN for {name!r}; expected losses that are numbers. Does it "
                "recompute BatchNorm statistics?"
            )
        return found

    def check_repeats(self, losses: Tensor) -> None:
        """Refuse a score that says something else of the first weights now."""
        assert self._first is not None
        again = self._losses(self._first)
        if not torch.allclose(again, losses, rtol=1e-6, atol=1e-8):
            raise StateError(
                f"score gives {float(losses.mean()):.6g}, then {float(again.mean()):.6g} of the "
                "same weights; expected one number. Put the model in eval mode, fix what is drawn "
                "at random, and load all weights each time."
            )

    def widths(self, family: str, widths: Sequence[float], steps: int, start: float = 0.0) -> None:
        """Score a kind at several widths, begun at a share of the steps if it can be."""
        start = start if family in _STARTING else 0.0
        begin = round(start * steps)
        for n in widths:
            kind = FAMILIES[family](n, steps, self._run.every, begin)
            self.try_one(family, kind, steps, width=n, start=start)

    def starts(self) -> None:
        """Score the best with later starts, if what they leave out is some of it."""
        if (best := self._best()) is None or best.family not in _STARTING:
            return
        shares = profile(best.average, updates=best.steps // self._run.every, every=self._run.every)
        if sum(abs(share) for share in shares[: len(shares) // 2]) >= _OLD:
            for start in STARTS:
                self.widths(best.family, [best.width], best.steps, start)

    def families(self) -> list[str]:
        """Kinds, the best first."""
        best = {family: self._best(family) for family in FAMILIES}
        return sorted(FAMILIES, key=lambda family: x.chosen if (x := best[family]) else inf)

    def earlier(self, family: str, moments: Sequence[int]) -> None:
        """Score a kind's best at other moments, as wide as there for its share of the run."""
        if best := self._best(family):
            for steps in moments:
                width = max(2.0, best.width * steps / best.steps)
                self.widths(family, [width], steps, best.start)

    def refine(self, factor: float, apart: int) -> None:
        """Score what lies about the best: moments, widths, starts, then kinds at its width."""
        if (best := self._best()) is None:
            return
        moments = self._run.moments
        at = moments.index(best.steps)
        near = [k for k in (at - apart, at + apart) if 0 <= k < len(moments)]
        self.earlier(best.family, [moments[k] for k in near])
        best = self._best() or best
        widths = [max(2.0, best.width / factor), best.width * factor]
        self.widths(best.family, widths, best.steps, best.start)
        self.starts()
        best = self._best() or best
        for other in FAMILIES:
            self.widths(other, [best.width], best.steps, best.start)

    def _best(self, *families: str) -> Tried | None:
        """The best of some kinds, or of all that have a width."""
        mine = (x for x in self._tried.values() if x.family in (families or FAMILIES))
        return min(mine, key=lambda x: x.chosen, default=None)

    @property
    def ranked(self) -> list[Tried]:
        """All that was scored, the best first."""
        return sorted(self._tried.values(), key=lambda x: x.chosen)


def half_of(items: int, *, scores: bool) -> Tensor:
    """The places of the items that choose, or of those that score: the same halves every time."""
    order = torch.randperm(items, generator=torch.Generator().manual_seed(0))
    return order[items // 2 :] if scores else order[: items // 2]
