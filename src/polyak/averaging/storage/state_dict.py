"""A saved averager's state: how it is sorted, whether it fits, and as one level of tensors."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from polyak.averaging import kernels
from polyak.averaging.model.buffers import Buffers, is_unaveraged
from polyak.averaging.model.weights import Weights
from polyak.errors import ConfigError, WeightMismatchError, few

_BY_AVERAGE = ("tensors", "remainder", "refreshed")
"""Parts of the state that hold tensors by average and key."""


def match_layout(
    own: Weights,
    record: Mapping[str, Any],
    *,
    buffers: Buffers,
    admitted: Collection[str] = (),
) -> Weights:
    """`own`, with what can be stored in more than one way where a state has it.

    That is frozen parameters, which may be averaged, and buffers that can be averaged, which may
    be copied instead. Gives `own` itself if that changes nothing.

    Args:
        own: The model's tensors.
        record: What `Store.record` gave.
        buffers: The setting here.
        admitted: Parameters that are averaged here although they may be frozen.
    """
    rows, copied = record.get("tensors"), record.get("copied")
    if not isinstance(rows, Mapping) or not isinstance(copied, Mapping):
        return own
    first: Mapping[str, Tensor] = next(iter(rows.values()), {})
    vectors = {key for key in own.copied if is_unaveraged(key, own.names)}
    averaged = set(first) - vectors
    if record.get("buffers") != buffers:
        # Also states of early versions, which do not say it: only what was frozen is known.
        averaged, copied = averaged - own.copied.keys(), {}
    thawed = {key: x for key, x in own.frozen.items() if key in averaged}
    floating = {k: x for k, x in own.copied.items() if k in averaged and kernels.averageable(x)}
    taken = {
        key: x
        for key, x in own.averaged.items()
        if key in copied and not isinstance(x, nn.Parameter)
    }
    refrozen = {k: x for k, x in own.averaged.items() if k in admitted and k not in averaged}
    if not (thawed or floating or taken or refrozen):
        return own
    taken |= refrozen
    return replace(
        own,
        averaged={k: x for k, x in own.averaged.items() if k not in taken} | thawed | floating,
        copied={k: x for k, x in own.copied.items() if k not in floating}
        | {k: x for k, x in taken.items() if k not in refrozen},
        frozen={k: x for k, x in own.frozen.items() if k not in thawed} | refrozen,
    )


def without_averaged_vectors(record: Mapping[str, Any], own: Weights) -> Mapping[str, Any]:
    """A state in which means of spectral norm's vectors, of early versions, are the model's own.

    Args:
        record: What `Store.record` gave.
        own: The model's tensors.
    """
    rows, copied = record.get("tensors"), record.get("copied")
    if not isinstance(rows, Mapping) or not isinstance(copied, Mapping):
        return record
    first: Mapping[str, Tensor] = next(iter(rows.values()), {})
    vectors = {
        key: x
        for key, x in own.copied.items()
        if key in first and key not in copied and is_unaveraged(key, own.names)
    }
    if not vectors:
        return record
    parts = {
        part: {
            name: {key: x for key, x in row.items() if key.rpartition("/")[2] not in vectors}
            for name, row in record[part].items()
        }
        for part in ("tensors", "remainder")
    }
    return {**record, **parts, "copied": {**copied, **vectors}}


def check_parts(saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse what is no averager's state.

    Args:
        saved: Anything.
        own: The state of the averager at hand.

    Raises:
        ConfigError: if it lacks a part.
    """
    if not isinstance(saved, Mapping):
        raise ConfigError(
            f"the state is a {type(saved).__name__}; expected what an averager's state_dict() "
            "gives. Read it first where it is in a file, as with torch.load."
        )
    # States of early versions do not say their dtypes, nor what they do with buffers.
    missing = own.keys() - saved.keys() - {"dtypes", "buffers"}
    if missing:
        raise ConfigError(
            f"the state lacks {few(missing)}; expected what an averager's state_dict() gives. "
            "Pass that, not a model's."
        )


