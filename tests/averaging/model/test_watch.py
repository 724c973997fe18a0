"""Everything that changes which tensors a model consists of is noticed, and nothing else."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from polyak.averaging.model.watch import Watch
from polyak.averaging.model.weights import sort_weights


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(4, 2))


def watched() -> tuple[nn.Sequential, Watch]:
    model = net()
    return model, Watch(model, sort_weights(model, buffers="average"))


def replace_data(model: nn.Sequential) -> None:
    model[0].weight.data = model[0].weight.data.clone()


def replace_parameter(model: nn.Sequential) -> None:
    model[2].weight = nn.Parameter(model[2].weight.detach())


def replace_buffer(model: nn.Sequential) -> None:
    model[1].running_mean = model[1].running_mean + 0


CHANGES: dict[str, Callable[[nn.Sequential], object]] = {
    "data": replace_data,
    "parameter": replace_parameter,
    "buffer": replace_buffer,
    "dtype": lambda model: model.double(),
    "layout": lambda model: model.to(memory_format=torch.channels_last),
    "frozen": lambda model: model[2].requires_grad_(False),
    "transposed": lambda model: setattr(model[2].weight, "data", model[2].weight.data.t()),
    "dimension": lambda model: setattr(model[2].bias, "data", model[2].bias.data[None]),
    "storage freed": lambda model: model[2].weight.untyped_storage().resize_(0),
    "layer added": lambda model: model.append(nn.Linear(2, 2)),
    "layer removed": lambda model: model.pop(2),
    "layer replaced": lambda model: model.__setitem__(2, nn.Linear(4, 2)),
    "parameter added": lambda model: setattr(model[2], "scale", nn.Parameter(torch.ones(1))),
    "parameter removed": lambda model: setattr(model[2], "bias", None),
    "buffer added": lambda model: model.register_buffer("seen", torch.zeros(1)),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_noticed(change):
    model, watch = watched()
    change(model)
    assert not watch.holds()
    assert not watch._each_holds()


class Other(torch.Tensor):
    """A tensor of a class that is not torch's own."""


def with_another_class() -> nn.Module:
    model = net()
    model.register_buffer("other", torch.ones(2).as_subclass(Other))
    return model


@pytest.mark.parametrize("make", [net, with_another_class])
def test_lists_are_compared_only_where_all_is_torchs_own(make):
    """The fast way and, place by place, the slow one."""
    model = make()
    watch = Watch(model, sort_weights(model, buffers="average"))
    assert (watch._columns is not None) == (make is net)
    assert watch.holds()
    assert watch._each_holds()
    model[0].bias.data = model[0].bias.data[:2]
    assert not watch.holds()
    assert not watch._each_holds()


def test_training_and_evaluating_are_no_change():
    model, watch = watched()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model[1](model[0](torch.randn(2, 2, 4, 4))).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    model.eval()
    model.load_state_dict(net().state_dict())
    assert watch.holds()
