"""What each state dict of a checkpoint is, as far as marks, names and values say, and its name."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from polyak.averaging.files.averages import SavedWeights
from polyak.averaging.files.foreign_formats import AVERAGED, BY_VALUES, RAW, UNKNOWN
from polyak.averaging.files.nesting import Keys, left
from polyak.averaging.files.separation import BY_NAME, PARTNERS, respelled, says
from polyak.averaging.files.state_dict_keys import fitted

_AVERAGED = re.compile(r"(^|[_.])(ema|swa|avg|average|averaged)($|[_.])")
_NOT_AVERAGED = re.compile(r"(^|[_.])(online|student|raw|current|live)($|[_.])")
_NO_WEIGHTS = re.compile(
    r"(^|[_.])(loss|losses|criterion|optim|optims|optimizers?|schedulers?|scaler|rng|random"
    r"|metrics?|meters?)($|[_.])"
)
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
    ours = [name for name, state in states.items() if state.fresh is not None]
    manifest = {
        "tool": _tool(found),
        "weights": {name: state.nature for name, state in states.items()},
        **found.facts,
        **({"averages": kinds} if kinds else {}),
        **({"refreshed_batchnorm": [n for n in ours if states[n].fresh]} if ours else {}),
        **({"left_out": found.left_out} if found.left_out else {}),
    }
    return SavedWeights({n: state.tensors for n, state in states.items()}, manifest=manifest)


def _respell(states: list[State], model: nn.Module | None) -> None:
    """Give averages whose names are not the network's those of another state dict or the model."""
    whole: Mapping[str, Tensor] = {} if model is None else dict(model.named_parameters())
    for state in states:
        for other in [whole, *(other.tensors for other in states if other is not state)]:
            spelled = state.spelled
            if spelled is None or spelled("a.b") == "a.b":
                break
            if other and (found := respelled(state.tensors, other, spelled)) is not None:
                state.tensors, state.spelled = found, None


def _classify(found: Findings) -> None:
    """Say what states are that no mark tells, by names and by values."""
    unknown = [state for state in found.states if state.nature == UNKNOWN and state.name is None]
    for state in unknown:
        _judge_by_partner(state, found.states)
    for state in unknown:
        if state.nature == UNKNOWN:
            state.nature = _by_name(state, found.states)
    _set_aside(found)
    averages = [state for state in found.states if state.nature == AVERAGED]
    for state in found.states:
        if state.nature == BY_VALUES:
            state.nature = RAW
            if any(_holds(state, average) for average in averages):
                state.nature, state.name = AVERAGED, "weights"


def _judge_by_partner(state: State, states: list[State]) -> None:
    """A teacher's state is an average where the student's is there too."""
    partner = next((x for x in states if x is not state and _is_partner(state, x)), None)
    if partner is not None:
        state.nature = AVERAGED + BY_NAME
        if partner.nature == UNKNOWN:
            partner.nature = RAW + BY_NAME


def _set_aside(found: Findings) -> None:
    """Leave out what is no weights by its name, unless there is nothing else."""
    others = [state for state in found.states if state.nature == _NEITHER]
    if len(others) < len(found.states):
        found.states = [state for state in found.states if state.nature != _NEITHER]
        found.left_out += [left(s.keys, s.tensors, "no weights, by its name") for s in others]
    for state in others:
        state.nature = UNKNOWN


def _by_name(state: State, states: list[State]) -> str:
    """What the last word says that says anything of the names on the way to a state."""
    for i in range(len(state.keys) - 1, -1, -1):
        key = state.keys[i].lower()
        if _AVERAGED.search(key):
            # Of several states below one that is marked, the marked ones are meant.
            inside = [
                x for x in states if x.keys[: i + 1] == state.keys[: i + 1] and x is not state
            ]
            marked = any(_AVERAGED.search(k.lower()) for x in inside for k in x.keys[i + 1 :])
            return UNKNOWN if marked else AVERAGED + BY_NAME
        if _NOT_AVERAGED.search(key) and any(_AVERAGED.search(k.lower()) for k in state.keys[:i]):
            return RAW + BY_NAME
        if _NO_WEIGHTS.search(key):
            return _NEITHER
    return UNKNOWN


def _is_partner(state: State, other: State) -> bool:
    """Whether names say that a state is the average of another, of the same tensors."""
    if len(state.keys) != len(other.keys):
        return False
    differing = [(a, b) for a, b in zip(state.keys, other.keys, strict=True) if a != b]
    shapes = {key: x.shape for key, x in state.tensors.items()}
    return (
        len(differing) == 1
        and any(
            b in says(a, word, partners)
            for a, b in differing
            for word, partners in PARTNERS.items()
        )
        and shapes == {key: x.shape for key, x in other.tensors.items()}
    )


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
    names: list[str] = []
    for state in states:
        path = state.keys if state.name is None else (*state.base, state.name)
        name = ".".join(path) or "weights"
        if name in names and state.name is not None:
            name = ".".join((*state.keys, state.name))
        while name in names:
            name += "'"
        names.append(name)
    return names


def _tool(found: Findings) -> str:
    top = [tool for keys, tool in found.tools if not keys]
    plain = "state dict" if all(not state.keys for state in found.states) else "checkpoint"
    first = top[0] if top else plain
    others = [tool for _, tool in found.tools if tool != first]
    return " with ".join([first, *dict.fromkeys(others)])
