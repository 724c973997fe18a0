"""Continuing with averages that another tool has kept: their tensors, and the counts."""

from collections.abc import Mapping

from torch import Tensor, nn

from polyak.averaging import kernels
from polyak.averaging.kinds import Average, lerp_weights
from polyak.averaging.kinds.counters import Counters
from polyak.averaging.model import sharded
from polyak.averaging.model.weights import Weights
from polyak.errors import ConfigError, StateError, WeightMismatchError, few
from polyak.numbers import is_whole


def counters_after(steps: int, averages: Mapping[str, Average], *, every: int) -> Counters:
    """The counts of a bank that has taken so many optimizer steps and skipped no update.

    Args:
        steps: ≥ 0; every `every`-th of them was an update.
        averages: By name, each at the period `every`.
        every: Optimizer steps per update, ≥ 1.

    Raises:
        ConfigError: for any other number, and for windows, of which the mean is not enough.
    """
    if not is_whole(steps, least=0):
        raise ConfigError(f"steps is {steps!r}; expected a whole number >= 0 of optimizer steps.")
    if windows := [name for name, kind in averages.items() if kind.snapshots is not None]:
        raise ConfigError(
            f"{few(windows)} is a window, which needs its last snapshots; expected averages that "
            "go on from their mean. Keep windows in an averager of their own."
        )
    counters = Counters.at_start(averages, every=every)
    for at in range(every, steps + 1, every):
        moment = counters.next_update(steps=at)
        weights = lerp_weights(averages, moment, counters.folded)
        counters.count(moment, weights, steps=at, kinds=averages)
    counters.steps = steps
    return counters


def select_averaged(
    weights: Mapping[str, Tensor], current: Weights, *, name: str
) -> dict[str, Tensor]:
    """What is averaged, from a state dict of the model's names; buffers may be missing.

    Frozen and copied tensors are left out: they are the model's.

    Args:
        weights: An average under the names of `state_dict()`; tied weights may have any of theirs.
        current: The model's weights.
        name: The average's, for messages.

    Returns:
        By the names in `current`; of sharded tensors this process's shards.

    Raises:
        WeightMismatchError: for parameters that are missing, and unknown names or shapes.
        StateError: for whole tensors where the model's are shards.
    """
    state = {key: x for key, x in weights.items() if not key.endswith("_extra_state")}
    parameters = {key for key, x in current.averaged.items() if isinstance(x, nn.Parameter)}
    listed = {current.names.get(key, key): x for key, x in state.items()}
    missing, extra = parameters - listed.keys(), state.keys() - current.names.keys()
    if missing or extra:
        raise WeightMismatchError(
            f"the weights of {name!r} are not the model's: {len(missing)} missing "
            f"({few(missing)}), {len(extra)} unexpected ({few(extra)}). Name them as in the "
            "model's state_dict(), as polyak.read_foreign(path, model) does."
        )
    _refuse_reshaped(current.averaged, listed, name=name)
    taken = {key: listed[key] for key in current.averaged if key in listed}
    if whole := [key for key, x in taken.items() if _must_be_spread(current.averaged[key], x)]:
        raise StateError(
            f"{few(whole)} is not spread over processes as the model's is; expected DTensors. "
            "Spread it with torch.distributed.tensor.distribute_tensor."
        )
    return sharded.local_all(taken)


def _refuse_reshaped(own: Mapping[str, Tensor], given: Mapping[str, Tensor], *, name: str) -> None:
    """Refuse weights of other shapes than the model's, and say which side has which."""
    differing = [
        f"the shape of {key} is {tuple(given[key].shape)} in the file, "
        f"{tuple(x.shape)} in the model"
        for key, x in own.items()
        if key in given and given[key].shape != x.shape
    ]
    if differing:
        raise WeightMismatchError(
            f"the weights of {name!r} are of another model: {few(differing)}; expected equal "
            "shapes. Build the model as it was when they were saved."
        )


def find_nonfinite(weights: Mapping[str, Mapping[str, Tensor]]) -> list[str]:
    """Names of the tensors that hold NaN or infinity, each with its average's."""
    return [
        f"{key} of {name!r}"
        for name, tensors in weights.items()
        for key, x in tensors.items()
        if not kernels.all_finite([x])
    ]


def _must_be_spread(own: Tensor, given: Tensor) -> bool:
    return sharded.is_sharded(own) and sharded.layout(own) != sharded.layout(given)
