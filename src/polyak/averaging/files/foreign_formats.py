"""How other tools lay out averages in a checkpoint, recognised by its keys.

Each reader takes a checkpoint's content and gives the weights, or None if it is not its tool's.
Names are the same for all: `average` and `raw` for what a tool tells apart, `weights` where the
content does not say which they are. Written from the tools' sources, as of 2026.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from polyak.averaging.files.averager_state import averages_of
from polyak.averaging.files.averages import SavedWeights
from polyak.averaging.files.state_dict_keys import name_by_order, strip_wrappers, tensors_of

Content = Mapping[str, Any]
Found = SavedWeights | None

_COMPILED = "_orig_mod."
_AVERAGED_BY_NAME = re.compile(r"(^|[_.])(ema|swa|avg|average|averaged)($|[_.])")


def recognise(content: object, model: nn.Module | None, *, nested: bool = True) -> Found:
    """The weights in a checkpoint's content; None if it holds none that are known.

    Args:
        content: What was in the file.
        model: Gives names to tools that store a list.
        nested: Whether to look into the values of a dict that is of no tool.
    """
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        return None
    if content and all(key.startswith(_COMPILED) for key in content):
        content = {key.removeprefix(_COMPILED): value for key, value in content.items()}
    found = (
        averages_of(content)
        or _lightning(content)
        or _timm(content)
        or _shadow_list(content, model)
        or _averaged_model(content)
        or _ema_pytorch(content)
        or _plain(content)
    )
    return found or (_checkpoint(content, model) if nested else None)


def _weights(
    tool: str, states: Mapping[str, dict[str, Tensor]], nature: Mapping[str, str], **facts: Any
) -> SavedWeights:
    known = {key: value for key, value in facts.items() if value is not None}
    return SavedWeights(states, manifest={"tool": tool, "weights": dict(nature), **known})


def _pair(
    tool: str, average: dict[str, Tensor] | None, raw: dict[str, Tensor] | None, **facts: Any
) -> Found:
    """An average and the weights it was taken of, either of which may be absent."""
    states = {"average": average, "raw": raw}
    present = {name: strip_wrappers(state) for name, state in states.items() if state}
    if not present:
        return None
    nature = {"average": "averaged", "raw": "raw"}
    return _weights(tool, present, {name: nature[name] for name in present}, **facts)


def _lightning(content: Content) -> Found:
    """WeightAveraging puts the average in `state_dict` and the raw weights beside it."""
    version = content.get("pytorch-lightning_version")
    state = tensors_of(content.get("state_dict"))
    if version is None or state is None:
        return None
    facts = {"steps": _whole(content.get("global_step")), "epoch": _whole(content.get("epoch"))}
    tool = f"Lightning {version}"
    averaging = content.get("averaging_state")
    raw = tensors_of(content.get("current_model_state"))
    if isinstance(averaging, Mapping) and raw is not None:
        updates = _whole(averaging.get("n_averaged"))
        return _pair(f"{tool} WeightAveraging", state, raw, updates=updates, **facts)
    callbacks = content.get("callbacks")
    for name, callback in callbacks.items() if isinstance(callbacks, Mapping) else ():
        if isinstance(callback, Mapping) and (own := averages_of(callback)):
            nature = {**own.manifest["weights"], "raw": "raw"}
            manifest = {**facts, **own.manifest, "tool": f"{tool} with polyak", "weights": nature}
            return SavedWeights({**own, "raw": strip_wrappers(state)}, manifest=manifest)
        if str(name).startswith("StochasticWeightAveraging") and isinstance(callback, Mapping):
            average = tensors_of(callback.get("average_model_state"))
            kinds = {"average": {"kind": "uniform"}} if average else None
            facts["updates"] = _whole(callback.get("n_averaged"))
            return _pair(f"{tool} {name}", average, state, averages=kinds, **facts)
    # At the end of training both callbacks leave the average here and say nothing.
    return _weights(tool, {"weights": strip_wrappers(state)}, {"weights": "unknown"}, **facts)


def _timm(content: Content) -> Found:
    average = tensors_of(content.get("state_dict_ema"))
    raw = tensors_of(content.get("state_dict"))
    if raw is None or (average is None and not {"arch", "version"} <= content.keys()):
        return None
    arch = content.get("arch")
    return _pair(
        "timm",
        average,
        raw,
        epoch=_whole(content.get("epoch")),
        model_class=arch if isinstance(arch, str) else None,
        averages={"average": {"kind": "ema"}} if average else None,
    )


def _shadow_list(content: Content, model: nn.Module | None) -> Found:
    """torch-ema and diffusers keep parameters as a list, in the order of `parameters()`."""
    if not {"decay", "shadow_params"} <= content.keys():
        return None
    average = name_by_order(content["shadow_params"], model)
    if average is None:
        return None
    names = None if model is not None else "order"
    if "optimization_step" in content:
        facts = diffusers_facts(content)
        return _pair("diffusers", average, None, names=names, buffers="not stored", **facts)
    updates = _whole(content.get("num_updates"))
    warmup = None if updates is None else "(1 + t)/(10 + t), t from 1"
    kind = {"kind": "ema", "decay": _fraction(content["decay"]), "warmup": warmup}
    return _pair(
        "torch-ema",
        average,
        # What `store()` set aside: the raw weights of that moment, however old.
        name_by_order(content.get("collected_params"), model),
        averages={"average": kind},
        updates=updates,
        buffers="not stored",
        names=names,
    )


def diffusers_facts(content: Content) -> dict[str, Any]:
    """The settings and the counter that diffusers stores with an average."""
    keys = ("min_decay", "update_after_step", "use_ema_warmup", "inv_gamma", "power")
    kind = {key: content[key] for key in keys if isinstance(content.get(key), bool | int | float)}
    kind = {"kind": "ema", "decay": _fraction(content["decay"]), **kind}
    return {"averages": {"average": kind}, "updates": _whole(content["optimization_step"])}


def _averaged_model(content: Content) -> Found:
    """torch's AveragedModel, which stores no decay."""
    rest = dict(content)
    updates = _whole(rest.pop("n_averaged", None))
    state = tensors_of(rest)
    if updates is None or state is None or not all(key.startswith("module.") for key in state):
        return None
    return _pair("torch AveragedModel", state, None, updates=updates)


