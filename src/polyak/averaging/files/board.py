"""Every average of one run, compared on held-out items: chosen on one half, scored on the other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Protocol

import torch
from torch import Tensor

from polyak.averaging.averager import Averager
from polyak.averaging.files.averages import SavedWeights
from polyak.averaging.files.file_format import Path
from polyak.averaging.files.mixtures.checkpoints import refuse_far
from polyak.averaging.files.mixtures.nearest import nearest_mixture
from polyak.averaging.files.mixtures.stored import averages_in
from polyak.averaging.files.mixtures.synthesize import synthesize_stored
from polyak.averaging.kinds import EMA, Average, Combination, PowerEMA, Uniform
from polyak.averaging.kinds.profiles.profile import contents, profile
from polyak.averaging.kinds.records import from_record, is_whole, to_record
from polyak.errors import ConfigError, NonFiniteError, StateError

Score = Callable[[dict[str, Tensor]], Any]
"""From a state dict to the loss of each held-out item, in the same order every time."""

MOST_SCORES = 40
_WIDTHS, _MOMENTS = 4, 5
_FEWEST = 8
"""Held-out items, of which half choose, and updates of a run."""

FAMILIES: dict[str, Callable[[float, int, int], Average]] = {
    "EMA": lambda n, _steps, _every: EMA((n - 1) / (n + 1), warmup=None, name=f"ema_of_{n:.4g}"),
    "uniform": lambda n, steps, every: Uniform(
        start=max(0, (steps // every - round(n)) * every), name=f"last_{round(n)}"
    ),
    "power": lambda n, steps, every: PowerEMA(
        gamma=max(0.01, 2 * steps / every / (n - 1) - 2), name=f"power_of_{n:.4g}"
    ),
    "lag-free": lambda n, _steps, _every: Combination.lag_free(n, name=f"lag_free_{n:.4g}"),
}
"""Averages with about the noise of a plain mean of n weights, at a step, by their kind."""


@dataclass(frozen=True, slots=True)
class Row:
    """One average on the board."""

    family: str
    average: Average
    steps: int
    error: float
    """Expected of the synthesis, as in `Mixture`."""

    effective: float
    """1/Σ shares², which is the width of the curve."""

    chosen: float
    """Mean loss on the half that chooses."""

    scored: float
    """Mean loss on the other half."""

    behind: float
    """Mean over that half of its loss − the winner's."""

    interval: float
    """Half of the 95 % interval of `behind`."""


@dataclass(frozen=True, slots=True)
class Board:
    """What was compared, the best first by the half that chooses."""

    rows: tuple[Row, ...]
    kept: Row
    """The widest average that was kept, at the latest moment."""

    weights: SavedWeights
    """The winner's, as `synthesize` gives them."""

    scores: int
    """How often the score was called."""

    @property
    def best(self) -> Row:
        """The winner."""
        return self.rows[0]

    def __str__(self) -> str:
        head = f"{'average':<18} {'step':>8} {'weights':>9} {'loss':>9}  behind the best"
        lines = [
            f"{row.average.label:<18} {row.steps:>8} {row.effective:>9.4g} {row.scored:>9.4f}  "
            f"{row.behind:+.4f} ± {row.interval:.4f}"
            for row in self.rows
        ]
        cost = f"{self.kept.behind:+.4f} ± {self.kept.interval:.4f}"
        last = f"{self.kept.average.label}, which was kept, costs {cost} against the best"
        return "\n".join([head, *lines, last])


def board(source: Sequence[Path] | Averager, score: Score, *, largest_error: float = 0.05) -> Board:
    """Compare averages of one run by kind, width and moment, in at most 40 scores.

    Four widths of each kind come first, then widths about the best of the better half of the
    kinds; those at earlier moments, as wide for their share of the run; then what lies about the
    best, by moment, width and kind, in narrower steps. One half of the held-out items
    decides; losses that are shown are of the other, which has decided nothing.

    Args:
        source: Files of `polyak.save(averager, path)` of one run, or an averager, of which only
            the present moment can be had.
        score: From a state dict to the loss of each held-out item, at least 8, lower is better,
            the same each time it is called. It recomputes BatchNorm statistics itself.
        largest_error: As for `synthesize`; averages that are expected to be farther off are left
            out.

    Raises:
        ConfigError: for losses that are too few or no list, or if no average can be made.
        NonFiniteError: for a loss that is NaN.
        StateError: for a score that says something else of the same weights.

    Source:
        Successive halving: Jamieson & Talwalkar 2016. Its form here: ours.
    """
    run = _Averager(source) if isinstance(source, Averager) else _Files(source)
    return compare(run, score, largest_error=largest_error)