def check_state(
    saved: Mapping[str, Any], own: Mapping[str, Any], *, snapshots: Mapping[str, int]
) -> None:
    """Refuse a saved state whose averages are not those of the averager at hand.

    Args:
        saved: A state that has all parts, see `check_parts`.
        own: The averager's present one.
        snapshots: Of averages that are means of their last snapshots, how many each keeps.

    Raises:
        ConfigError: for other averages, and another period or setting of buffers.
    """
    every, own_every = saved["history"]["every"], own["history"]["every"]
    if saved["averages"] != own["averages"] or every != own_every:
        raise ConfigError(
            f"the saved averages are {list(saved['averages'])} every {every} steps; "
            f"expected {list(own['averages'])} every {own_every}. "
            "Build the averager with the saved averages and period, or load what fits by "
            "strict=False."
        )
    if saved.get("buffers", own["buffers"]) != own["buffers"]:
        raise ConfigError(
            f"the saved averages are of buffers={saved['buffers']!r}; expected "
            f"{own['buffers']!r}. Build the averager with the saved buffers=."
        )
    for name, count in snapshots.items():
        _check_snapshots(saved, name, count)


def check_weights(
    saved: Mapping[str, Any], layout: Weights, *, dtypes: Mapping[str, torch.dtype]
) -> None:
    """Refuse a saved state whose tensors could not go on as those of a layout exactly.

    Args:
        saved: What `Store.record` gave.
        layout: What is averaged and copied here.
        dtypes: Of each weight's averages here, by key.

    Raises:
        WeightMismatchError: for other weights, or the same in another dtype.
    """
    # torch.distributed.checkpoint casts what it loads to the dtype of what it loads into.
    own_dtypes = dtype_names(dtypes.values())
    if saved.get("dtypes", own_dtypes) != own_dtypes:
        raise WeightMismatchError(
            f"the saved averages are {saved['dtypes']}; expected {own_dtypes}, or they would be "
            "rounded. Build the averager with the saved dtype=."
        )
    for tensors in saved["tensors"].values():
        Weights(averaged=layout.averaged).check_same(Weights(averaged=tensors))
        if cast := [key for key, dtype in dtypes.items() if tensors[key].dtype != dtype]:
            raise WeightMismatchError(
                f"the dtype of {few(cast)} is not that of the average; expected the same, or it "
                "would be rounded. Build the averager with the saved dtype=."
            )
    Weights(copied=layout.copied).check_same(Weights(copied=saved["copied"]))


def stored_dtypes(
    weights: Mapping[str, Tensor], dtype: torch.dtype | None
) -> dict[str, torch.dtype]:
    """The dtype of each weight's averages: `dtype`, or if None the weight's, widened.

    Complex weights keep theirs.
    """
    return {
        key: kernels.wide(x.dtype) if dtype is None or x.is_complex() else dtype
        for key, x in weights.items()
    }


def dtype_names(dtypes: Iterable[torch.dtype]) -> str:
    """The names of some dtypes, such as "float32"."""
    return ", ".join(sorted({str(dtype).removeprefix("torch.") for dtype in dtypes}))


def flattened(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """All tensors of what `Averager.state_dict()` gave, by `part/average/key` or `copied/key`."""
    flat = {f"copied/{key}": x for key, x in state["copied"].items()}
    for part in _BY_AVERAGE:
        for name, row in state[part].items():
            flat |= {f"{part}/{name}/{key}": x for key, x in row.items()}
    return flat


def unflattened(flat: Mapping[str, Tensor], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The state for `Averager.load_state_dict`, from its tensors and its plain values.

    Args:
        flat: What `flattened` gave.
        facts: The state's other parts, `averages` among them.
    """
    state: dict[str, Any] = {**facts, "copied": {}, "refreshed": {}}
    # Also where a part holds no tensor at all: every average has its row.
    state |= {part: {name: {} for name in facts["averages"]} for part in ("tensors", "remainder")}
    for full, tensor in flat.items():
        part, _, rest = full.partition("/")
        if part == "copied":
            state["copied"][rest] = tensor
        else:
            # Names of averages hold no slash.
            name, _, key = rest.partition("/")
            state[part].setdefault(name, {})[key] = tensor
    return state


def _check_snapshots(saved: Mapping[str, Any], name: str, count: int) -> None:
    """torch.distributed.checkpoint leaves out what a new averager has none of."""
    beside = saved["remainder"][name].keys() - saved["tensors"][name].keys()
    there = {key.partition("/")[0] for key in beside}
    due = min(count, saved["history"]["folded"][name])
    if len(there) != due:
        raise ConfigError(
            f"the state of {name!r} has {len(there)} snapshots; expected {due}. "
            "torch.distributed.checkpoint does not load them: keep the window in an averager "
            "of its own and begin it anew, or use another kind."
        )