def _ema_pytorch(content: Content) -> Found:
    if not {"initted", "step"} <= content.keys():
        return None
    average, raw = _below(content, "ema_model."), _below(content, "online_model.")
    steps = _whole(content["step"])
    # Before its first update the copy is that of the initial weights.
    begun = bool(_whole(content["initted"]))
    kinds = {"average": {"kind": "ema", "begun": begun}}
    return _pair("ema-pytorch", average, raw, steps=steps, averages=kinds) if average else None


def _plain(content: Content) -> Found:
    state = tensors_of(content)
    if state is None:
        return None
    return _weights("state dict", {"weights": strip_wrappers(state)}, {"weights": "unknown"})


def _checkpoint(content: Content, model: nn.Module | None) -> Found:
    """A dict of a training script: every value that is itself weights, under its key."""
    states: dict[str, dict[str, Tensor]] = {}
    nature: dict[str, str] = {}
    facts: dict[str, Any] = {}
    tools = ["checkpoint"]
    for key, value in content.items():
        part = recognise(value, model, nested=False)
        for inner, state in (part or {}).items():
            name = key if inner == "weights" else f"{key}.{inner}"
            states[name] = state
            nature[name] = (part.manifest if part else {})["weights"][inner]
            if nature[name] == "unknown" and _AVERAGED_BY_NAME.search(key.lower()):
                nature[name] = "averaged, by its name"
        if part and part.manifest["tool"] != "state dict":
            tools.append(part.manifest.pop("tool"))
            kinds = part.manifest.pop("averages", {})
            if (fresh := part.manifest.pop("refreshed_batchnorm", None)) is not None:
                facts.setdefault("refreshed_batchnorm", []).extend(f"{key}.{k}" for k in fresh)
            facts |= {k: v for k, v in part.manifest.items() if k != "weights"}
            facts.setdefault("averages", {}).update({f"{key}.{k}": v for k, v in kinds.items()})
    if not states:
        return None
    counters = {"epoch": _whole(content.get("epoch"))}
    counters["steps"] = _whole(content.get("global_step", content.get("step")))
    return _weights(" with ".join(tools), states, nature, **{**counters, **facts})


def _below(content: Content, prefix: str) -> dict[str, Tensor] | None:
    """The state dict whose keys begin with a prefix, without it."""
    found = {k.removeprefix(prefix): x for k, x in content.items() if k.startswith(prefix)}
    return tensors_of(found)


def _whole(value: object) -> int | None:
    """A whole number, also one in a tensor; None for anything else."""
    if isinstance(value, Tensor):
        plain = value.numel() == 1 and not value.is_floating_point() and not value.is_complex()
        value = int(value) if plain and value.device.type == "cpu" else None
    return int(value) if isinstance(value, int) else None


def _fraction(value: object) -> float | None:
    return float(value) if isinstance(value, float | int) and 0 <= value <= 1 else None
