"""An average and the weights that it was taken of, told apart where one state dict holds both.

Counters that a tool keeps beside its averages are sure marks. Without them words in the names are
marks, where the same names stand twice, with such a word and without. The average gets the names
of the raw weights, so that both fit one model.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import isfinite
from typing import Any

from torch import Tensor

from polyak.averaging.files.layouts.families import FAMILIES, Family, underscored
from polyak.averaging.files.layouts.foreign_formats import AVERAGED, RAW, UNKNOWN
from polyak.averaging.files.state_dict_keys import strip_wrappers, unwrapped, whole

BY_NAME = ", by its name"
State = dict[str, Tensor]

PARTNERS = {
    "teacher": ("student",),
    "target": ("online",),
    "momentum": ("base", "online"),
    "encoder_k": ("encoder_q",),
    "key_encoder": ("query_encoder",),
    "encoder_key": ("encoder_query",),
}
"""Words that name an average only beside the same names under one of others."""

_WORD = re.compile(r"(?:^|_)(?:ema|swa|avg|average|averaged)(?=_|$)")
_SURE = re.compile(r"(?:^|_)(?:ema|swa|averaged)(?=_|$)")
"""Without "avg" and "average", which name layers that pool too."""

_MMCV = "ema_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some of the tensors of a state dict, under names of the network."""

    name: str | None = None
    """None where it is all that there is."""

    nature: str = UNKNOWN
    tensors: State
    tool: str | None = None
    facts: Mapping[str, int | None] = field(default_factory=dict)
    kind: Mapping[str, Any] | None = None
    spelled: Callable[[str], str] | None = None
    """How its names are written, if they are not the network's and were not found there."""


def separated(
    state: State,
    model: Collection[str] = (),
    *,
    by_words: bool = True,
    exchanged: bool | None = None,
) -> list[Part]:
    """The averages in a state dict, then its other weights; what counts them is in neither.

    Args:
        state: Tensors under the names of a file.
        model: The names in a model's own state dict, of which nothing is separated.
        by_words: Whether words in names are marks too.
        exchanged: Whether averages of mmcv stand in the raw weights' places, if that is known.
    """
    parts, rest = _counted(unwrapped(state), model)
    parts = [_named_like(part, rest) for part in parts]
    rest = strip_wrappers(rest)
    if not parts:
        parts, rest = _mmcv(rest, exchanged)
    if by_words:
        worded, rest = _worded(rest, model)
        parts += worded
    parts = _distinctly_named(parts)
    if rest and not parts:
        parts = [Part(tensors=rest)]
    elif rest:
        parts.append(_rest(rest, parts, exchanged))
    return parts


def respelled(
    part: Mapping[str, Tensor],
    names: Mapping[str, Tensor],
    spell: Callable[[str], str],
    *,
    likely: str = "",
) -> State | None:
    """An average under the names of another state dict, of which it has some.

    Args:
        part: Tensors under names written by `spell`.
        names: Another state dict.
        spell: str for names as they are.
        likely: What stands before its names there, if it fits in several places.

    Returns:
        None where it fits nowhere, or in several places of which none is the likely one.
    """
    fitting = {
        prefix: found
        for prefix in _prefixes(part, names, spell)
        if (found := _under(part, names, prefix, spell)) is not None
    }
    return next(iter(fitting.values())) if len(fitting) == 1 else fitting.get(likely)


