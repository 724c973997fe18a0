"""VGG-16 against its published size, and what sets it apart: no BatchNorm, dropout, pooling."""

import pytest
import torch
from torch import nn

from polyak.models.vgg import vgg16


def test_parameter_count_is_the_known_one() -> None:
    with torch.device("meta"):
        model = vgg16(classes=100, channels=3)
    assert sum(p.numel() for p in model.parameters()) == 15_291_300


def test_there_is_no_batchnorm_and_no_buffer() -> None:
    with torch.device("meta"):
        model = vgg16(classes=100, channels=3)
    assert not any("Norm" in type(m).__name__ for m in model.modules())
    assert not list(model.buffers())


def test_it_has_thirteen_convolutions_and_three_linear_layers() -> None:
    with torch.device("meta"):
        model = vgg16(classes=100, channels=3)
    kinds = [type(m) for m in model.modules() if not list(m.children())]
    assert (kinds.count(nn.Conv2d), kinds.count(nn.Linear), kinds.count(nn.Dropout)) == (13, 3, 2)


def test_pooling_does_nothing_at_32_pixels() -> None:
    model = vgg16(classes=3, channels=3).eval()
    x = torch.randn(1, 3, 32, 32)
    maps = model.stages(x)
    assert maps.shape == (1, 512, 1, 1)
    assert torch.equal(model.head(model.hidden(maps.flatten(1))), model(x))


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_random_in_train_mode_only(training: bool) -> None:
    model = vgg16(classes=3, channels=1).train(training)
    x = torch.randn(1, 1, 32, 32)
    assert torch.equal(model(x), model(x)) is not training
