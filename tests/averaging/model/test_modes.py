"""Train and eval mode, and modules with a `train` of their own."""

import pytest
import torch
from support.small_networks import assert_same_bits, batch, drift, net, raising, snapshot
from torch import nn

from polyak import EMA, Averager
from polyak.averaging.model.modes import eval_mode


def test_each_module_gets_its_own_flag_back():
    model = net()
    model.train()
    model[1].eval()
    with eval_mode(list(model.modules())):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model] == [True, False, True, True, True]
    with pytest.raises(RuntimeError, match="on purpose"), eval_mode(list(model.modules())):
        raising()
    assert [module.training for module in model] == [True, False, True, True, True]
    assert model.training


class Merging(nn.Linear):
    """Adds its adapter to the frozen weight in eval mode, as loralib does."""

    def __init__(self) -> None:
        super().__init__(3, 3)
        self.weight.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(2, 3))
        self.up = nn.Parameter(torch.randn(3, 2))
        self.merged = False

    def train(self, mode=True):
        super().train(mode)
        if self.merged == mode:
            self.weight.data += (1 - 2 * mode) * (self.up @ self.down)
            self.merged = not mode
        return self

    def forward(self, x):
        y = super().forward(x)
        return y if self.merged else y + x @ self.down.T @ self.up.T


class Remembering(nn.Linear):
    """Keeps its weight's exponential between forward passes in eval mode."""

    def __init__(self) -> None:
        super().__init__(3, 3)
        self.exponential = None

    def train(self, mode=True):
        if mode:
            self.exponential = None
        return super().train(mode)

    def forward(self, x):
        if self.training or self.exponential is None:
            exponential = torch.exp(self.weight)
            if self.training:
                return x @ exponential
            self.exponential = exponential.detach()
        return x @ self.exponential


def stepped(make):
    """A model whose averages differ from its weights and from each other, and its answers."""
    torch.manual_seed(1)
    model = nn.Sequential(make(), nn.BatchNorm1d(3))
    averager = Averager(model, [EMA(0.5, warmup=None), EMA(0.9, warmup=None)])
    for _ in range(3):
        with torch.no_grad():
            for x in model.parameters():
                x.add_(0.3 * torch.randn_like(x) * x.requires_grad)
        averager.update()
    own = snapshot(model)
    twin = nn.Sequential(make(), nn.BatchNorm1d(3))
    answers = {}
    for name in (None, *averager.names):
        twin.train().load_state_dict(own if name is None else averager.tensors(name))
        answers[name] = twin.eval()(batch(3)).detach()
    return model, averager, answers


OWN_TRAIN = pytest.mark.parametrize("make", [Merging, Remembering])


@OWN_TRAIN
@pytest.mark.parametrize("training", [True, False])
def test_every_block_answers_with_its_own_average(make, training):
    model, averager, answers = stepped(make)
    model.train(training)
    if not training:
        torch.testing.assert_close(model(batch(3)), answers[None])
    for name in (*averager.names, *averager.names):
        with averager.applied(name):
            torch.testing.assert_close(model(batch(3)), answers[name])
        torch.testing.assert_close(averager.module(name)(batch(3)), answers[name])
    assert model[0].training is training
    torch.testing.assert_close(model.eval()(batch(3)), answers[None])


@OWN_TRAIN
def test_nested_and_overlapping_blocks_answer_with_the_latest_average(make):
    model, averager, answers = stepped(make)
    first, second = averager.names
    with averager.applied(first):
        model(batch(3))
        with averager.applied(second):
            torch.testing.assert_close(model(batch(3)), answers[second])
        torch.testing.assert_close(model(batch(3)), answers[first])
    one, other = averager.applied(first), averager.applied(second)
    one.__enter__(), model(batch(3)), other.__enter__()
    one.__exit__(None, None, None)
    torch.testing.assert_close(model(batch(3)), answers[second])
    other.__exit__(None, None, None)
    torch.testing.assert_close(model.eval()(batch(3)), answers[None])


@pytest.mark.parametrize("training", [True, False])
def test_an_adapter_is_unmerged_on_leaving_and_the_weights_come_back_by_bit(training):
    model, averager, _ = stepped(Merging)
    model.train(training)
    own, averages = snapshot(model), {name: averager.tensors(name) for name in averager.names}
    for name in averager.names:
        with averager.applied(name):
            assert model[0].merged
        assert (model[0].training, model[0].merged) == (training, not training)
        assert_same_bits(snapshot(model), own)
    for name, held in averages.items():
        frozen = {"0.weight": own["0.weight"]}
        assert_same_bits(averager.tensors(name), held | frozen)


def test_eval_mode_alone_gives_a_merged_weight_back_by_bit():
    model, _, _ = stepped(Merging)
    own = snapshot(model)
    with eval_mode(list(model.modules())):
        assert model[0].merged
    assert not model[0].merged
    assert_same_bits(snapshot(model), own)


def test_a_parent_that_trains_its_children_leaves_each_its_own_mode():
    class Parent(nn.Module):
        def __init__(self):
            super().__init__()
            self.child = Merging()

        def train(self, mode=True):
            return super().train(mode)

    parent = Parent()
    parent.train(False)
    parent.child.train()
    averager = Averager(parent, [0.9])
    with averager.applied("ema_0.9"):
        assert parent.child.merged
    assert not parent.training
    assert (parent.child.training, parent.child.merged) == (True, False)


def test_the_own_weights_come_back_even_if_a_train_raises():
    class Raising(nn.Linear):
        def train(self, mode=True):
            if mode:
                raising()
            return super().train(mode)

    model = nn.Sequential(net(), Raising(2, 2))
    averager = Averager(model, [0.9])
    averager.step()
    drift(model, 1)
    own = snapshot(model)
    with pytest.raises(RuntimeError, match="on purpose"), averager.applied("ema_0.9"):
        pass
    assert_same_bits(snapshot(model), own)
    assert all(module.training for module in model.modules())
    averager.step()
