"""First weights, drawn from an explicit generator."""

import math

import torch
from torch import nn


@torch.no_grad()
def initialise(model: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights of `model` anew, in the order of its modules.

        convolution  w ~ N(0, 2 / (k²·c_out)), bias 0       normalisation  weight 1, bias 0
        linear       w, bias ~ U(−1/√n_in, 1/√n_in), torch's default
        embedding    w ~ N(0, 0.02²)

    Linear layers keep torch's default because the averaging paper's code leaves them so, and
    because the learning rates that it found belong to it.

    Args:
        model: Consists of convolutions, normalisations and linear layers. Values that it holds
            may be undefined; all parameters and buffers are written.
        generator: On the device of the weights. The only source of randomness.

    Raises:
        TypeError: if a module of another type has parameters or buffers of its own.

    Source:
        He et al. 2015 in the form "fan out", as in the averaging paper's code for its residual
        nets and VGG (its WRN has torch's defaults). Embeddings as in GPT-2.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(
                module.weight, mode="fan_out", nonlinearity="relu", generator=generator
            )
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            _draw_linear(module, generator)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02, generator=generator)
        elif [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            raise TypeError(
                f"module {name!r} is {type(module).__name__}; expected Conv2d, "
                "BatchNorm2d, GroupNorm, LayerNorm, Linear or Embedding. Give it a rule here."
            )


def _draw_linear(module: nn.Linear, generator: torch.Generator) -> None:
    bound = 1 / math.sqrt(module.in_features)
    nn.init.uniform_(module.weight, -bound, bound, generator=generator)
    if module.bias is not None:
        nn.init.uniform_(module.bias, -bound, bound, generator=generator)
