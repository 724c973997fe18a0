"""What each state dict of a checkpoint is, as far as marks, names and values say, and its name."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from polyak.averaging.files.layouts.foreign_formats import AVERAGED, BY_VALUES, RAW, UNKNOWN
from polyak.averaging.files.layouts.nesting import Keys, left
from polyak.averaging.files.layouts.separation import BY_NAME, PARTNERS, respelled, says
from polyak.averaging.files.state_dict_keys import fitted
from polyak.averaging.saved_weights import SavedWeights

_AVERAGED = re.compile(r"(^|[_.])(ema|swa|avg|average|averaged)($|[_.])")
_NOT_AVERAGED = re.compile(r"(^|[_.])(online|student|raw|current|live)($|[_.])")
_NO_WEIGHTS = re.compile(
    r"(^|[_.])(loss|losses|criterion|optim|optims|optimizers?|schedulers?|scaler|rng|random"
    r"|metrics?|meters?|moments?|momentum|(exp|square|grad)_avg(_sq)?)"
    r"(_(state|states|dict|fn|buffer))*$"
)
_SURE = re.compile(r"(^|[_.])(ema|swa)($|[_.])")
"""Words of averages that no optimizer and no metric uses."""

_NEITHER = "neither"
"""The nature of what is no weights; never in a manifest."""


@dataclass(slots=True, kw_only=True)
class State:
    """Weights that were found in a checkpoint."""

    keys: Keys
    """Where they stand."""

    base: Keys
    """Where the layout or the state dict begins that they are a part of."""

    name: str | None
    """Their name there; None where they are all of it."""

    tensors: dict[str, Tensor]
    nature: str
    kind: Mapping[str, Any] | None = None
    spelled: Callable[[str], str] | None = None
    folded: int | None = None
    """Updates that an average of ours has taken in."""

    fresh: bool | None = None
    """Whether an average of ours has recomputed BatchNorm statistics."""


@dataclass(slots=True)
class Findings:
    """All that was found in a checkpoint."""

    states: list[State] = field(default_factory=list)
    tools: list[tuple[Keys, str]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    left_out: list[dict[str, str]] = field(default_factory=list)
    places: dict[int, Keys] = field(default_factory=dict)
    """Identity of a tensor in a state → where in the file it is."""


def described(found: Findings, model: nn.Module | None) -> SavedWeights:
    """The weights under their names, and a manifest that says what they are.

    Args:
        found: What the walk over a checkpoint has come to.
        model: Whose names the weights are to have, as far as they can.
    """
    _respell(found.states, model)
    _classify(found)
    if model is not None:
        _fit(found, [name for name, _ in model.named_parameters()])
    names = _names(found.states)
    states = dict(zip(names, found.states, strict=True))
    kinds = {name: state.kind for name, state in states.items() if state.kind is not None}
    folded = {name: state.folded for name, state in states.items() if state.folded is not None}
    ours = [name for name, state in states.items() if state.fresh is not None]
    manifest = {
        "tool": _tool(found),
        "weights": {name: state.nature for name, state in states.items()},
        **found.facts,
        **({"averages": kinds} if kinds else {}),
        **({"folded": folded} if folded else {}),
        **({"refreshed_batchnorm": [n for n in ours if states[n].fresh]} if ours else {}),
        **({"left_out": found.left_out} if found.left_out else {}),
    }
    return SavedWeights({n: state.tensors for n, state in states.items()}, manifest=manifest)


def _respell(states: list[State], model: nn.Module | None) -> None:
    """Give averages whose names are not the network's those of another state dict or the model."""
    own: Mapping[str, Tensor] = {} if model is None else dict(model.named_parameters())
    for state in states:
        spelled = state.spelled
        if spelled is None or spelled("a.b") == "a.b":
            continue
        for names in (own, *(other.tensors for other in states if other is not state)):
            if names and (found := respelled(state.tensors, names, spelled)) is not None:
                state.tensors, state.spelled = found, None
                break


