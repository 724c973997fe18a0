"""What a checkpoint holds: all weights at any depth, and a list of everything else.

One walk over the nested content. Tables of marks say what known tools keep where; a state dict
that none of them explains is "unknown", or what its name says.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from polyak.averaging.files.averager_state import averages_of
from polyak.averaging.files.layouts.classification import Findings, State, described
from polyak.averaging.files.layouts.foreign_formats import AVERAGED, OWN, UNKNOWN, Layout, layout_of
from polyak.averaging.files.layouts.nesting import (
    Keys,
    is_container,
    is_pickled_module,
    left,
    mapping_of,
    matches,
    parts,
)
from polyak.averaging.files.layouts.separation import Part, separated
from polyak.averaging.files.layouts.stand_ins import StandIn
from polyak.averaging.files.state_dict_keys import held, is_dense, name_by_order, whole
from polyak.averaging.saved_weights import SavedWeights

_DEEPEST = 64
_MOST = 8
"""So often one object may stand in a file: nested a few times it would unfold without end."""

_EXTRA = "_extra_state"
"""What a module adds to its state as it likes."""

_TYPICAL = ("weight", "bias")
_COUNTERS = {"epoch": "epoch", "step": "steps", "global_step": "steps"}
"""Of a training script; the last that is there counts."""


def recognise(content: object, model: nn.Module | None) -> SavedWeights | None:
    """The weights in a checkpoint's content; None if it holds none.

    Args:
        content: What was in the file.
        model: Gives names to tools that store a list, and tells which part of a state dict of
            several networks is meant.
    """
    walk = _Walk(content, model)
    seen = walk.visit(content, ())
    if not seen.taken:
        if walk.not_dense is not None:
            held(*walk.not_dense)
        return None
    walk.found.left_out = [*seen.left, *walk.found.left_out]
    return described(walk.found, model)


@dataclass(slots=True)
class _Seen:
    """What a part of the content has come to."""

    taken: bool = False
    left: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Role:
    """What is kept at a place, and under which name."""

    base: Keys
    name: str | None = None
    nature: str = UNKNOWN
    kind: Mapping[str, Any] | None = None


class _Walk:
    """A walk over a checkpoint's content, and what it has found so far."""

    def __init__(self, content: object, model: nn.Module | None) -> None:
        self.found = Findings()
        self.not_dense: tuple[str, Tensor] | None = None
        self._model = model
        self._names = frozenset[str]() if model is None else frozenset(model.state_dict())
        self._exchanged = _exchanged(content)
        self._roles: dict[Keys, _Role] = {}
        self._consumed: set[Keys] = set()
        self._above: list[int] = []
        self._visits: Counter[int] = Counter()

    def visit(self, value: object, keys: Keys) -> _Seen:
        """Take the weights in a part, and list what else is in it."""
        if keys in self._consumed or value is None or _is_empty(value):
            return _Seen()
        role = self._roles.get(keys)
        if role is not None and (seen := self._visit_role(value, keys, role)) is not None:
            return seen
        if (why := self._why_not(value, keys)) is not None:
            return _Seen(left=[left(keys, value, why)])
        if isinstance(value, Mapping) and (own := _averages_of(value)) is not None:
            return self._take_own(own, keys, keys)
        if _is_state(value, top=not keys):
            return self._take(value, keys, _Role(base=keys))
        if (layout := layout_of(value)) is not None:
            self._assign(layout, value, keys)
        elif _has_loose_weights(value):
            return self._take(value, keys, _Role(base=keys))
        elif not keys:
            self._note(value, keys, _COUNTERS)
        return self._visit_parts(value, keys)

    def _visit_parts(
        self, value: object, keys: Keys, *, but: frozenset[str] = frozenset()
    ) -> _Seen:
        inside = {name: part for name, part in parts(value).items() if name not in but}
        self._above.append(id(value))
        seen = [self.visit(part, (*keys, name)) for name, part in inside.items()]
        self._above.pop()
        rest = [entry for each in seen for entry in each.left]
        if but or any(each.taken for each in seen):
            return _Seen(True, rest)
        # One entry says enough of a part without weights.
        return _Seen(False, [left(keys, value, "holds no weights")] if rest else [])

    def _why_not(self, value: object, keys: Keys) -> str | None:
        """Why a part is listed as it is, if it is."""
        if keys and keys[-1].endswith(_EXTRA):
            return "extra state of a module"
        if isinstance(value, Tensor):
            return "in no state dict" if is_dense(value) else "without dense values"
        inside = parts(value)
        if isinstance(value, StandIn) and not inside:
            return "left unread"
        if not any(isinstance(x, Tensor) or is_container(x) for x in inside.values()):
            return "no tensor"
        self._visits[id(value)] += 1
        too_often = self._visits[id(value)] > _MOST
        if id(value) in self._above or len(keys) > _DEEPEST or too_often:
            return "not looked into: in itself, nested too deep or there too often"
        if is_pickled_module(value):
            return "a pickled module: save its state_dict() where it was made"
        view = mapping_of(value)
        if view is not None and view.keys() >= {"state", "param_groups"}:
            return "an optimizer's state"
        return None

    def _visit_role(self, value: object, keys: Keys, role: _Role) -> _Seen | None:
        """Take what a layout says is here; None if it is not."""
        if role.nature == OWN:
            own = _averages_of(value) if isinstance(value, Mapping) else None
            return None if own is None else self._take_own(own, keys, role.base)
        if isinstance(value, list | tuple) and (tensors := name_by_order(value, self._model)):
            if self._model is None:
                self.found.facts["names"] = "order"
            self._add(keys, role, Part(tensors=tensors))
            return _Seen(True)
        if isinstance(value, Mapping) and any(isinstance(x, Tensor) for x in value.values()):
            return self._take(value, keys, role)
        return None

    def _take(self, value: object, keys: Keys, role: _Role) -> _Seen:
        """Take a state dict, which may hold several."""
        view = mapping_of(value) or {}
        state = {
            key: held(key, x)
            for key, x in view.items()
            if isinstance(x, Tensor) and is_dense(x) and not key.endswith(_EXTRA)
        }
        sparse = [(k, x) for k, x in view.items() if isinstance(x, Tensor) and not is_dense(x)]
        if sparse and not state:
            self.not_dense = sparse[0]
            return _Seen(False, [left(keys, value, "without dense values")])
        self.found.places |= {id(x): (*keys, key) for key, x in state.items()}
        found = separated(
            state, self._names, by_words=role.nature == UNKNOWN, exchanged=self._exchanged
        )
        for part in found:
            self._add(keys, role, part, alone=len(found) == 1)
        return self._visit_parts(value, keys, but=frozenset(state))

    def _add(self, keys: Keys, role: _Role, part: Part, *, alone: bool = True) -> None:
        told = role.nature != UNKNOWN
        of_role = (told or part.name is None) if alone else told and part.nature != AVERAGED
        name = role.name if of_role else part.name
        if part.tool is not None and not (of_role and told):
            self.found.tools.append((keys, part.tool))
        self.found.facts |= {key: n for key, n in part.facts.items() if n is not None}
        self.found.states.append(
            State(
                keys=keys,
                base=role.base,
                name=name,
                tensors=part.tensors,
                nature=role.nature if of_role and told else part.nature,
                kind=(role.kind if of_role else None) or part.kind,
                spelled=part.spelled,
            )
        )

    def _take_own(self, own: SavedWeights, keys: Keys, base: Keys) -> _Seen:
        """Take the averages of an averager of ours."""
        facts = dict(own.manifest)
        kinds, fresh = facts.pop("averages"), facts.pop("refreshed_batchnorm")
        folded = facts.pop("folded")
        why = facts.pop("left_out")
        natures, tool = facts.pop("weights"), facts.pop("tool")
        for name, tensors in own.items():
            self.found.states.append(
                State(
                    keys=(*keys, name),
                    base=base,
                    name=name,
                    tensors=tensors,
                    nature=natures[name],
                    kind=kinds[name],
                    folded=folded.get(name),
                    fresh=name in fresh,
                )
            )
        if base == keys:
            self.found.tools.append((keys, tool))
        self.found.facts |= facts
        entry = {"path": ".".join(keys), "kind": "averager", "detail": f"{len(own)} averages"}
        return _Seen(True, [{**entry, "why": why}])

    def _assign(self, layout: Layout, content: object, keys: Keys) -> None:
        """Note what a tool keeps where, below a place that has its marks."""
        version = (
            next(iter(matches(content, layout.version)), ((), ""))[1] if layout.version else ""
        )
        self.found.tools.append((keys, layout.tool.format(version=version)))
        if layout.version:
            self._consumed.add((*keys, layout.version))
        self._note(content, keys, layout.facts)
        if layout.ordered:
            self.found.facts["buffers"] = "not stored"
        settings = self._read(content, keys, layout.settings, _number)
        kind = None if layout.kind is None else {**layout.kind, **settings}
        for pattern, (name, nature) in layout.roles.items():
            for below, _ in matches(content, pattern):
                own = kind if name == "average" else None
                role = _Role(base=keys, name=name, nature=nature, kind=own)
                self._roles.setdefault((*keys, *below), role)

    def _note(self, content: object, keys: Keys, facts: Mapping[str, str]) -> None:
        self.found.facts |= self._read(content, keys, facts, _fact)

    def _read(
        self,
        content: object,
        keys: Keys,
        places: Mapping[str, str],
        read: Callable[[object], object],
    ) -> dict[str, Any]:
        """Values at places, which then count as read."""
        found: dict[str, Any] = {}
        for pattern, key in places.items():
            for below, part in matches(content, pattern):
                if (value := read(part)) is not None:
                    found[key] = value
                    self._consumed.add((*keys, *below))
        return found


