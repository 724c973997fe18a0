"""BatchNorm fused into the convolution before it, for evaluation.

Shape suffixes: o output channels, i input channels, k kernel.
"""

from copy import deepcopy

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd


class FusedModel:
    """A second module of one network that evaluates weights with BatchNorm fused in.

        W′ = W·γ/√(σ² + ε),   b′ = β + (b − μ)·γ/√(σ² + ε)

    Where the output of a convolution goes to a BatchNorm and nowhere else, one layer does both.
    A network whose forward pass cannot be traced, or has no such place, is evaluated layer by
    layer. Logits differ from the network's own by float32 rounding: relative to the largest
    they stay within `BOUND`, and are as near to a float64 evaluation as those.

    Args:
        source: The network, which may hold other weights (an average, say) at each `load`.
    """

    BOUND = 1e-5
    """Largest difference of a logit, relative to the largest logit of the batch."""

    def __init__(self, source: nn.Module) -> None:
        self._source = source
        self.pairs = find_fusable(source)
        """Names of the convolutions and of the BatchNorms fused into them."""
        self.module = deepcopy(source).requires_grad_(False)
        for convolution, norm in self.pairs.items():
            self.module.set_submodule(norm, nn.Identity())
            layer = self.module.get_submodule(convolution)
            assert isinstance(layer, _ConvNd)
            if layer.bias is None:
                layer.bias = nn.Parameter(layer.weight.new_zeros(layer.out_channels), False)
        self.module.eval()

    @torch.no_grad()
    def load(self) -> nn.Module:
        """The module with the weights that the network holds now, in eval mode."""
        fused: dict[str, Tensor] = {}
        for convolution, norm in self.pairs.items():
            weight, bias = _fuse(self._source, convolution, norm)
            fused |= {f"{convolution}.weight": weight, f"{convolution}.bias": bias}
        weights = dict(self._source.state_dict())
        for name, own in self.module.state_dict().items():
            own.copy_(fused[name] if name in fused else weights[name])
        return self.module


def find_fusable(model: nn.Module) -> dict[str, str]:
    """The BatchNorm after each convolution whose output goes nowhere else."""
    # Tracing calls the forward pass in eval mode, which the model itself must not notice.
    traced = deepcopy(model).eval()
    try:
        graph = fx.symbolic_trace(traced).graph
    except Exception:  # A user's forward pass may fail on a proxy in any way.
        return {}
    modules = dict(traced.named_modules())
    calls = [node for node in graph.nodes if node.op == "call_module"]
    targets = [str(node.target) for node in calls]
    read = [str(node.target) for node in graph.nodes if node.op == "get_attr"]
    found = {}
    for node in calls:
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        names = str(before.target), str(node.target)
        once = all(targets.count(name) == 1 for name in names)
        alone = not any(place.startswith(f"{name}.") for place in read for name in names)
        if once and alone and _is_pair(*(modules[name] for name in names)):
            found[names[0]] = names[1]
    return found


def _is_pair(convolution: nn.Module, norm: nn.Module) -> bool:
    # Only forward convolutions: a transposed one has its output channels elsewhere.
    return (
        type(convolution) in (nn.Conv1d, nn.Conv2d, nn.Conv3d)
        and type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
        and norm.running_mean is not None
    )


def _fuse(model: nn.Module, convolution: str, norm: str) -> tuple[Tensor, Tensor]:
    layer, statistics = model.get_submodule(convolution), model.get_submodule(norm)
    assert isinstance(layer, _ConvNd)
    assert isinstance(statistics, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
    assert statistics.running_mean is not None
    assert statistics.running_var is not None
    scale_o = torch.rsqrt(statistics.running_var + statistics.eps)
    if statistics.weight is not None:
        scale_o = scale_o * statistics.weight
    shift_o = (
        -statistics.running_mean if layer.bias is None else layer.bias - statistics.running_mean
    )
    bias_o = shift_o * scale_o
    if statistics.bias is not None:
        bias_o = bias_o + statistics.bias
    weight_oik = layer.weight * scale_o.reshape(-1, *[1] * (layer.weight.ndim - 1))
    return weight_oik, bias_o
