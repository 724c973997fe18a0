"""Whether a saved averager's state is that of the averager at hand."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from polyak.averaging.inventory import Inventory
from polyak.errors import ConfigError, WeightMismatchError, few


def check_state(saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse a saved state that `own`, the averager's present one, could not go on from exactly.

    Raises:
        ConfigError: for other averages, another period or setting of buffers, or no averager's
            state at all.
        WeightMismatchError: for other weights, or the same in another dtype.
    """
    # States of early versions do not say their dtypes, nor what they do with buffers.
    missing = own.keys() - saved.keys() - {"dtypes", "buffers"}
    if missing:
        raise ConfigError(
            f"the state lacks {few(missing)}; expected what an averager's state_dict() gives. "
            "Pass that, not a model's."
        )
    every, own_every = saved["history"]["every"], own["history"]["every"]
    if saved["averages"] != own["averages"] or every != own_every:
        raise ConfigError(
            f"the saved averages are {list(saved['averages'])} every {every} steps; "
            f"expected {list(own['averages'])} every {own_every}. "
            "Build the averager with the saved averages and period."
        )
    if saved.get("buffers", own["buffers"]) != own["buffers"]:
        raise ConfigError(
            f"the saved averages are of buffers={saved['buffers']!r}; expected "
            f"{own['buffers']!r}. Build the averager with the saved buffers=."
        )
    # torch.distributed.checkpoint casts what it loads to the dtype of what it loads into.
    if saved.get("dtypes", own["dtypes"]) != own["dtypes"]:
        raise WeightMismatchError(
            f"the saved averages are {saved['dtypes']}; expected {own['dtypes']}, or they would be "
            "rounded. Build the averager with the saved dtype=."
        )
    _check_snapshots(saved)
    for name, tensors in own["tensors"].items():
        _check_tensors(tensors, saved["tensors"][name])
    Inventory(copied=own["copied"]).check_same(Inventory(copied=saved["copied"]))


def _check_snapshots(saved: Mapping[str, Any]) -> None:
    """torch.distributed.checkpoint leaves out what a new averager has none of."""
    for name, kind in saved["averages"].items():
        if kind["kind"] != "window":
            continue
        beside = saved["remainder"][name].keys() - saved["tensors"][name].keys()
        there = {key.partition("/")[0] for key in beside}
        due = min(kind["last"], saved["history"]["folded"][name])
        if len(there) != due:
            raise ConfigError(
                f"the state of {name!r} has {len(there)} snapshots; expected {due}. "
                "torch.distributed.checkpoint does not load them: keep the window in an averager "
                "of its own and begin it anew, or use another kind."
            )


def _check_tensors(own: dict[str, Tensor], saved: dict[str, Tensor]) -> None:
    Inventory(averaged=own).check_same(Inventory(averaged=saved))
    cast = [key for key, x in own.items() if x.dtype != saved[key].dtype]
    if cast:
        raise WeightMismatchError(
            f"the dtype of {few(cast)} is not that of the average; expected the same, or it would "
            "be rounded. Build the averager with the saved dtype=."
        )
