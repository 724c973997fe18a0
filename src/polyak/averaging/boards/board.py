"""Every average of one run, compared on held-out items: chosen on one half, scored on the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from polyak.averaging.boards.runs import Run
from polyak.averaging.boards.search import FAMILIES, Score, Search, Tried, half_of
from polyak.averaging.kinds import Average
from polyak.averaging.kinds.profiles.profile import contents
from polyak.averaging.nearest import check_largest_error
from polyak.averaging.saved_weights import SavedWeights
from polyak.errors import ConfigError, NonFiniteError, StateError

KEPT = "kept"
"""What stands for a kind of the average that the run has kept."""

_WIDTHS, _MOMENTS = 4, 5


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


def compare(run: Run, score: Score, *, largest_error: float = 0.05) -> Board:
    """`polyak.board`, however a run's averages are made."""
    check_largest_error(largest_error)
    search = Search(run, _losses_of(score), largest_error)
    kept = search.try_one(KEPT, run.kept, run.moments[-1])
    if kept is None:
        run.make(run.kept, run.moments[-1], largest_error)  # raises what says why
    assert kept is not None
    steps, updates = run.moments[-1], run.moments[-1] // run.every
    ratio = max(1.5, (max(8.0, updates / 2) / 3.0) ** (1.0 / (_WIDTHS - 1)))
    for family in FAMILIES:
        search.widths(family, [3.0 * ratio**k for k in range(_WIDTHS)], steps)
        if family == next(iter(FAMILIES)):
            # Not at once: what a score keeps of one average for the next shows after others only.
            search.check_repeats(kept)
    if search.calls < 3:  # the kept one, and it again
        raise ConfigError(
            f"nothing but {run.kept.label!r} can be made of what was kept, with an expected error "
            f"of at most {largest_error:g}; expected several averages of one moment, or of many. "
            "Keep shorter and longer ones, save more often, or allow the error."
        )
    _refuse_unusable(search.ranked)
    for family in search.families()[: ceil(len(FAMILIES) / 2)]:
        search.earlier(family, _spread(run.moments[:-1], _MOMENTS))
    for part in (0.5, 0.25, 0.125):
        search.refine(ratio**part, max(1, round(part * len(run.moments) / _MOMENTS)))
    return _board(run, search, largest_error)


def _losses_of(score: Score) -> Score:
    """The score, of which it is said where what it gives is no numbers."""

    def losses(state: dict[str, Tensor]) -> Tensor:
        said = score(state)
        try:
            found = torch.as_tensor(said).detach()
            if found.is_complex():
                raise TypeError("losses are complex")
            return found.double()
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"score gives a {type(said).__name__}, {said!r:.40}; expected the loss of each "
                "held-out item as a tensor or a list of numbers."
            ) from error

    return losses


def _refuse_unusable(tried: Sequence[Tried]) -> None:
    """Refuse losses that are the same of all weights, or of none finite."""
    if not tried[0].losses.isfinite().all():
        raise NonFiniteError(
            f"score gives infinity even for {tried[0].average.label!r}, the best; expected finite "
            "losses. Compute them in float32."
        )
    same = all(torch.equal(each.losses, tried[0].losses) for each in tried)
    if same and len(tried) >= _WIDTHS:
        raise StateError(
            f"score gives the same losses of {len(tried)} different averages; expected those of "
            "the weights that it is given. Load all of them into the model, with strict=True."
        )


def _board(run: Run, search: Search, largest_error: float) -> Board:
    """All that was scored, and the winner's weights."""
    ranked = search.ranked
    rows = [_row(each, ranked[0].losses, run.every) for each in ranked]
    weights, _ = run.make(ranked[0].average, ranked[0].steps, largest_error)
    [kept] = [row for row in rows if row.family == KEPT]
    return Board(tuple(rows), kept, weights, search.calls)


def _row(tried: Tried, winner: Tensor, every: int) -> Row:
    scores = half_of(len(winner), scores=True)
    apart = (tried.losses - winner)[scores]
    found = contents(tried.average, updates=tried.steps // every, every=every)
    return Row(
        tried.family,
        tried.average,
        tried.steps,
        tried.error,
        found.effective,
        tried.chosen,
        float(tried.losses[scores].mean()),
        float(apart.mean()),
        float(1.96 * apart.std() / len(apart) ** 0.5),
    )


def _spread(moments: Sequence[int], count: int) -> list[int]:
    """So many of them, spread evenly, the latest first."""
    chosen = {round(i * (len(moments) - 1) / max(1, count - 1)) for i in range(count)}
    return [moments[i] for i in sorted(chosen, reverse=True)] if moments else []
