import pytest
import torch
from torch import nn

from polyak import Averager
from polyak.models import ModelConfig, build
from polyak.training.fused_batchnorm import FusedModel, find_fusable


def _network(name: str, width: int | None = None) -> nn.Module:
    model = build(
        ModelConfig(name=name, width=width), classes=10, channels=3, image_size=32, generator_seed=0
    )
    return _lived_in(model).to(memory_format=torch.channels_last)


@torch.no_grad()
def _lived_in(model: nn.Module) -> nn.Module:
    """Scales, shifts and statistics as different as training makes them."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.01, 4)
            if module.affine:
                module.weight.uniform_(-1, 2)
                module.bias.normal_()
    return model.eval()


def _images(b: int = 6) -> torch.Tensor:
    return torch.randn(b, 3, 32, 32).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("name", "width", "folds"), [("resnet8", 4, 9), ("resnet20", 16, 21), ("vgg16", None, 0)]
)
@torch.no_grad()
def test_fused_logits_are_the_plain_ones_within_the_bound(name, width, folds):
    model = _network(name, width)
    fused = FusedModel(model)
    x_bchw = _images()
    expected = model(x_bchw)
    found = fused.load()(x_bchw)
    assert len(fused.pairs) == folds
    assert (found - expected).abs().max() <= FusedModel.BOUND * expected.abs().max()
    assert folds or torch.equal(found, expected)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in fused.module.modules()) == 0


@torch.no_grad()
def test_fused_logits_are_as_near_to_float64_as_plain_ones():
    model = _network("resnet20", 16)
    x_bchw = _images(32)
    fused = FusedModel(model).load()(x_bchw)
    plain = model(x_bchw)
    exact = model.double()(x_bchw.double())
    errors = [(logits.double() - exact).square().mean().sqrt() for logits in (fused, plain)]
    assert 0 < errors[0] <= 2 * errors[1]


@torch.no_grad()
def test_norms_before_a_convolution_stay():
    """As in pre-activation blocks, of which only every second BatchNorm follows a convolution."""
    model = _lived_in(
        nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    )
    fused = FusedModel(model)
    assert fused.pairs == {"2": "3"}
    x_bchw = _images()
    assert torch.allclose(fused.load()(x_bchw), model(x_bchw), atol=1e-5)


class _Twice(nn.Module):
    """A convolution whose output goes to a BatchNorm and past it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x_bchw):
        y_bchw = self.conv(x_bchw)
        return y_bchw + self.norm(y_bchw)


class _Shared(_Twice):
    """One BatchNorm after two convolutions."""

    def forward(self, x_bchw):
        return self.norm(self.conv(self.norm(self.conv(x_bchw))))


class _Reading(_Twice):
    """A forward pass that reads the BatchNorm's weight itself."""

    def forward(self, x_bchw):
        return self.norm(self.conv(x_bchw)) * self.norm.weight.sum()


class _Branching(_Twice):
    """A forward pass that depends on values, which no tracer follows."""

    def forward(self, x_bchw):
        return self.norm(self.conv(x_bchw)) if x_bchw.sum() > 0 else x_bchw


@pytest.mark.parametrize("kind", [_Twice, _Shared, _Reading, _Branching])
@torch.no_grad()
def test_what_cannot_be_fused_is_evaluated_layer_by_layer(kind):
    model = _lived_in(kind())
    assert find_fusable(model) == {}
    x_bchw = _images().abs()
    assert torch.equal(FusedModel(model).load()(x_bchw), model(x_bchw))


@pytest.mark.parametrize("options", [{"affine": False}, {"momentum": None}])
@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_biases_and_norms_without_weights_fold_too(bias, options):
    model = _lived_in(
        nn.Sequential(nn.Conv2d(3, 4, 3, groups=1, bias=bias), nn.BatchNorm2d(4, **options))
    )
    fused = FusedModel(model)
    x_bchw = _images()
    assert fused.pairs == {"0": "1"}
    assert torch.allclose(fused.load()(x_bchw), model(x_bchw), atol=1e-5)


def test_norms_without_running_statistics_stay():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    assert find_fusable(model) == {}


@torch.no_grad()
def test_each_load_takes_what_the_model_holds_then():
    model = _network("resnet8", 4)
    fused = FusedModel(model)
    averager = Averager(model, [0.5])
    for weight in model.parameters():
        weight.add_(0.1 * torch.randn_like(weight))
    averager.update()
    x_bchw = _images()
    for block in (averager.applied("ema_0.5"), torch.no_grad()):
        with block:
            expected = model(x_bchw)
            assert torch.allclose(fused.load()(x_bchw), expected, atol=1e-5)


def test_folding_leaves_the_model_in_training_and_its_weights_alone():
    model = _network("resnet8", 4).train()
    before = {key: x.clone() for key, x in model.state_dict().items()}
    module = FusedModel(model).load()
    assert all(part.training for part in model.modules())
    assert not any(part.training for part in module.modules())
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert all(torch.equal(before[key], x) for key, x in model.state_dict().items())
