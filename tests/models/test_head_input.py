"""`features` is what the head sees, for our models and for others."""

import pytest
import torch
from torch import Tensor, nn

from polyak.errors import ConfigError
from polyak.models import ModelConfig, WideResNet, build, features


class Net(nn.Module):
    """A user's module whose forward is given."""

    def __init__(self, forward, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize(("name", "size"), [("resnet8", 8), ("resnet18", 8), ("vgg16", 32)])
def test_logits_are_the_head_of_the_features(name: str, size: int) -> None:
    config = ModelConfig(name=name)
    model = build(config, classes=5, channels=3, image_size=size, generator_seed=0).eval()
    x = torch.randn(2, 3, size, size)
    found = features(model, x)
    assert found.shape == (2, model.head.in_features)
    assert torch.equal(model.head(found), model(x))
    assert hooks(model) == 0


def test_features_of_a_wide_net_are_its_pooled_last_activation() -> None:
    model = WideResNet(10, 1, classes=5, channels=3).eval()
    x = torch.randn(2, 3, 8, 8)
    pooled = torch.relu(model.norm(model.stages(model.stem(x)))).mean(dim=(2, 3))
    torch.testing.assert_close(features(model, x), pooled)


def test_a_module_without_head_gives_the_input_of_its_last_linear_layer() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    x = torch.randn(5, 4)
    assert torch.equal(features(model, x), model[1](model[0](x)))


def test_a_named_head_wins_over_a_later_linear_layer() -> None:
    model = Net(
        lambda self, x: self.after(self.head(self.body(x))),
        head=nn.Linear(3, 2),
        body=nn.Linear(4, 3),
        after=nn.Linear(2, 2),
    )
    x = torch.randn(5, 4)
    assert torch.equal(features(model, x), model.body(x))


def test_a_head_of_several_layers_gives_the_input_of_its_last_linear_layer() -> None:
    head = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    model = Net(lambda self, x: self.head(x), head=head)
    x = torch.randn(5, 4)
    assert torch.equal(features(model, x), head[1](head[0](x)))


def test_an_input_given_by_keyword_is_seen() -> None:
    model = Net(lambda self, x: self.head(input=x * 2), head=nn.Linear(4, 2))
    x = torch.randn(5, 4)
    assert torch.equal(features(model, x), x * 2)


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_gradient_stay_the_callers_business(training: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).train(training)
    found = features(model, torch.randn(5, 4))
    assert found.requires_grad
    assert model.training is training
    with torch.no_grad():
        assert not features(model, torch.randn(5, 4)).requires_grad


def test_the_hook_is_gone_after_forward_raises() -> None:
    def fail(self: nn.Module, x: Tensor) -> Tensor:
        self.head(x)
        raise ArithmeticError("after the head")

    model = Net(fail, head=nn.Linear(4, 2))
    with pytest.raises(ArithmeticError, match="after the head"):
        features(model, torch.randn(5, 4))
    assert hooks(model) == 0


@pytest.mark.parametrize(
    "model",
    [nn.Conv2d(3, 5, 1), Net(lambda _, x: x, head=nn.Identity(), body=nn.Linear(3, 3))],
    ids=["none at all", "head without one"],
)
def test_a_model_without_a_linear_head_is_refused(model: nn.Module) -> None:
    with pytest.raises(ConfigError, match="no linear layer as its head; expected one"):
        features(model, torch.randn(2, 3, 4, 4))


@pytest.mark.parametrize(
    ("forward", "runs"), [(lambda s, x: s.head(x) + s.head(-x), 2), (lambda _, x: x, 0)]
)
def test_a_head_that_does_not_run_once_is_refused(forward, runs: int) -> None:
    with pytest.raises(ConfigError, match=rf"one forward pass is {runs}; expected 1"):
        features(Net(forward, head=nn.Linear(4, 4)), torch.randn(5, 4))


def test_a_last_linear_layer_that_does_not_give_the_output_is_refused() -> None:
    """Order of registration is not order of use: here the classifier came first."""
    model = Net(
        lambda self, x: self.classifier(self.body(x)),
        classifier=nn.Linear(3, 2),
        body=nn.Linear(4, 3),
    )
    with pytest.raises(ConfigError, match="not that of its last linear layer"):
        features(model, torch.randn(5, 4))