def _classify(found: Findings) -> None:
    """Say what states are that no mark tells, by names and by values."""
    unknown = [state for state in found.states if state.nature == UNKNOWN and state.name is None]
    places = {state.keys: state for state in found.states}
    for state in unknown:
        _judge_by_partner(state, places)
    marked = _above_marked(found.states)
    for state in unknown:
        if state.nature == UNKNOWN:
            state.nature = _by_name(state.keys, marked)
    _set_aside(found)
    averages = [state for state in found.states if state.nature == AVERAGED]
    for state in found.states:
        if state.nature == BY_VALUES:
            state.nature = RAW
            if any(_holds(state, average) for average in averages):
                state.nature, state.name = AVERAGED, "weights"


def _judge_by_partner(state: State, places: Mapping[Keys, State]) -> None:
    """A teacher's state is an average where the student's is there too, of the same tensors."""
    for i, key in enumerate(state.keys):
        others = [other for row in PARTNERS.items() for other in says(key, *row)]
        for other in others:
            partner = places.get((*state.keys[:i], other, *state.keys[i + 1 :]))
            if partner is not None and _shapes(partner) == _shapes(state):
                state.nature = AVERAGED + BY_NAME
                if partner.nature == UNKNOWN:
                    partner.nature = RAW + BY_NAME
                return


def _shapes(state: State) -> dict[str, torch.Size]:
    return {key: x.shape for key, x in state.tensors.items()}


def _set_aside(found: Findings) -> None:
    """Leave out what is no weights by its name, unless there is nothing else."""
    others = [state for state in found.states if state.nature == _NEITHER]
    if len(others) < len(found.states):
        found.states = [state for state in found.states if state.nature != _NEITHER]
        found.left_out += [left(s.keys, s.tensors, "no weights, by its name") for s in others]
    for state in others:
        state.nature = UNKNOWN


def _above_marked(states: list[State]) -> set[Keys]:
    """Places with a name below them that says that it is an average's."""
    return {
        state.keys[:j]
        for state in states
        for i, key in enumerate(state.keys)
        if _AVERAGED.search(key.lower())
        for j in range(i + 1)
    }


def _by_name(keys: Keys, above_marked: set[Keys]) -> str:
    """What the last word says that says anything of the names on the way to a state."""
    for i in range(len(keys) - 1, -1, -1):
        key = keys[i].lower()
        # An average of losses is none of weights.
        if _NO_WEIGHTS.search(key) or _NO_WEIGHTS.search(_AVERAGED.sub("_", key).strip("_.")):
            return _NEITHER
        if _AVERAGED.search(key):
            inside = any(_NO_WEIGHTS.search(k.lower()) for k in keys[:i])
            if inside and not _SURE.search(key):
                return _NEITHER
            # Of several states below one name that says so, those are meant that say so again.
            return UNKNOWN if keys[: i + 1] in above_marked else AVERAGED + BY_NAME
        if _NOT_AVERAGED.search(key) and any(_AVERAGED.search(k.lower()) for k in keys[:i]):
            return RAW + BY_NAME
    return UNKNOWN


def _holds(state: State, average: State) -> bool:
    """Whether the values of an average are all among those of a state."""
    mine: dict[torch.Size, list[Tensor]] = {}
    for x in state.tensors.values():
        mine.setdefault(x.shape, []).append(x)
    return all(
        any(torch.equal(x, y.to(x.dtype)) for y in mine.get(x.shape, ()))
        for x in average.tensors.values()
    )


def _fit(found: Findings, names: list[str]) -> None:
    """Leave to each state what has a model's names, after one prefix."""
    for state in found.states:
        state.tensors, rest = fitted(state.tensors, names)
        for key, x in rest.items():
            place = found.places.get(id(x), (*state.keys, key))
            found.left_out.append(left(place, x, "not of the model"))


def _names(states: list[State]) -> list[str]:
    """A name for each state, of which no two are alike."""
    names: dict[str, None] = {}
    for state in states:
        path = state.keys if state.name is None else (*state.base, state.name)
        name = ".".join(path) or "weights"
        if name in names and state.name is not None:
            name = ".".join((*state.keys, state.name))
        while name in names:
            name += "'"
        names[name] = None
    return list(names)


def _tool(found: Findings) -> str:
    top = [tool for keys, tool in found.tools if not keys]
    plain = "state dict" if all(not state.keys for state in found.states) else "checkpoint"
    first = top[0] if top else plain
    others = [tool for _, tool in found.tools if tool != first]
    return " with ".join([first, *dict.fromkeys(others)])
