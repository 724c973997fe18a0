"""How other tools lay out averages in a checkpoint: tables of marks, and what they mean.

Written from the tools' sources, as of 2026. In a path "a/b" is b in a, and "*" any text; lists have
their places as names, and a list of pairs (name, part) has those names.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from polyak.averaging.files.layouts.nesting import matches
from polyak.averaging.files.state_dict_keys import whole

AVERAGED, RAW, UNKNOWN = "averaged", "raw", "unknown"
OWN = "own"
"""Averages of an averager of ours, under their own names."""

BY_VALUES = "raw, or averaged if it is the average"
"""Of two files that a tool writes alike one holds the raw weights here, and one the average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A checkpoint of a tool, by what is always in it."""

    tool: str
    """"{version}" is the text at `version`."""

    marks: tuple[str, ...]
    """Paths that are there in every such checkpoint."""

    when: Mapping[str, object] = field(default_factory=dict)
    """Paths and the values that are there."""

    roles: Mapping[str, tuple[str | None, str]]
    """Path of weights → their name, None for that of the path, and what they are."""

    facts: Mapping[str, str] = field(default_factory=dict)
    """Path of a number or a text → its key in the manifest."""

    kind: Mapping[str, Any] | None = None
    """What is known of the average itself."""

    settings: Mapping[str, str] = field(default_factory=dict)
    """Path of a number → what it is of the average."""

    ordered: bool = False
    """Whether it keeps parameters as a list, and no buffers."""

    version: str | None = None


_AVERAGE, _RAW = ("average", AVERAGED), ("raw", RAW)
_LIGHTNING = ("pytorch-lightning_version", "state_dict")
_LIGHTNING_FACTS = {"global_step": "steps", "epoch": "epoch"}
_COMPOSER = "state/algorithms/EMA"
# What `store()` set aside: the raw weights of that moment, however old.
_TORCH_EMA = {"shadow_params": _AVERAGE, "collected_params": _RAW}
_DIFFUSERS = (
    "decay",
    "min_decay",
    "update_after_step",
    "use_ema_warmup",
    "inv_gamma",
    "power",
)

LAYOUTS = (
    Layout(
        tool="Lightning {version} WeightAveraging",
        version="pytorch-lightning_version",
        marks=(*_LIGHTNING, "current_model_state", "averaging_state"),
        # It puts the average where weights are expected.
        roles={"state_dict": _AVERAGE, "current_model_state": _RAW},
        facts={**_LIGHTNING_FACTS, "averaging_state/n_averaged": "updates"},
    ),
    Layout(
        tool="Lightning {version} StochasticWeightAveraging",
        version="pytorch-lightning_version",
        marks=(*_LIGHTNING, "callbacks/StochasticWeightAveraging*/average_model_state/*"),
        roles={
            "callbacks/StochasticWeightAveraging*/average_model_state": _AVERAGE,
            "state_dict": _RAW,
        },
        facts={
            **_LIGHTNING_FACTS,
            "callbacks/StochasticWeightAveraging*/n_averaged": "updates",
        },
        kind={"kind": "uniform"},
    ),
    Layout(
        tool="Lightning {version} StochasticWeightAveraging",
        version="pytorch-lightning_version",
        marks=(*_LIGHTNING, "callbacks/StochasticWeightAveraging*"),
        # It has not begun.
        when={"callbacks/StochasticWeightAveraging*/average_model_state": None},
        roles={"state_dict": _RAW},
        facts=_LIGHTNING_FACTS,
    ),
    Layout(
        # save="average": the average is where weights are expected.
        tool="Lightning {version} with polyak",
        version="pytorch-lightning_version",
        marks=(
            *_LIGHTNING,
            "callbacks/*/averages",
            "callbacks/*/tensors/*/*",
            "callbacks/*/raw/*",
        ),
        roles={"callbacks/*/raw": _RAW, "callbacks/*": (None, OWN), "state_dict": _AVERAGE},
        facts=_LIGHTNING_FACTS,
    ),
    Layout(
        tool="Lightning {version} with polyak",
        version="pytorch-lightning_version",
        marks=(*_LIGHTNING, "callbacks/*/averages", "callbacks/*/tensors/*/*"),
        roles={"callbacks/*": (None, OWN), "state_dict": _RAW},
        facts=_LIGHTNING_FACTS,
    ),
    Layout(
        # EMAOptimizer, NeMo 1.x: the average is in order of the optimizer's parameters. What
        # `state_dict` holds depends on which of its two files this is.
        tool="Lightning {version} with NeMo",
        version="pytorch-lightning_version",
        marks=(*_LIGHTNING, "optimizer_states/*/opt", "optimizer_states/*/ema/0"),
        roles={"optimizer_states/*/ema": _AVERAGE, "state_dict": ("raw", BY_VALUES)},
        facts={
            **_LIGHTNING_FACTS,
            "optimizer_states/*/current_step": "steps",
            "optimizer_states/*/every_n_steps": "every",
        },
        settings={"optimizer_states/*/decay": "decay"},
        ordered=True,
        kind={"kind": "ema"},
    ),
    Layout(
        # The callback of early NeMo: in the order of state_dict().
        tool="Lightning {version} with NeMo",
        version="pytorch-lightning_version",
        marks=(*_LIGHTNING, "callbacks/*/ema_weights/0", "callbacks/*/cur_step"),
        roles={"callbacks/*/ema_weights": _AVERAGE, "state_dict": ("raw", BY_VALUES)},
        facts={**_LIGHTNING_FACTS, "callbacks/*/cur_step": "steps"},
        kind={"kind": "ema"},
    ),
    Layout(
        # At the end of training its callbacks leave the average here and say nothing.
        tool="Lightning {version}",
        version="pytorch-lightning_version",
        marks=_LIGHTNING,
        roles={"state_dict": ("weights", UNKNOWN)},
        facts=_LIGHTNING_FACTS,
    ),
    Layout(
        # EMAHook exchanges the values before it saves; `steps` is of its averaged models.
        tool="mmengine EMAHook",
        marks=("state_dict/*", "ema_state_dict/steps", "ema_state_dict/module.*"),
        roles={"state_dict": _AVERAGE, "ema_state_dict": _RAW},
        facts={
            "ema_state_dict/steps": "updates",
            "meta/iter": "steps",
            "meta/epoch": "epoch",
        },
    ),
    Layout(
        tool="timm",
        marks=("state_dict", "state_dict_ema/*"),
        roles={"state_dict_ema": _AVERAGE, "state_dict": _RAW},
        facts={"epoch": "epoch", "arch": "model_class"},
        kind={"kind": "ema"},
    ),
    Layout(
        tool="timm",
        marks=("state_dict/*", "arch", "version"),
        roles={"state_dict": _RAW},
        facts={"epoch": "epoch", "arch": "model_class"},
    ),
    Layout(
        tool="RT-DETR",  # D-FINE and DEIM alike
        marks=("ema/module/*", "ema/updates"),
        roles={"ema/module": _AVERAGE, "model": _RAW},
        facts={"ema/updates": "updates", "last_epoch": "epoch"},
        kind={"kind": "ema"},
        settings={"ema/warmups": "warmups"},
    ),
    Layout(
        tool="fairseq",
        marks=("model", "extra_state/ema/*"),
        roles={
            "extra_state/ema": _AVERAGE,
            "extra_state/ema_fp32_params": (None, AVERAGED),
            "model": _RAW,
        },
        facts={
            "optimizer_history/*/num_updates": "updates",
            "extra_state/train_iterator/epoch": "epoch",
        },
        kind={"kind": "ema"},
    ),
    Layout(
        tool="audiocraft",
        marks=("ema/state/model/*", "ema/count"),
        roles={"ema/state/model": _AVERAGE, "ema/state/*": (None, AVERAGED), "model": _RAW},
        kind={"kind": "ema"},
    ),
    Layout(
        # While it saves, the network holds the average, and the raw weights are set aside.
        tool="Composer",
        marks=("state/model/*", f"{_COMPOSER}/ema_model/*", f"{_COMPOSER}/training_model/*"),
        when={f"{_COMPOSER}/ema_weights_active": True},
        roles={
            f"{_COMPOSER}/ema_model": _AVERAGE,
            f"{_COMPOSER}/training_model": _RAW,
            "state/model": (None, AVERAGED),
        },
        kind={"kind": "ema"},
    ),
    Layout(
        tool="Composer",
        marks=("state/model/*", f"{_COMPOSER}/ema_model/*"),
        roles={
            f"{_COMPOSER}/ema_model": _AVERAGE,
            "state/model": _RAW,
            # Set aside when averages were last shown, however long ago.
            f"{_COMPOSER}/training_model": (None, UNKNOWN),
        },
        kind={"kind": "ema"},
    ),
    Layout(
        tool="diffusers",
        marks=("decay", "shadow_params", "optimization_step"),
        roles={"shadow_params": _AVERAGE},
        facts={"optimization_step": "updates"},
        kind={"kind": "ema"},
        settings={name: name for name in _DIFFUSERS},
        ordered=True,
    ),
    Layout(
        tool="torch-ema",
        marks=("decay", "shadow_params"),
        when={"num_updates": None},
        roles=_TORCH_EMA,
        kind={"kind": "ema"},
        settings={"decay": "decay"},
        ordered=True,
    ),
    Layout(
        tool="torch-ema",
        marks=("decay", "shadow_params"),
        roles=_TORCH_EMA,
        facts={"num_updates": "updates"},
        kind={"kind": "ema", "warmup": "(1 + t)/(10 + t), t from 1"},
        settings={"decay": "decay"},
        ordered=True,
    ),
    Layout(
        tool="ddim",
        marks=("0/*", "1/param_groups", "1/state", "4/*"),
        roles={"4": _AVERAGE, "0": _RAW},
        facts={"2": "epoch", "3": "steps"},
        kind={"kind": "ema"},
    ),
)
"""The first that fits counts."""


def diffusers_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings and the counter that diffusers stores in the config of an average."""
    kind = {
        key: config[key] for key in _DIFFUSERS if isinstance(config.get(key), bool | int | float)
    }
    return {
        "averages": {"average": {"kind": "ema", **kind}},
        "updates": whole(config["optimization_step"]),
    }


def layout_of(content: object) -> Layout | None:
    """The tool whose checkpoint this is."""
    return next((layout for layout in LAYOUTS if _fits(layout, content)), None)


def _fits(layout: Layout, content: object) -> bool:
    # Most contents lack the first mark, and no other is looked for.
    return all(any(matches(content, mark)) for mark in layout.marks) and all(
        any(part is value for _, part in matches(content, path))
        for path, value in layout.when.items()
    )
