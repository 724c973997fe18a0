"""The parts of a nested checkpoint by their paths, and words for what they are."""

from collections.abc import Iterator, Mapping, Sized
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

from polyak.averaging.files.layouts.stand_ins import StandIn
from polyak.errors import printable

Keys = tuple[str, ...]

_PICKLED_MODULE = {"_parameters", "_modules"}


def mapping_of(value: object) -> dict[str, Any] | None:
    """A container's parts by name: those of a dict, of pairs (name, part), of an object.

    Keys that are no text become text. None for anything else.
    """
    if isinstance(value, StandIn):
        return _attributes(value)
    if isinstance(value, Mapping):
        return _distinct((str(key), part) for key, part in value.items())
    if isinstance(value, list | tuple) and value and all(map(_is_pair, value)):
        return _distinct((pair[0], pair[1]) for pair in value)
    return None


def parts(value: object) -> dict[str, Any]:
    """A container's parts by name or by place; none of anything else."""
    found = mapping_of(value)
    if found is None and isinstance(value, list | tuple | set | frozenset):
        found = {str(i): part for i, part in enumerate(value)}
    return found or {}


def is_container(value: object) -> bool:
    return isinstance(value, Mapping | list | tuple | set | frozenset | StandIn)


def matches(value: object, pattern: str) -> Iterator[tuple[Keys, Any]]:
    """The parts whose paths fit "a/b/c", each with its path; in a name "*" is any text."""
    first, _, rest = pattern.partition("/")
    for name, part in parts(value).items():
        if not fnmatchcase(name, first):
            continue
        if not rest:
            yield (name,), part
        else:
            yield from (((name, *keys), found) for keys, found in matches(part, rest))


def is_pickled_module(value: object) -> bool:
    """Whether this stands in the place of a whole `nn.Module`."""
    state = value.state if isinstance(value, StandIn) else None
    return isinstance(state, Mapping) and state.keys() >= _PICKLED_MODULE


def tensors_in(value: object) -> int:
    """How many tensors a part holds, at any depth."""
    count, seen, rest = 0, set[int](), [value]
    while rest:
        part = rest.pop()
        if isinstance(part, Tensor):
            count += 1
        elif is_container(part) and id(part) not in seen:
            seen.add(id(part))
            rest += parts(part).values()
    return count


def left(keys: Keys, value: object, why: str) -> dict[str, str]:
    """An entry of `manifest["left_out"]`.

    Args:
        keys: Where in the file it is.
        value: What it is.
        why: Why it was not taken as weights.
    """
    kind, detail = _described(value)
    if is_container(value) and (tensors := tensors_in(value)):
        detail += f", {tensors} tensor{'s' * (tensors != 1)}"
    return {"path": ".".join(keys), "kind": kind, "detail": detail, "why": why}


def shape_of(tensor: Tensor) -> str:
    """A tensor's dtype and shape as text: "float32 (3, 4)"."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _described(value: object) -> tuple[str, str]:
    """What a value is, and its shape, size or class."""
    if isinstance(value, Tensor):
        return "tensor", shape_of(value)
    if isinstance(value, StandIn):
        return "object", printable(value.kind)
    if isinstance(value, type):
        named = value.kind if issubclass(value, StandIn) else value.__name__
        return "class or function", printable(named)
    if isinstance(value, Mapping):
        return "dict", _entries(value)
    if isinstance(value, list | tuple | set | frozenset):
        return "list", _entries(value)
    if isinstance(value, bool | int | float | complex):
        return "number", str(value)
    if isinstance(value, str | bytes):
        return "text", f"{len(value)} characters"
    return "object", type(value).__name__


def _entries(value: Sized) -> str:
    return f"{len(value)} entr{'y' if len(value) == 1 else 'ies'}"


def _attributes(value: StandIn) -> dict[str, Any]:
    """What an object would have been made of: attributes, and what its class was called with."""
    states = value.state if isinstance(value.state, tuple) else (value.state,)
    named = [
        (str(k), x) for state in states if isinstance(state, Mapping) for k, x in state.items()
    ]
    others = [(f"state_{i}", x) for i, x in enumerate(states) if not isinstance(x, Mapping)]
    called = [(f"argument_{i}", x) for i, x in enumerate(value.args)]
    return _distinct((key, x) for key, x in [*named, *others, *called] if x is not None)


def _distinct(pairs: Iterator[tuple[str, Any]]) -> dict[str, Any]:
    """Named parts, of which none is lost where two have one name."""
    found: dict[str, Any] = {}
    for key, part in pairs:
        name = key
        while name in found:
            name += "'"
        found[name] = part
    return found


def _is_pair(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[0], str)
