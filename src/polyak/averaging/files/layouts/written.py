"""Averages as other tools' own files, which go on with them: `foreign_formats` the other way.

Written from the tools' sources, as of 2026. What a tool keeps in its script and not in its file,
such as torch's decay, is in the sentence that comes with each.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isclose
from typing import Any

import torch
from torch import Tensor

from polyak.averaging.kinds.average import Update
from polyak.averaging.kinds.records import from_record
from polyak.errors import ConfigError, unknown

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_ENDS = "; the warm-up, which has not ended, ends there at once"
_INVERSE_GAMMA = {"gamma": 1.0, "power": 2 / 3, "min_decay": 0.0, "after": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a file of ours says of one average."""

    state: Mapping[str, Tensor]
    """Its state dict."""

    raw: Mapping[str, Tensor] | None
    """That of the weights that were trained, if the file has them."""

    kind: Mapping[str, Any]
    """Its record."""

    updates: int
    """Of the bank."""

    folded: int
    """Of them, those that the average has taken in since it began."""

    steps: int
    every: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A file's content, and in words what loads it."""

    content: dict[str, Any]
    loader: str


def written_as(tool: str, kept: Kept) -> Written:
    """An average in the form that a tool saves and loads.

    Args:
        tool: One of `TOOLS`.
        kept: Of a file with its kind and counts.

    Raises:
        ConfigError: for another tool, and for a kind or a warm-up that the tool's file cannot say.
    """
    if tool not in TOOLS:
        raise ConfigError(unknown("as", tool, TOOLS))
    return TOOLS[tool](kept)


def parameters_of(state: Mapping[str, Tensor]) -> list[Tensor]:
    """A state's parameters in the order of `module.parameters()`, tied ones once.

    A state dict does not say which of its tensors are buffers: statistics of normalisation layers
    and what is no floating-point number are left out.
    """
    found: dict[tuple[int, Any], Tensor] = {}
    for key, x in state.items():
        if x.is_floating_point() and key.rpartition(".")[2] not in _STATISTICS:
            found.setdefault((x.data_ptr(), x.storage_offset()), x)
    return list(found.values())


def _torch(kept: Kept) -> Written:
    uniform = kept.kind.get("kind") == "uniform"
    # What there is before an EMA begins will be copied over.
    copies = not uniform and kept.steps < int(kept.kind.get("start") or 0)
    taken = kept.folded if uniform else 0 if copies else kept.updates
    how = "" if uniform else f", multi_avg_fn=get_ema_multi_avg_fn({_decay(kept, 'torch')})"
    known = uniform or _is_constant(kept)
    return Written(
        content={
            "n_averaged": torch.tensor(taken),
            **{f"module.{key}": x for key, x in kept.state.items()},
        },
        loader=f"AveragedModel(model{how}, use_buffers=True).load_state_dict(…)"
        f"{'' if known else _ENDS}",
    )


def _timm(kept: Kept) -> Written:
    raw = {} if kept.raw is None else {"state_dict": dict(kept.raw)}
    return Written(
        content={**raw, "state_dict_ema": dict(kept.state), "version": 2},
        loader="timm.models.load_checkpoint(model, path, use_ema=True); the script counts",
    )


def _ema_pytorch(kept: Kept) -> Written:
    # Of `every` calls the first updates there, and the last here.
    calls = max(kept.steps - kept.every + 1, 0)
    raw = kept.raw or {}
    online = "" if raw else ", include_online_model=False"
    decay, ramp = _decay(kept, "ema-pytorch"), _ema_pytorch_ramp(kept)
    known = ramp is not None or _is_constant(kept)
    # Its own warm-up and its start at step 100 would set in, if nothing else were said.
    ramp = {"update_after_step": 0, "min_value": decay} if ramp is None else ramp
    said = "".join(f", {name}={value}" for name, value in ramp.items())
    return Written(
        content={
            "initted": torch.tensor(True),
            "step": torch.tensor(calls),
            **{f"online_model.{key}": x for key, x in raw.items()},
            **{f"ema_model.{key}": x for key, x in kept.state.items()},
        },
        loader=f"EMA(model, beta={decay}, update_every={kept.every}{said}{online})"
        f".load_state_dict(…){'' if known else _ENDS}",
    )


def _ema_pytorch_ramp(kept: Kept) -> dict[str, Any] | None:
    """The same warm-up by ema-pytorch's words, if it has it: one of inverse gamma by steps."""
    kind = kept.kind
    counted = "steps" if kept.every > 1 else kind.get("warmup_counts", "updates")
    inverse = _inverse_gamma(kept, counted=counted)
    after = -1 if inverse is None else int(inverse["after"]) - kept.every + 1
    if inverse is None or after < 0:
        return None
    return {
        "update_after_step": after,
        "inv_gamma": float(inverse["gamma"]),
        "power": float(inverse["power"]),
        "min_value": float(inverse["min_decay"]),
    }