class Run(Protocol):
    """Of what a board is made."""

    every: int
    moments: list[int]
    """Optimizer steps at which averages can be had, rising."""

    kept: Average
    """That with which all are compared."""

    def make(self, kind: Average, steps: int, largest_error: float) -> tuple[SavedWeights, float]:
        """An average under its name, with its expected error; ConfigError if there is none."""


def compare(run: Run, score: Score, *, largest_error: float = 0.05) -> Board:
    """`board`, however a run's averages are made."""
    search = _Search(run, score, largest_error)
    kept = search.try_one("kept", run.kept, run.moments[-1])
    if kept is None:
        raise ConfigError(
            f"{run.kept.label!r} cannot be made of what was kept; expected files of one run. "
            "`polyak inspect` says what they hold."
        )
    search.check_repeats(kept)
    steps, updates = run.moments[-1], run.moments[-1] // run.every
    ratio = max(1.5, (max(8.0, updates / 2) / 3.0) ** (1.0 / (_WIDTHS - 1)))
    for family in FAMILIES:
        search.widths(family, [3.0 * ratio**k for k in range(_WIDTHS)], steps)
    better = search.families()[: ceil(len(FAMILIES) / 2)]
    for family in better:
        search.about(family, [ratio**p for p in (-0.5, 0.5)], steps)
    for family in better:
        search.earlier(family, _spread(run.moments[:-1], _MOMENTS))
    for part in (0.5, 0.25, 0.125):
        search.refine(ratio**part, max(1, round(part * len(run.moments) / _MOMENTS)))
    return search.board(kept)


