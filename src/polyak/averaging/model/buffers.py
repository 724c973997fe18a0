"""What an averager does with each buffer: average it, copy it, or read it from the model."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Literal

from polyak.errors import ConfigError, few

Treatment = Literal["average", "copy", "live"]
Buffers = Literal["average", "copy"] | Mapping[str, Treatment]

_DEFAULT = "*"


def normalised(buffers: Buffers) -> Buffers:
    """The setting as it is kept: a mapping that only has a default is that word.

    Example:
        >>> normalised({"*": "copy"}), normalised({})
        ('copy', 'average')
    """
    if isinstance(buffers, str):
        return buffers
    if not buffers.keys() - {_DEFAULT}:
        default = buffers.get(_DEFAULT, "average")
        return default if default != "live" else dict(buffers)
    return dict(buffers)


def treatment(buffers: Buffers, name: str) -> Treatment:
    """What is done with a buffer: what its name says, else the last pattern that matches it.

    What no pattern matches is treated as the key "*" says, wherever that stands, else averaged.

    Example:
        >>> rules = {"*": "copy", "*.running_*": "average", "stem.*": "live"}
        >>> treatment(rules, "1.running_mean"), treatment(rules, "stem.running_mean")
        ('average', 'live')
    """
    return named(buffers, name) or (
        buffers if isinstance(buffers, str) else buffers.get(_DEFAULT, "average")
    )


def named(buffers: Buffers, name: str) -> Treatment | None:
    """The same without the default: None where nothing but that is said of `name`."""
    if isinstance(buffers, str):
        return None
    if name in buffers:
        return buffers[name]
    matching = [how for key, how in buffers.items() if key != _DEFAULT and fnmatchcase(name, key)]
    return matching[-1] if matching else None


def refuse_unmatched(buffers: Buffers, names: Collection[str]) -> None:
    """Refuse patterns that match none of a model's buffers and frozen parameters.

    Raises:
        ConfigError: with the names that are nearest.
    """
    if isinstance(buffers, str):
        return
    for pattern in buffers.keys() - {_DEFAULT}:
        if not any(fnmatchcase(name, pattern) or name == pattern for name in names):
            nearest = get_close_matches(pattern, names, n=3, cutoff=0.4)
            raise ConfigError(
                f"buffers has {pattern!r}, which matches none; expected names or patterns of "
                "buffers, or of parameters that do not train, as in state_dict(). "
                f"{'The nearest are' if nearest else 'There are'} {few(nearest or names)}."
            )


def is_unaveraged(name: str, names: Collection[str]) -> bool:
    """Whether a buffer belongs to another weight so that a mean of it is no longer what it was.

    Masks of `torch.nn.utils.prune`, and the vectors of spectral norm: means of unit vectors are
    shorter, which makes the layer's norm larger than 1.

    Args:
        name: The buffer's.
        names: All that come before it in `state_dict()`, such as the weight that it belongs to.
    """
    for ending in ("_mask", "_u", "_v"):
        if name.endswith(ending) and f"{name.removesuffix(ending)}_orig" in names:
            return True
    # <module>.parametrizations.<weight>.<number>._u
    parts = name.rsplit(".", 4)
    return (
        len(parts) >= 4
        and parts[-1] in ("_u", "_v")
        and parts[-4] == "parametrizations"
        and f"{'.'.join(parts[:-2])}.original" in names
    )


def described(buffers: Mapping[str, Treatment]) -> str:
    """What is done by name, in words.

    Example:
        >>> described({"*": "copy", "*.running_*": "average"})
        '*.running_* average, others copy'
    """
    said = [f"{key} {how}" for key, how in buffers.items() if key != _DEFAULT]
    return ", ".join([*said, f"others {buffers.get(_DEFAULT, 'average')}"])
