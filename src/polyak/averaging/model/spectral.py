"""Spectral norm's vectors for an average's own weights.

A layer under spectral norm divides its weight W by σ = uᵀWv, where power iteration follows the
leading singular vectors of W as it trains. Those are copied, never averaged, and then iterated
further on the average's W, so that its norm is 1 also where the direction has turned meanwhile.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm

_ITERATIONS = 15


@dataclass(frozen=True, slots=True)
class SpectralLayer:
    """Names of a weight under spectral norm and of its vectors."""

    weight: str
    u: str
    v: str
    matrix: Callable[[Tensor], Tensor]
    """The weight as the matrix whose norm it is."""

    eps: float


def spectral_layers(model: nn.Module) -> list[SpectralLayer]:
    """The layers of a model under `torch.nn.utils.spectral_norm` or its parametrization."""
    return [
        layer
        for path, module in model.named_modules()
        for layer in _of(module, f"{path}." if path else "")
    ]


@torch.no_grad()
def vectors_of(
    layers: list[SpectralLayer], weights: Mapping[str, Tensor], copied: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The vectors of an average's weights, by power iteration from those that were copied.

    Args:
        layers: Of the model.
        weights: What is averaged, dense.
        copied: What is copied; vectors that are read from the model are left alone.
    """
    found: dict[str, Tensor] = {}
    for layer in layers:
        if layer.weight not in weights or layer.u not in copied or layer.v not in copied:
            continue
        u, v = copied[layer.u], copied[layer.v]
        matrix = layer.matrix(weights[layer.weight].to(u))
        for _ in range(_ITERATIONS):
            u = functional.normalize(matrix.mv(v), dim=0, eps=layer.eps)
            v = functional.normalize(matrix.t().mv(u), dim=0, eps=layer.eps)
        found |= {layer.u: u, layer.v: v}
    return found


def _of(module: nn.Module, prefix: str) -> Iterator[SpectralLayer]:
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, SpectralNorm):
            own = f"{prefix}{hook.name}"
            yield SpectralLayer(
                f"{own}_orig", f"{own}_u", f"{own}_v", hook.reshape_weight_to_matrix, hook.eps
            )
    # Of a weight with another parametrization before this one the average is not at hand.
    if isinstance(module, ParametrizationList) and isinstance(module[0], _SpectralNorm):
        first = module[0]
        yield SpectralLayer(
            f"{prefix}original",
            f"{prefix}0._u",
            f"{prefix}0._v",
            first._reshape_weight_to_matrix,
            first.eps,
        )