class _Files:
    """What can be made of files."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._stored = stored = [s for path in files for s in averages_in(path)]
        if not stored:
            raise ConfigError("files hold no averages; expected at least one. Name more files.")
        self.every: int = stored[0].manifest["every"]
        self.moments = sorted({s.manifest["steps"] for s in stored if s.manifest["steps"]})
        latest = [s for s in stored if s.manifest["steps"] == max(self.moments, default=0)]
        if not latest or latest[0].updates < _FEWEST:
            raise ConfigError(
                f"files reach to fewer than {_FEWEST} updates; expected a run to choose from."
            )
        self.kept = min(latest, key=lambda s: _squares(s.profile)).kind

    def make(self, kind: Average, steps: int, largest_error: float) -> tuple[SavedWeights, float]:
        found = synthesize_stored(self._stored, kind, steps=steps, largest_error=largest_error)
        return found, found.manifest["synthesis"]["error"]


class _Averager:
    """What can be made of a bank now."""

    def __init__(self, averager: Averager) -> None:
        self._bank, self.every = averager, averager.every
        if averager.updates < _FEWEST:
            raise ConfigError(
                f"the averager has made {averager.updates} updates; expected at least {_FEWEST}."
            )
        self._profiles = {name: averager.profile(name) for name in averager.names}
        self.moments = [averager.updates * averager.every]
        records = averager.state_dict()["averages"]
        kinds = {name: from_record(x) for name, x in records.items() if is_whole(x)}
        if not kinds:
            raise ConfigError(
                "the averager keeps averages with code of yours alone; expected one of polyak's "
                "kinds beside them."
            )
        self.kept = kinds[min(kinds, key=lambda name: _squares(self._profiles[name]))]

    def make(self, kind: Average, steps: int, largest_error: float) -> tuple[SavedWeights, float]:
        wanted = profile(kind, updates=self._bank.updates, every=self.every)
        mixture = nearest_mixture(wanted, list(self._profiles.values()), rounding=1e-4)
        refuse_far(kind, mixture.error, largest_error, steps=steps)
        shares = dict(zip(self._profiles, mixture.shares, strict=True))
        state = self._bank.combine(shares, statistics="current")
        about = {
            "tool": "polyak",
            "averages": {kind.label: to_record(kind)},
            "synthesis": {
                "error": mixture.error,
                "of": [["averager", name, share] for name, share in shares.items()],
            },
        }
        return SavedWeights({kind.label: state}, manifest=about), mixture.error


class _Search:
    """What was scored so far."""

    def __init__(self, run: Run, score: Score, largest_error: float) -> None:
        self._run, self._score, self._largest_error = run, score, largest_error
        self.calls = 0
        self._tried: dict[tuple[str, int], tuple[str, float, Average, int, float, Tensor]] = {}
        self._first: SavedWeights | None = None

    def try_one(self, family: str, kind: Average, steps: int, width: float = 0.0) -> Tensor | None:
        """Losses of an average; None if it cannot be made, or scores have run out."""
        key = (kind.label, steps)
        if key in self._tried or self.calls >= MOST_SCORES:
            return self._tried[key][-1] if key in self._tried else None
        try:
            made, error = self._run.make(kind, steps, self._largest_error)
        except (ConfigError, StateError):
            return None
        self._first = self._first or made
        losses = self._losses(made)
        self._tried[key] = (family, width, kind, steps, error, losses)
        return losses

    def _losses(self, made: Mapping[str, dict[str, Tensor]]) -> Tensor:
        [(name, state)] = made.items()
        self.calls += 1
        found = torch.as_tensor(self._score(dict(state))).detach().double().cpu().reshape(-1)
        earlier = next((x[-1] for x in self._tried.values()), found)
        if len(found) < _FEWEST or len(found) != len(earlier):
            raise ConfigError(
                f"score gives {len(found)} losses; expected that of each held-out item, as many "
                f"every time, at least {_FEWEST}."
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

    def widths(self, family: str, widths: Sequence[float], steps: int) -> None:
        """Score a kind at several widths."""
        for n in widths:
            kind = FAMILIES[family](n, steps, self._run.every)
            self.try_one(family, kind, steps, width=n)

    def about(self, family: str, factors: Sequence[float], steps: int) -> None:
        """Score a kind at widths near its best."""
        mine = [x for x in self._tried.values() if x[0] == family]
        if mine:
            best = min(mine, key=lambda x: _chosen(x[-1]))
            self.widths(family, [max(2.0, best[1] * f) for f in factors], steps)

    def families(self) -> list[str]:
        """Kinds, the best first."""
        best = {
            family: min(
                (_chosen(x[-1]) for x in self._tried.values() if x[0] == family),
                default=float("inf"),
            )
            for family in FAMILIES
        }
        return sorted(best, key=best.__getitem__)

    def earlier(self, family: str, moments: Sequence[int]) -> None:
        """Score a kind's best at other moments, as wide as there for its share of the run."""
        mine = [x for x in self._tried.values() if x[0] == family]
        if mine:
            _, width, _, at, *_ = min(mine, key=lambda x: _chosen(x[-1]))
            for steps in moments:
                self.widths(family, [max(2.0, width * steps / at)], steps)

    def refine(self, factor: float, apart: int) -> None:
        """Score what lies about the best: other moments, then widths, then kinds at its width."""
        if not any(x[0] in FAMILIES for x in self._tried.values()):
            return
        moments = self._run.moments
        at = moments.index(self._best()[3])
        near = [k for k in (at - apart, at + apart) if 0 <= k < len(moments)]
        self.earlier(self._best()[0], [moments[k] for k in near])
        family, width, _, steps, *_ = self._best()
        self.widths(family, [max(2.0, width / factor), width * factor], steps)
        _, width, _, steps, *_ = self._best()
        for other in FAMILIES:
            self.widths(other, [width], steps)

    def _best(self) -> Any:
        """The best of the kinds that have a width."""
        mine = (x for x in self._tried.values() if x[0] in FAMILIES)
        return min(mine, key=lambda x: _chosen(x[-1]))

    def board(self, kept: Tensor) -> Board:
        """All of it, and the winner's weights."""
        ordered = sorted(self._tried.values(), key=lambda x: _chosen(x[-1]))
        winner = ordered[0][-1]
        rows = [self._row(*x, winner) for x in ordered]
        weights, _ = self._run.make(rows[0].average, rows[0].steps, self._largest_error)
        [mine] = [r for r in rows if r.family == "kept" and r.steps == self._run.moments[-1]]
        return Board(tuple(rows), mine, weights, self.calls)

    def _row(
        self,
        family: str,
        width: float,
        kind: Average,
        steps: int,
        error: float,
        losses: Tensor,
        winner: Tensor,
    ) -> Row:
        apart = (losses - winner)[_half(len(losses), scores=True)]
        found = contents(kind, updates=steps // self._run.every, every=self._run.every)
        return Row(
            family,
            kind,
            steps,
            error,
            found.effective,
            _chosen(losses),
            float(losses[_half(len(losses), scores=True)].mean()),
            float(apart.mean()),
            float(1.96 * apart.std() / len(apart) ** 0.5),
        )


def _squares(profile: Sequence[float]) -> float:
    return sum(share * share for share in profile)


def _chosen(losses: Tensor) -> float:
    return float(losses[_half(len(losses), scores=False)].mean())


def _half(items: int, *, scores: bool) -> Tensor:
    """The places of the items that choose, or of those that score: the same halves every time."""
    order = torch.randperm(items, generator=torch.Generator().manual_seed(0))
    return order[items // 2 :] if scores else order[: items // 2]


def _spread(moments: Sequence[int], count: int) -> list[int]:
    """So many of them, spread evenly, the latest first."""
    chosen = {round(i * (len(moments) - 1) / max(1, count - 1)) for i in range(count)}
    return [moments[i] for i in sorted(chosen, reverse=True)] if moments else []
