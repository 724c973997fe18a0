"""Deciding on the average afterwards: one that nobody kept, from the files of those that were."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path as Folder

from polyak.averaging.files.file_format import Path, paths_of
from polyak.averaging.files.manifest import dtypes
from polyak.averaging.files.mixtures.checkpoints import (
    synthesize_from_checkpoints,
    warn_of_doubt,
    weighted_sum,
)
from polyak.averaging.files.mixtures.same_run import origin, refuse_others
from polyak.averaging.files.mixtures.stored import Stored, averages_in, read_averages
from polyak.averaging.kinds import Average, Combination, as_average
from polyak.averaging.kinds.profiles.profile import profile
from polyak.averaging.kinds.records import to_record
from polyak.averaging.nearest import nearest_mixture, refuse_far
from polyak.averaging.saved_weights import SavedWeights
from polyak.errors import ConfigError, StateError, unknown
from polyak.numbers import is_whole


def synthesize(
    files: Path | Sequence[Path],
    average: float | Average | Mapping[str, float],
    *,
    steps: int | None = None,
    rates: Sequence[float] | None = None,
    largest_error: float = 0.05,
    at: Sequence[int] | None = None,
    every: int | None = None,
) -> SavedWeights:
    """An average that was not kept, from files of one run in which others were.

    It is the mixture of stored averages that comes nearest, after `nearest_mixture`: exact where
    the stored ones allow it, else with the error that is to be expected. Five EMAs saved forty
    times in a run give most others within a thousandth at a file's moment, and slow ones within a
    hundredth between two. BatchNorm statistics are mixtures too: recompute them before use.

    Args:
        files: Of `polyak.save(averager, path)`, from any moments of one run, or checkpoints that
            hold an averager's state, in shards too; with `at`, checkpoints that any tool wrote,
            with the weights themselves.
        average: Which one; a plain number is an EMA's decay, per update. Or shares by name of the
            averages that the files hold; they sum to one, and may be negative.
        steps: The moment, in optimizer steps; None for that of the latest file.
        rates: Learning rate of every update in turn, for a better mixture; None for equal ones.
        largest_error: Largest expected error that is tolerated, as in `Mixture`, ≥ 0.
        at: Of checkpoints with raw weights, the optimizer step of each, in any order and distance.
        every: Of checkpoints, the steps between updates of the average that is wanted; None for 1.

    Returns:
        The weights under the average's name. `.manifest["synthesis"]` has the mixture: `error`, and
        `of`, a list of file, name and share. Tensors have the dtypes of the latest file before the
        moment, whole numbers its values; sums are float64, with one file in memory at a time.

    Raises:
        ConfigError: for settings outside their range, or if the expected error is too large.
        FileError: for files that `polyak.save` did not write of an averager; with `at`, for those
            without weights.
        StateError: for recomputed BatchNorm statistics, or updates at unknown steps.
        WeightMismatchError: for files of another network or with another period.
        NonFiniteError: as in `merge`.

    Source:
        Karras et al. 2024 (EDM2), section 3.2, for power-function averages.
    """
    files = paths_of(files)
    if at is not None:
        return synthesize_from_checkpoints(
            files,
            _of_checkpoints(average),
            at=at,
            steps=steps,
            rates=rates,
            every=every or 1,
            largest_error=largest_error,
        )
    if every is not None:
        raise ConfigError(f"every is {every}; expected None without at, since the files say it.")
    stored = [s for path in files for s in averages_in(path)]
    kind = _combined(average, stored) if isinstance(average, Mapping) else as_average(average)
    return synthesize_stored(stored, kind, steps=steps, rates=rates, largest_error=largest_error)


def synthesize_stored(
    stored: Sequence[Stored],
    kind: Average,
    *,
    steps: int | None = None,
    rates: Sequence[float] | None = None,
    largest_error: float = 0.05,
) -> SavedWeights:
    """`synthesize` of averages whose profiles are known, to make several of them."""
    refuse_other_runs(stored)
    every = period_of(stored)
    regular = all(s.regular for s in stored)
    if kind.depends_on_steps and not regular:
        raise StateError(
            f"updates were skipped or made by hand, and the weights in {kind.label!r} depend on "
            "when they took place; expected an EMA without warm-up, or with one by updates."
        )
    steps, updates = _moment(stored, steps, every, regular=regular)
    mixture = nearest_mixture(
        profile(kind, updates=updates, every=every),
        [s.profile for s in stored],
        rates=rates,
        rounding=max(s.rounding for s in stored),
    )
    refuse_far(kind, mixture.error, largest_error, steps=steps)
    warn_of_doubt(kind, steps)
    parts = list(zip(stored, mixture.shares, strict=True))
    # Those after the moment come first, so that the latest before it has the last word.
    parts.sort(key=lambda p: (p[0].updates <= updates, p[0].updates, os.fspath(p[0].path)))
    state = weighted_sum([(s.path, s.name, share) for s, share in parts], read=read_averages)
    about = {
        "averages": {kind.label: to_record(kind)},
        "every": every,
        "steps": steps,
        "updates": updates,
        "dtypes": {kind.label: dtypes(state)},
        "synthesis": {
            "error": mixture.error,
            "of": [[Folder(s.path).name, s.name, share] for s, share in parts],
        },
    }
    return SavedWeights({kind.label: state}, manifest={**stored[-1].manifest, **about})


def refuse_other_runs(stored: Sequence[Stored]) -> None:
    """Refuse averages that are of several runs, by what their files say or by their values."""
    manifests = {s.path: s.manifest for s in stored}
    origins = [origin(manifest) for manifest in manifests.values()]
    for k in range(2, len(origins) + 1):
        refuse_others(list(manifests)[:k], origins[:k])
    known: dict[tuple[str, int], Stored] = {}
    for s in (s for s in stored if s.digest):
        twin = known.setdefault((s.name, s.updates), s)
        if s.digest != twin.digest and s.profile == twin.profile:
            raise StateError(
                f"{os.fspath(s.path)} and {os.fspath(twin.path)} hold different weights of "
                f"{s.name!r} after {s.updates} updates; expected files of one run. Leave one out."
            )


def _combined(shares: Mapping[str, float], stored: Sequence[Stored]) -> Combination:
    """The combination of averages that have these names in the files."""
    kinds = {s.name: s.kind for s in stored}
    if not shares:
        raise ConfigError("average is {}; expected a share by name of each average in the files.")
    for name in shares:
        if name not in kinds:
            raise ConfigError(unknown("average in the files", str(name), kinds))
    return Combination([(kinds[name], share) for name, share in shares.items()])


def _of_checkpoints(average: float | Average | Mapping[str, float]) -> Average:
    if isinstance(average, Mapping):
        raise ConfigError(
            f"average is {dict(average)!r}; expected a kind, such as Annealed, since checkpoints "
            "of raw weights hold no averages by name. polyak.merge takes shares of files."
        )
    return as_average(average)


def period_of(stored: Sequence[Stored]) -> int:
    """Optimizer steps per update, the same of all."""
    if not stored:
        raise ConfigError("files hold no averages; expected at least one. Name more files.")
    found = {s.manifest["every"] for s in stored}
    if len(found) > 1:
        raise ConfigError(
            f"the files' averages were updated every {', '.join(map(str, sorted(found)))} steps; "
            "expected one period. Take the files of one averager."
        )
    every: int = found.pop()
    return every


def _moment(
    stored: Sequence[Stored], steps: int | None, every: int, *, regular: bool
) -> tuple[int, int]:
    """Optimizer steps, and the updates that had taken place after them."""
    known = {s.manifest["steps"]: s.updates for s in stored}
    last = max(known)
    if steps is None:
        return last, known[last]
    if steps in known:
        return steps, known[steps]
    if not is_whole(steps, least=0) or steps > last:
        raise ConfigError(
            f"steps is {steps!r}; expected 0 to {last}, the latest file's. Nothing is stored of "
            "what came after."
        )
    if not regular:
        raise StateError(
            f"steps is {steps}, at which there is no file, and updates were skipped or made by "
            f"hand; expected one of {', '.join(map(str, sorted(known)))}."
        )
    return steps, steps // every
