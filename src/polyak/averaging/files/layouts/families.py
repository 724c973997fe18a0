"""How other tools keep an average inside one state dict: counters beside it, and how names look.

Written from the tools' sources, as of 2026.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """An average inside one state dict, known by counters that lie beside it."""

    tool: str
    counters: tuple[str, ...]
    average: str
    """What the names of the average begin with, after what the counters' names begin with."""

    raw: str | None = None
    """Likewise of raw weights that are kept beside the average, if any."""

    spelled: Callable[[str], str] = str
    """How a name of the network is written in the average."""

    updates: str | None = None
    steps: str | None = None
    """The counter that counts these."""

    kind: Callable[[Mapping[str, Tensor]], dict[str, Any] | None] = lambda _: None
    """What the counters say of the average."""


def undotted(name: str) -> str:
    """As LitEma writes names, which become buffers of one module."""
    return name.replace(".", "")


def underscored(name: str) -> str:
    """As mmcv writes names, likewise."""
    return name.replace(".", "_")


def _lit_ema(counters: Mapping[str, Tensor]) -> dict[str, Any]:
    warms_up = int(counters["num_updates"]) >= 0
    warmup = {"warmup": "(1 + t)/(10 + t), t from 1"} if warms_up else {}
    return {"kind": "ema", "decay": round(float(counters["decay"]), 7), **warmup}


FAMILIES = (
    Family(
        tool="torch AveragedModel",
        counters=("n_averaged",),
        average="module.",
        updates="n_averaged",
    ),
    Family(
        tool="ema-pytorch",
        counters=("initted", "step"),
        average="ema_model.",
        raw="online_model.",
        steps="step",
        # Before its first update the copy is that of the initial weights.
        kind=lambda counters: {"kind": "ema", "begun": bool(counters["initted"])},
    ),
    Family(
        tool="LitEma",
        counters=("decay", "num_updates"),
        average="",
        spelled=undotted,
        updates="num_updates",
        kind=_lit_ema,
    ),
    Family(tool="mmengine", counters=("steps",), average="module.", updates="steps"),
)