def _counted(state: State, model: Collection[str]) -> tuple[list[Part], State]:
    """Parts that counters mark, under their names in the file, and the rest."""
    parts: list[Part] = []
    rest = dict(state)
    own_names = {
        name for name, bare in zip(state, strip_wrappers(state), strict=True) if bare in model
    }
    for family, prefix in _marked(state):
        members = _members(rest, family, prefix)
        beside = rest.keys() - members.keys() - {prefix + c for c in family.counters}
        kept = {k for k in beside if family.raw and k.startswith(prefix + family.raw)}
        # At the top of a state dict a counter may be the network's own.
        if not members or (not prefix and beside - kept) or members.keys() & own_names:
            continue
        values = {c: state[prefix + c] for c in family.counters}
        facts = {"updates": family.updates, "steps": family.steps}
        parts.append(
            Part(
                name=prefix + family.average,
                nature=AVERAGED,
                tensors=members,
                tool=family.tool,
                facts={key: whole(values[c]) for key, c in facts.items() if c},
                kind=family.kind(values),
                spelled=family.spelled,
            )
        )
        if kept:
            raw = {k: rest[k] for k in rest if k in kept}
            parts.append(Part(name=prefix + (family.raw or ""), nature=RAW, tensors=raw))
        gone = members.keys() | kept | {prefix + counter for counter in family.counters}
        rest = {k: x for k, x in rest.items() if k not in gone}
    return parts, rest


def _marked(state: State) -> Iterator[tuple[Family, str]]:
    """Families whose counters are there, each with what stands before their names."""
    for family in FAMILIES:
        for name in state:
            prefix = name.removesuffix(family.counters[0])
            if prefix == name or (prefix and not prefix.endswith(".")):
                continue
            if all(_is_counter(state.get(prefix + counter)) for counter in family.counters):
                yield family, prefix


def _is_counter(x: Tensor | None) -> bool:
    if x is None or x.numel() != 1 or x.is_complex() or x.is_quantized:
        return False
    return isfinite(float(x))


def _members(state: State, family: Family, prefix: str) -> State:
    start = prefix + family.average
    counters = {prefix + counter for counter in family.counters}
    dotted = family.spelled("a.b") != "a.b"
    return {
        k: x
        for k, x in state.items()
        if k.startswith(start) and k not in counters and not (dotted and "." in k[len(start) :])
    }


def _named_like(part: Part, rest: State) -> Part:
    """The part under names without its prefix, or under those of the rest where it is found."""
    prefix = part.name or ""
    bare = strip_wrappers({k.removeprefix(prefix): x for k, x in part.tensors.items()})
    if part.spelled is None:
        return replace(part, tensors=bare)
    likely = ".".join(_WORD.sub("", piece).strip("_") for piece in prefix.split(".")[:1]) + "."
    found = respelled(bare, rest, part.spelled, likely=likely)
    return replace(part, tensors=found or bare, spelled=None if found else part.spelled)


def _mmcv(state: State, exchanged: bool | None) -> tuple[list[Part], State]:
    """EMAHook of mmcv keeps buffers beside the weights; which are which changes as it trains."""
    members = {k: x for k, x in state.items() if k.startswith(_MMCV) and "." not in k}
    rest = {k: x for k, x in state.items() if k not in members}
    bare = {k.removeprefix(_MMCV): x for k, x in members.items()}
    found = _under(bare, rest, "", underscored) if bare else None
    if found is None:
        return [], state
    nature = {None: UNKNOWN, True: RAW, False: AVERAGED}[exchanged]
    name = {None: "ema", True: "raw", False: "average"}[exchanged]
    part = Part(name=name, nature=nature, tensors=found, tool="mmcv EMAHook")
    return [part], rest


def _worded(state: State, model: Collection[str]) -> tuple[list[Part], State]:
    """Parts whose names say that they are averages of others that are there."""
    groups: dict[str, State] = {}
    for name, x in state.items():
        pieces = name.split(".")
        at = next((i for i, piece in enumerate(pieces[:-1]) if _says_average(piece)), None)
        if at is not None and name not in model:
            prefix = ".".join(pieces[: at + 1]) + "."
            groups.setdefault(prefix, {})[name.removeprefix(prefix)] = x
    members = {prefix + k for prefix, group in groups.items() for k in group}
    plain = {k: x for k, x in state.items() if k not in members}
    parts: list[Part] = []
    for prefix, group in groups.items():
        found = _partner(prefix, strip_wrappers(group), plain)
        if found is not None:
            parts.append(Part(name=prefix, nature=AVERAGED + BY_NAME, tensors=found))
            members -= {prefix + k for k in group}
    taken = {prefix + k for prefix, group in groups.items() for k in group} - members
    return parts, {k: x for k, x in state.items() if k not in taken}


