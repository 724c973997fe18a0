"""Power-function averages that ema-pytorch and pytorch-posthoc-ema kept, read for what they are.

Both give the average after call n of `update` the decay (1 − 1/(n + 1))^(γ+1), that of one step,
but take weights in at calls 1, 1 + every, 1 + 2·every, … only. What is kept then is no average of
the width that was asked for, but one whose shares are known all the same.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path as Folder
from typing import Any

import torch
from torch import Tensor

from polyak.averaging.files.file_format import Path
from polyak.averaging.files.manifest import dtypes
from polyak.averaging.files.mixtures.checkpoints import weighted_sum
from polyak.averaging.files.mixtures.stored import STRIDE
from polyak.averaging.files.on_disk.pickles import read_pickled
from polyak.averaging.kinds import Average, PowerEMA, Update, as_average
from polyak.averaging.kinds.profiles.profile import profile
from polyak.averaging.kinds.records import to_record
from polyak.averaging.nearest import nearest_mixture, refuse_far
from polyak.averaging.saved_weights import SavedWeights
from polyak.errors import ConfigError, FileError, warn
from polyak.numbers import is_whole

_NAMED = re.compile(r"(\d+)\.(\d+)\.pt")
_PREFIX = "ema_model."
_FAR = 0.05
"""By what share of itself a width may be another before it is said aloud."""


def synthesize_post_hoc(
    folder: Path,
    average: float | Average,
    *,
    every: int,
    sigma_rels: Sequence[float] | None = None,
    gammas: Sequence[float] | None = None,
    steps: int | None = None,
    largest_error: float = 0.05,
) -> SavedWeights:
    """An average from a folder of ema-pytorch's or pytorch-posthoc-ema's `PostHocEMA`.

    Args:
        folder: Of its checkpoints, `<number>.<step>.pt`.
        average: Which one, as for `synthesize`; updates are those that took place.
        every: Its `update_every`, which no file holds; if nothing else was said, 100 in ema-pytorch
            and 10 in pytorch-posthoc-ema.
        sigma_rels: As they were given to it, in order; pytorch-posthoc-ema's files say them.
        gammas: Likewise, instead.
        steps: The moment, in calls of `update`; None for that of the latest checkpoint.
        largest_error: As for `synthesize`.

    Returns:
        The weights under the average's name, float32 where they were stored narrower.
        `.manifest["kept"]` says of each file the width that was asked for, and the real one.

    Raises:
        ConfigError: for settings outside their range, and if the expected error is too large.
        FileError: for a folder without such checkpoints, or a file that is none.

    Source:
        Written from the sources of ema-pytorch 0.8.3 and pytorch-posthoc-ema 1.0.10.
    """
    kind = as_average(average)
    if not is_whole(every, least=1):
        raise ConfigError(f"every is {every!r}; expected its update_every, a whole number >= 1.")
    kept = _checkpoints(Folder(folder), sigma_rels=sigma_rels, gammas=gammas)
    last = max(step for _, step, _ in kept)
    steps = last if steps is None else steps
    if not is_whole(steps, least=1) or steps > last:
        raise ConfigError(f"steps is {steps!r}; expected 1 to {last}, that of the latest file.")
    profiles = [kept_profile(gamma, steps=step, every=every) for _, step, gamma in kept]
    read = _reader()
    narrow = {x.dtype for x in read(kept[-1][0])["raw"].values() if x.is_floating_point()}
    rounding = max((torch.finfo(dtype).eps for dtype in narrow), default=0.0) / 2 / STRIDE
    mixture = nearest_mixture(
        wanted_profile(kind, steps=steps, every=every), profiles, rounding=rounding
    )
    widths = _say_widths(kept, profiles, every=every)
    refuse_far(kind, mixture.error, largest_error, steps=steps)
    parts = list(zip(kept, mixture.shares, strict=True))
    parts.sort(key=lambda part: (part[0][1] <= steps, part[0][1]))
    state = weighted_sum([(path, "wide", share) for (path, _, _), share in parts], read=read)
    about = {
        "tool": "polyak",
        "weights": {kind.label: "averaged"},
        "averages": {kind.label: to_record(kind)},
        "steps": steps,
        "dtypes": {kind.label: dtypes(state)},
        "kept": widths,
        "synthesis": {
            "error": mixture.error,
            "of": [[path.name, f"γ {gamma:g}", share] for (path, _, gamma), share in parts],
        },
    }
    return SavedWeights({kind.label: state}, manifest=about)


def is_post_hoc(folder: Path) -> bool:
    """Whether a folder holds checkpoints of a `PostHocEMA`, by their names."""
    return any(_NAMED.fullmatch(path.name) for path in Folder(folder).glob("*.pt"))


def kept_profile(gamma: float, *, steps: int, every: int) -> tuple[float, ...]:
    """Shares of what they keep: of the initial weights, 0, then of the weights at each update.

    Example:
        >>> [round(share, 4) for share in kept_profile(1.0, steps=3, every=1)]
        [0.0, 0.25, 0.3125, 0.4375]
    """
    kept = [(1.0 - 1.0 / (n + 1)) ** (gamma + 1.0) for n in _moments(steps, every)]
    kept[0] = 0.0  # The first update begins with a copy.
    left = list(accumulate(reversed(kept), lambda a, d: a * d, initial=1.0))
    shares = [(1.0 - d) * a for d, a in zip(reversed(kept), left, strict=False)]
    return (0.0, *reversed(shares))


def wanted_profile(kind: Average, *, steps: int, every: int) -> tuple[float, ...]:
    """Shares of an average of the weights that they took in, at the steps of these."""
    moments = _moments(steps, every)
    if kind.parts or kind.snapshots is not None:
        return profile(kind, updates=len(moments), every=every)
    weights, folded, before = [1.0], 0, 0
    for index, step in enumerate(moments):
        update = Update(index, step, step - before)
        w = kind.at_period(every).weight(update, folded)
        folded, before = kind.folded_after(update, folded, w), step
        weights.append(w)
    left = accumulate(reversed(weights), lambda a, w: a * (1.0 - w), initial=1.0)
    shares = [w * a for w, a in zip(reversed(weights), left, strict=False)]
    return tuple(reversed(shares))


def real_sigma_rel(shares: Sequence[float], *, steps: int, every: int) -> float:
    """Standard deviation of a profile over the length of the run, σ_rel."""
    places = [n / steps for n in _moments(steps, every)]
    mean = sum(s * x for s, x in zip(shares[1:], places, strict=True))
    return float(sum(s * (x - mean) ** 2 for s, x in zip(shares[1:], places, strict=True)) ** 0.5)


def _moments(steps: int, every: int) -> range:
    return range(1, steps + 1, every)


def _checkpoints(
    folder: Folder, *, sigma_rels: Sequence[float] | None, gammas: Sequence[float] | None
) -> list[tuple[Folder, int, float]]:
    """File, step and exponent of each, by step."""
    found = [
        (path, match) for path in folder.glob("*.pt") if (match := _NAMED.fullmatch(path.name))
    ]
    if not found:
        raise FileError(
            f"{os.fspath(folder)} holds no <number>.<step>.pt; expected a folder of PostHocEMA of "
            "ema-pytorch or pytorch-posthoc-ema. Check the path."
        )
    if sigma_rels is not None and gammas is not None:
        raise ConfigError("sigma_rels and gammas are both given; expected one of them.")
    given = gammas
    if sigma_rels is not None:
        given = [PowerEMA(sigma_rel=sigma).exponent for sigma in sigma_rels]
    kept = [(path, int(match[2]), _exponent(path, int(match[1]), given)) for path, match in found]
    return sorted(kept, key=lambda part: (part[1], part[0].name))


def _exponent(path: Folder, number: int, given: Sequence[float] | None) -> float:
    """γ of a checkpoint, as it was asked for."""
    if given is not None:
        if number >= len(given):
            raise ConfigError(
                f"{path} is of average {number}, and {len(given)} widths are given; expected the "
                "width of each, in the order in which PostHocEMA had them."
            )
        return float(given[number])
    content, _ = read_pickled(path)
    sigma = content.get("sigma_rel") if isinstance(content, Mapping) else None
    if not isinstance(sigma, float):
        raise ConfigError(
            f"{path} does not say its width; expected sigma_rels or gammas, as they were given to "
            "PostHocEMA. Pass them in its order."
        )
    return PowerEMA(sigma_rel=sigma).exponent


def _say_widths(
    kept: Sequence[tuple[Folder, int, float]],
    profiles: Sequence[Sequence[float]],
    *,
    every: int,
) -> list[dict[str, Any]]:
    """What was asked for and what is there, said aloud where they differ."""
    said, differing = [], []
    for (path, step, gamma), shares in zip(kept, profiles, strict=True):
        asked = ((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))) ** 0.5
        real = real_sigma_rel(shares, steps=step, every=every)
        said.append({"file": path.name, "sigma_rel": asked, "really": real})
        if abs(real / asked - 1.0) > _FAR:
            differing.append(f"{path.name} was asked for sigma_rel {asked:.3g}, is {real:.2g}")
    if differing:
        warn(
            f"{'; '.join(differing[-2:])}, since weights were taken in every {every} steps with "
            "the decay of one. They are read as what they are."
        )
    return said


def _reader() -> Callable[[Path], dict[str, dict[str, Tensor]]]:
    """What reads a checkpoint: `raw` as it is stored, `wide` in float32 at least."""

    def read(path: Path) -> dict[str, dict[str, Tensor]]:
        content, _ = read_pickled(path)
        pairs = content.items() if isinstance(content, Mapping) else ()
        raw = {
            key.removeprefix(_PREFIX): x
            for key, x in pairs
            if isinstance(key, str) and key.startswith(_PREFIX) and isinstance(x, Tensor)
        }
        if not raw:
            raise FileError(
                f"{os.fspath(path)} holds no weights of a KarrasEMA; expected a checkpoint of "
                "PostHocEMA. Leave it out."
            )
        wide = {
            key: x.to(torch.promote_types(x.dtype, torch.float32)) if x.is_floating_point() else x
            for key, x in raw.items()
        }
        return {"raw": raw, "wide": wide}

    return read
