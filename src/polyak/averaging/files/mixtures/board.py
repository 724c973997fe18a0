"""Every average that can be made of the files of a run, compared on held-out items."""

from collections.abc import Sequence
from math import gcd

from polyak.averaging.averager import Averager
from polyak.averaging.boards.board import Board, compare
from polyak.averaging.boards.runs import FEWEST_UPDATES, widest
from polyak.averaging.boards.search import Score
from polyak.averaging.files.file_format import Path, paths_of
from polyak.averaging.files.mixtures.checkpoints import moments_of, synthesize_from_checkpoints
from polyak.averaging.files.mixtures.stored import Stored, averages_in
from polyak.averaging.files.mixtures.synthesize import (
    period_of,
    refuse_other_runs,
    synthesize_stored,
)
from polyak.averaging.kinds import EMA, Average
from polyak.averaging.saved_weights import SavedWeights
from polyak.errors import ConfigError


def board(
    source: Path | Sequence[Path] | Averager,
    score: Score,
    *,
    largest_error: float = 0.05,
    at: Sequence[int] | None = None,
) -> Board:
    """Compare averages of one run by kind, width, start and stop, in at most 40 scores.

    Four widths of each kind come first; then the better half of the kinds at earlier moments, as
    wide for their share of the run; then what lies about the best, by moment, width and kind, in
    narrower steps. The best EMA also begins a quarter and a half of the way to its moment, if it
    has a hundredth of its shares before that half. One half of the held-out items decides; losses
    that are shown are of the other, which has decided nothing.

    Args:
        source: Files of `polyak.save(averager, path)` of one run, or an averager, of which only
            the present moment can be had. Of a run of the laboratory see `polyak.runs.board`.
        score: From a state dict to the loss of each held-out item, at least 8, lower is better,
            the same each time it is called. It recomputes BatchNorm statistics itself.
        largest_error: As for `synthesize`; averages that are expected to be farther off are left
            out.
        at: Of checkpoints with raw weights, of any tool, the optimizer step of each. Widths are
            then counted in their greatest common divisor, which is the distance of regular ones.

    Raises:
        ConfigError: for losses that are too few or no list, or if no average can be made.
        NonFiniteError: for a loss that is NaN.
        StateError: for a score that says something else of the same weights.

    Source:
        Successive halving: Jamieson & Talwalkar 2016. Its form here: ours.
    """
    if isinstance(source, Averager) and at is not None:
        raise ConfigError("at is given with an averager; expected it with checkpoints.")
    if isinstance(source, Averager):
        return source.board(score, largest_error=largest_error)
    if at is not None:
        return compare(RunInCheckpoints(paths_of(source), at), score, largest_error=largest_error)
    stored = [s for path in paths_of(source) for s in averages_in(path)]
    return compare(RunInFiles(stored), score, largest_error=largest_error)


class RunInCheckpoints:
    """What can be made of raw weights; they are compared with the latest of them."""

    def __init__(self, files: Sequence[Path], at: Sequence[int]) -> None:
        moments_of(files, at, every=1)
        self.every = gcd(*at)
        self.moments = sorted(at)
        self._files, self._at = files, at
        self.kept: Average = EMA(0.0, warmup=None, name="raw")
        if self.moments[-1] // self.every < FEWEST_UPDATES:
            raise ConfigError(
                f"at is {list(at)!r}; expected a run to choose from, of {FEWEST_UPDATES} distances "
                "between checkpoints at least."
            )

    def make(self, kind: Average, steps: int, largest_error: float) -> tuple[SavedWeights, float]:
        found = synthesize_from_checkpoints(
            self._files,
            kind,
            at=self._at,
            steps=steps,
            rates=None,
            every=self.every,
            largest_error=largest_error,
        )
        return found, found.manifest["synthesis"]["error"]


class RunInFiles:
    """What can be made of averages that lie in files."""

    def __init__(self, stored: Sequence[Stored]) -> None:
        self._stored = stored
        if not stored:
            raise ConfigError("files hold no averages; expected at least one. Name more files.")
        refuse_other_runs(stored)
        self.every = period_of(stored)
        self.moments = sorted({s.manifest["steps"] for s in stored if s.manifest["steps"]})
        latest = [s for s in stored if s.manifest["steps"] == max(self.moments, default=0)]
        if not latest or latest[0].updates < FEWEST_UPDATES:
            raise ConfigError(
                f"files reach to fewer than {FEWEST_UPDATES} updates; expected a run to choose "
                "from."
            )
        self.kept = latest[widest({k: s.profile for k, s in enumerate(latest)})].kind

    def make(self, kind: Average, steps: int, largest_error: float) -> tuple[SavedWeights, float]:
        found = synthesize_stored(self._stored, kind, steps=steps, largest_error=largest_error)
        return found, found.manifest["synthesis"]["error"]
