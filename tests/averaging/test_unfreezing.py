"""Fine-tuning that unfreezes a network part by part, and gives its optimizer more to train."""

import copy

import pytest
import torch
from support.small_networks import assert_same_bits, generator
from torch import Tensor, nn

from polyak import EMA, Averager, Uniform
from polyak.errors import WeightMismatchError

KINDS = (EMA(0.8, warmup=None, name="ema"), Uniform())


def backbone_and_head() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), nn.Linear(4, 4), nn.Linear(4, 2)
    )
    model[:2].requires_grad_(False)
    return model


def sgd_of(part: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(part.parameters(), lr=0.1, momentum=0.9)


def unfreeze(part: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """As `unfreeze_and_add_param_group` of Lightning's BackboneFinetuning."""
    part.requires_grad_(True)
    optimizer.add_param_group({"params": list(part.parameters()), "lr": 0.01})


def train(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    model(torch.randn(8, 4, generator=generator(seed))).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


class WrittenOut:
    """A copy at construction, and m ← m + w·(x − m) for every weight, frozen or not."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.updates = model, 0
        self.ema = copy.deepcopy(dict(model.state_dict()))
        self.sum = {name: torch.zeros_like(x) for name, x in self.ema.items()}

    def fold(self) -> None:
        self.updates += 1
        for name, x in self.model.state_dict().items():
            self.sum[name] += x
            if x.is_floating_point():
                self.ema[name] = self.ema[name] + 0.2 * (x - self.ema[name])
            else:
                self.ema[name] = x.clone()

    def assert_shown(self, averager: Averager) -> None:
        ema, uniform = averager.tensors("ema"), averager.tensors("uniform")
        for name, x in self.ema.items():
            torch.testing.assert_close(ema[name], x)
            if x.is_floating_point():
                torch.testing.assert_close(uniform[name], self.sum[name] / self.updates)


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("every", [1, 2])
def test_what_is_added_to_an_optimizer_is_averaged_from_then_on(every, reads):
    """From the back to the front, as Howard and Ruder (2018) and Lightning do it."""
    model = backbone_and_head()
    averager = Averager(model, KINDS, every=every)
    optimizer = sgd_of(model[2])
    averager.attach(optimizer)
    written_out = WrittenOut(model)
    for step in range(1, 13):
        if step in (4, 9):
            unfreeze(model[1] if step == 4 else model[0], optimizer)
            if reads:
                averager.tensors("ema")
        train(model, optimizer, step)
        if step % every == 0:
            written_out.fold()
            written_out.assert_shown(averager)
    assert averager.updates == 12 // every
    assert_same_bits(dict(averager.module("ema").state_dict()), averager.tensors("ema"))


def test_groups_that_are_frozen_and_thawed_beneath_one_optimizer_are_averaged_throughout():
    """As fastai's `freeze_to`: the optimizer has all from the start."""
    model = backbone_and_head()
    averager = Averager(model, KINDS)
    optimizer = sgd_of(model)
    averager.attach(optimizer)
    written_out = WrittenOut(model)
    for step in range(9):
        for number, part in enumerate(model):
            part.requires_grad_(number >= 2 - step // 3)
        train(model, optimizer, step)
        written_out.fold()
        written_out.assert_shown(averager)


def test_what_had_moved_before_it_was_added_is_refused_before_the_optimizer_writes():
    model = backbone_and_head()
    averager = Averager(model, KINDS)
    optimizer = sgd_of(model[2])
    averager.attach(optimizer)
    with torch.no_grad():
        model[1].weight.add_(1)
    unfreeze(model[1], optimizer)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    for _ in range(2):
        model(torch.ones(8, 4)).sum().backward()
        with pytest.raises(WeightMismatchError, match=r"1\.weight has moved .*track\(\)"):
            optimizer.step()
    statistics = {name for name in before if "running" in name or "tracked" in name}
    after = {name: x for name, x in model.state_dict().items() if name not in statistics}
    assert_same_bits(after, {name: x for name, x in before.items() if name not in statistics})
    averager.track()
    optimizer.step()
    assert averager.updates == 1


def test_what_is_added_within_another_optimizer_counts_too():
    class Outer(torch.optim.Optimizer):
        def __init__(self, parameters: list[Tensor]) -> None:
            super().__init__(parameters, {})
            self.base_optimizer = torch.optim.SGD(parameters, lr=0.1)

        def second_step(self) -> None:
            self.base_optimizer.step()

    model = backbone_and_head()
    averager = Averager(model, KINDS)
    outer = Outer(list(model[2].parameters()))
    averager.attach(outer)
    written_out = WrittenOut(model)
    unfreeze(model[1], outer.base_optimizer)
    for seed in range(3):
        model(torch.randn(8, 4, generator=generator(seed))).square().mean().backward()
        outer.second_step()
        written_out.fold()
        written_out.assert_shown(averager)


@pytest.mark.parametrize("added", [False, True])
def test_a_run_that_unfroze_is_resumed_whether_its_optimizer_has_the_group_already(added):
    model = backbone_and_head()
    averager = Averager(model, KINDS)
    optimizer = sgd_of(model[2])
    averager.attach(optimizer)
    unfreeze(model[1], optimizer)
    for seed in range(3):
        train(model, optimizer, seed)
    state, held = copy.deepcopy(averager.state_dict()), averager.tensors("ema")

    resumed_model = backbone_and_head()
    resumed_model.load_state_dict(model.state_dict())
    resumed = Averager(resumed_model, KINDS)
    resumed.load_state_dict(state)
    other = sgd_of(resumed_model[2])
    if added:
        unfreeze(resumed_model[1], other)
    resumed.attach(other)
    if not added:
        unfreeze(resumed_model[1], other)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert_same_bits(resumed.tensors("ema"), held)
    for seed in range(3, 6):
        train(model, optimizer, seed)
        train(resumed_model, other, seed)
    for name in averager.names:
        assert_same_bits(resumed.tensors(name), averager.tensors(name))


def test_an_optimizer_that_is_no_longer_attached_admits_nothing():
    model = backbone_and_head()
    averager = Averager(model, KINDS)
    optimizer = sgd_of(model[2])
    averager.attach(optimizer).remove()
    unfreeze(model[1], optimizer)
    train(model, optimizer, 0)
    with pytest.raises(WeightMismatchError, match=r"1\.(bias|weight).* trains now"):
        averager.step()
