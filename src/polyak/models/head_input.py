"""Features: what the final classifier of a network sees.

Shape suffixes: b batch, f features, k classes.
"""

from typing import Any

import torch
from torch import Tensor, nn

from polyak.errors import ConfigError


def features(model: nn.Module, x: Tensor) -> Tensor:
    """The input of the model's final linear layer for a batch.

        logits = head(features(model, x))

    The head is the model's attribute `head`, or the last linear layer in it; without that
    attribute it is the model's last linear layer, whose output must be the model's.

    Args:
        model: Any of this package, or a module of yours. Its mode is left as it is: for features
            that depend on nothing but the image, call `model.eval()` first.
        x: What the model takes, for images (b, c, h, w).

    Returns:
        Shape (b, f) for our models; with gradient unless under `torch.no_grad`.

    Raises:
        ConfigError: if there is no linear layer, if it does not run exactly once a forward
            pass, or if a layer that was only guessed does not give the model's output.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> features(model, torch.zeros(5, 1, 2, 2)).shape
        torch.Size([5, 3])
    """
    named = getattr(model, "head", None)
    holder = named if isinstance(named, nn.Module) else model
    head = _last_linear(holder)
    if head is None:
        raise ConfigError(
            f"model {type(model).__name__} has no linear layer as its head; expected one nn.Linear "
            "that gives the logits. Name it `head`."
        )
    seen: list[tuple[Tensor, Tensor]] = []

    def remember(
        _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], logits_bk: Tensor
    ) -> None:
        seen.append((args[0] if args else kwargs["input"], logits_bk))

    hook = head.register_forward_hook(remember, with_kwargs=True)
    try:
        result = model(x)
    finally:
        hook.remove()
    if len(seen) != 1:
        raise ConfigError(
            f"runs of the head of {type(model).__name__} in one forward pass is {len(seen)}; "
            "expected 1. Pass a plain module, not a compiled one, whose head gives the logits."
        )
    features_bf, logits_bk = seen[0]
    if holder is model and not _same(result, logits_bk):
        raise ConfigError(
            f"the output of {type(model).__name__} is not that of its last linear layer; expected "
            "a model that ends in it. Name the layer that gives the logits `head`."
        )
    return features_bf


def _last_linear(module: nn.Module) -> nn.Linear | None:
    found = [part for part in module.modules() if isinstance(part, nn.Linear)]
    return found[-1] if found else None


def _same(result: object, logits_bk: Tensor) -> bool:
    # Wrappers such as DistributedDataParallel may hand on a copy.
    return result is logits_bk or (isinstance(result, Tensor) and torch.equal(result, logits_bk))