def _is_empty(value: object) -> bool:
    return is_container(value) and not isinstance(value, StandIn) and not parts(value)


def _averages_of(value: Mapping[Any, Any]) -> SavedWeights | None:
    return averages_of(value) if all(isinstance(key, str) for key in value) else None


def _is_state(value: object, *, top: bool) -> bool:
    """Whether all in this is tensors with names, and not only counters or random states."""
    found = _named_tensors(value)
    if found is None or len(found[0]) == 0 or found[1]:
        return False
    return top or not all(x.ndim == 0 or x.dtype == torch.uint8 for x in found[0].values())


def _has_loose_weights(value: object) -> bool:
    """Whether this has weights beside other things."""
    found = _named_tensors(value)
    return found is not None and any("." in key or key in _TYPICAL for key in found[0])


def _named_tensors(value: object) -> tuple[dict[str, Tensor], int] | None:
    """The tensors in a dict or a list of pairs, and how many other parts there are."""
    if isinstance(value, StandIn) or (view := mapping_of(value)) is None:
        return None
    if isinstance(value, Mapping) and not all(isinstance(key, str) for key in value):
        return None
    own = {key: x for key, x in view.items() if not key.endswith(_EXTRA)}
    tensors = {key: x for key, x in own.items() if isinstance(x, Tensor)}
    return tensors, len(own) - len(tensors)


def _exchanged(content: object) -> bool | None:
    """Whether a checkpoint of mmcv was made at the end of an epoch, where averages are shown."""
    text = next((x for _, x in matches(content, "meta/config") if isinstance(x, str)), "")
    by_epoch, by_steps = "EpochBasedRunner" in text, "IterBasedRunner" in text
    return by_epoch if by_epoch != by_steps else None


def _number(value: object) -> bool | int | float | None:
    return value if isinstance(value, bool | int | float) else None


def _fact(value: object) -> int | str | None:
    return value if isinstance(value, str) else whole(value)