# The parts of names repeat: a file of 300,000 tensors has few of them.
@lru_cache(maxsize=1024)
def _says_average(piece: str) -> bool:
    return bool(_WORD.search(piece)) or any(says(piece, *row) for row in PARTNERS.items())


def says(piece: str, word: str, partners: Collection[str]) -> list[str]:
    """A name with partners in the place of a word; none if it has not the word.

    Example:
        >>> says("teacher_net", "teacher", ["student"])
        ['student_net']
    """
    pattern = re.compile(rf"(^|_){word}(?=_|$)")
    return [pattern.sub(rf"\g<1>{x}", piece) for x in partners] if pattern.search(piece) else []


def _partner(prefix: str, group: State, plain: State) -> State | None:
    """The group under the names of its partner among the plain weights."""
    before, piece = prefix.removesuffix(".").rpartition(".")[::2]
    before = before + "." if before else ""
    others = [other for row in PARTNERS.items() for other in says(piece, *row)]
    most = 2 * len(group) >= len(plain)
    if _SURE.search(piece) or (most and _WORD.search(piece)):
        others.append(_WORD.sub("", piece).strip("_"))
    for other in others:
        found = _under(group, plain, before + (other + "." if other else ""), str)
        if found is not None:
            return found
    # A whole network beside its average may have any name.
    return respelled(group, plain, str) if most and not before and _SURE.search(piece) else None


def _prefixes(
    part: Mapping[str, Tensor], names: Mapping[str, Tensor], spell: Callable[[str], str]
) -> list[str]:
    """What may stand before the names of a part in another state dict."""
    first = max(part, key=len, default="")
    found = set()
    for name in names:
        pieces = name.split(".")
        for i in range(len(pieces)):
            if spell(".".join(pieces[i:])) == first:
                found.add("".join(piece + "." for piece in pieces[:i]))
    plain = [prefix for prefix in found if not any(map(_says_average, prefix.split(".")))]
    return sorted(plain or found)


def _under(
    part: Mapping[str, Tensor],
    names: Mapping[str, Tensor],
    prefix: str,
    spell: Callable[[str], str],
) -> State | None:
    """A part under another state dict's names that begin with a prefix, if it has all of them."""
    written: dict[str, str] = {}
    for name, x in names.items():
        key = spell(name.removeprefix(prefix))
        if name.startswith(prefix) and key in part and part[key].shape == x.shape:
            # Two names that are written alike cannot be told apart.
            written[key] = "" if key in written else name
    if written.keys() != part.keys() or not all(written.values()):
        return None
    return {written[key]: x for key, x in part.items()}


def _distinctly_named(parts: list[Part]) -> list[Part]:
    """One average is "average"; several have the names of where they stand."""
    counts = [part.nature.split(",")[0] for part in parts]
    short = {AVERAGED: "average", RAW: "raw"}
    found = []
    for part, nature in zip(parts, counts, strict=True):
        alone = nature in short and counts.count(nature) == 1
        place = (part.name or "").strip(".").removesuffix(".module")
        found.append(replace(part, name=short[nature] if alone else place))
    return found


def _rest(rest: State, parts: list[Part], exchanged: bool | None) -> Part:
    """The weights beside averages: raw, as far as they have the averages' names."""
    if any(part.tool == "mmcv EMAHook" for part in parts):
        nature = {None: UNKNOWN, True: AVERAGED, False: RAW}[exchanged]
        name = {None: "weights", True: "average", False: "raw"}[exchanged]
        return Part(name=name, nature=nature, tensors=rest)
    averages = [part for part in parts if part.nature.startswith(AVERAGED)]
    if not any(part.tensors.keys() <= rest.keys() for part in averages):
        return Part(name="weights", tensors=rest)
    sure = any(part.nature == AVERAGED for part in averages)
    return Part(name="raw", nature=RAW if sure else RAW + BY_NAME, tensors=rest)
