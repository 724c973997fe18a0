"""Reading batches of whatever form, and running a model on one."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from polyak.errors import ConfigError, DataError
from polyak.numbers import is_number

Forward = Callable[[nn.Module, Any], Any]


def take_samples(
    batches: Iterable[Any], *, max_samples: int | None = None, progress: bool = False
) -> Iterator[Any]:
    """The batches until `max_samples` samples have gone by, the last one whole.

    Raises:
        ConfigError: if `max_samples` is not positive.
        DataError: if there is no batch at all.
    """
    # Not by iter(), which would start a loader's workers; a torch Dataset has no __iter__.
    if not hasattr(batches, "__iter__") and not hasattr(batches, "__getitem__"):
        raise ConfigError(
            f"batches is a {type(batches).__name__}; expected a list or a loader. Pass what "
            "yields batches, after the model."
        )
    if max_samples is not None and not (is_number(max_samples) and max_samples >= 1):
        raise ConfigError(f"max_samples is {max_samples!r}; expected >= 1, or None for all.")
    seen = 0
    for batch in _tracked(batches) if progress else batches:
        yield batch
        seen += _samples(batch)
        if max_samples is not None and seen >= max_samples:
            return
    if not seen:
        raise DataError(
            "batches is empty; expected at least one batch. "
            "Pass a list or a loader: a generator that was read before has nothing left."
        )


def forward_batch(model: nn.Module, batch: Any) -> Any:
    """Run a model on a batch of one of the usual forms, moved to the model's device."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if isinstance(batch, Tensor):
        return model(batch.to(device))
    if isinstance(batch, Mapping):
        return model(**{k: v.to(device) if _is_tensor(v) else v for k, v in batch.items()})
    if isinstance(batch, list | tuple) and batch and _is_tensor(batch[0]):
        return model(batch[0].to(device))
    raise DataError(
        f"a batch is of type {type(batch).__name__!r}; expected a tensor, a sequence that starts "
        "with one, or a mapping. Pass forward=, a function of (model, batch)."
    )


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _samples(batch: Any) -> int:
    """Length of a batch's first tensor; a batch of a form that hides it counts as one."""
    if isinstance(batch, Mapping):
        values: Iterable[Any] = batch.values()
    else:
        values = batch if isinstance(batch, list | tuple) else (batch,)
    sizes = (v.shape[0] for v in values if isinstance(v, Tensor) and v.ndim)
    return next(sizes, 1)


def _tracked(batches: Iterable[Any]) -> Iterable[Any]:
    # Only who asks for a progress line needs the package that draws it.
    from rich.console import Console
    from rich.progress import track

    screen = Console(stderr=True)
    return track(batches, description="BatchNorm statistics", transient=True, console=screen)