def _torch_ema(kept: Kept) -> Written:
    # It warms up by (1 + n)/(10 + n), n from 1; the paper's is the same with t from 0.
    behind = {"torch_ema": 0, "paper": 1}.get(_warmup(kept) or "none")
    counter = None if behind is None else kept.updates - behind
    decay = _decay(kept, "torch-ema")
    if counter is None:
        _require_constant(kept, "torch-ema", "None, 'paper' or 'torch_ema'")
    shadow = parameters_of(kept.state)
    return Written(
        content={
            "decay": decay,
            "num_updates": counter,
            "shadow_params": shadow,
            "collected_params": None,
        },
        loader="ExponentialMovingAverage(model.parameters(), "
        f"decay={decay}).load_state_dict(…), {len(shadow)} parameters",
    )


def _diffusers(kept: Kept) -> Written:
    settings = diffusers_settings(kept)
    shadow = parameters_of(kept.state)
    return Written(
        content={**settings, "shadow_params": shadow},
        loader=f"EMAModel(model.parameters()).load_state_dict(…), {len(shadow)} parameters",
    )


def diffusers_settings(kept: Kept) -> dict[str, Any]:
    """What `EMAModel` has in its state, or in its folder's config.json, beside the weights."""
    decay = _decay(kept, "diffusers")
    warmup, inverse = _warmup(kept), _inverse_gamma(kept)
    found = {
        "decay": decay,
        "min_decay": 0.0,
        "optimization_step": kept.updates,
        "update_after_step": 0,
        "use_ema_warmup": False,
        "inv_gamma": 1.0,
        "power": 2 / 3,
    }
    if inverse is not None:
        return found | {
            "min_decay": float(inverse["min_decay"]),
            "update_after_step": int(inverse["after"]),
            "use_ema_warmup": True,
            "inv_gamma": float(inverse["gamma"]),
            "power": float(inverse["power"]),
        }
    if warmup not in ("diffusers", "paper") or not kept.updates:
        _require_constant(kept, "diffusers", "None, 'paper', 'diffusers' or one of inverse_gamma")
        # It always warms up, unless the least decay is the decay.
        return found | {"min_decay": decay}
    # From its second update on the paper's warm-up is diffusers'.
    return found


def _decay(kept: Kept, tool: str) -> float:
    """The decay of an EMA.

    Raises:
        ConfigError: for another kind.
    """
    kind = kept.kind.get("kind")
    decay = kept.kind.get("decay")
    if kind != "ema" or not isinstance(decay, float):
        raise ConfigError(
            f"the average is of kind {kind!r}; expected an EMA, since {tool} keeps no other. "
            "Export it as a plain state dict, without --as."
        )
    return decay


def _warmup(kept: Kept) -> str | None:
    """The name of a warm-up that counts updates from the first on; None for any other."""
    warmup = kept.kind.get("warmup")
    counted = kept.kind.get("warmup_counts", "updates") == "updates"
    plain = isinstance(warmup, str) and counted and not kept.kind.get("start")
    return str(warmup) if plain else None


def _inverse_gamma(kept: Kept, *, counted: str = "updates") -> Mapping[str, Any] | None:
    """The settings of a warm-up by inverse gamma that counts from the first on."""
    warmup = kept.kind.get("warmup")
    if kept.kind.get("warmup_counts", "updates") != counted or kept.kind.get("start"):
        return None
    if warmup == "inverse_gamma":
        return _INVERSE_GAMMA
    is_one = isinstance(warmup, Mapping) and warmup.get("kind") == "inverse_gamma"
    return {**_INVERSE_GAMMA, **warmup} if is_one and isinstance(warmup, Mapping) else None


def _is_constant(kept: Kept) -> bool:
    """Whether the decay of an EMA is what it will be from now on."""
    after = Update(index=kept.updates, step=kept.steps + kept.every, since=kept.every)
    here = 1 - from_record(kept.kind).weight(after, kept.folded)
    return kept.kind.get("warmup") is None or isclose(here, kept.kind["decay"])


def _require_constant(kept: Kept, tool: str, known: str) -> None:
    """Refuse a decay that will still change in a way that the tool does not know.

    Raises:
        ConfigError: then.
    """
    if not _is_constant(kept):
        raise ConfigError(
            f"the warm-up is {kept.kind['warmup']!r} and has not ended; expected {known} for "
            f"{tool}, or an average whose decay has reached its end."
        )


TOOLS: dict[str, Callable[[Kept], Written]] = {
    "torch": _torch,
    "timm": _timm,
    "ema-pytorch": _ema_pytorch,
    "torch-ema": _torch_ema,
    "diffusers": _diffusers,
}
"""By the word of `polyak export --as`."""
