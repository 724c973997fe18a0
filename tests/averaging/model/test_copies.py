"""Copies of a model that hold an average."""

import copy
import warnings
from threading import Event, Thread

import pytest
import torch
from support.small_networks import assert_same_bits, batch, drift, net, snapshot, train_step
from torch import nn

from polyak import EMA, Averager
from polyak.averaging.model.swap import holds_lent_weights
from polyak.errors import StateError


class Looking(nn.Linear):
    """Looks at the model that it is a part of whenever it is copied."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.look = []

    def __deepcopy__(self, memo):
        self.look[0]()
        return nn.Linear(2, 2)


def test_the_model_keeps_its_own_weights_and_mode_while_a_copy_is_made():
    """Else a serving thread would make the training thread's step fail, or train an average."""
    model = nn.Sequential(net(), Looking())
    averager = Averager(model, [0.9])
    averager.step()
    drift(model, 1)
    own, seen = snapshot(model), []

    def look():
        assert_same_bits(snapshot(model), own)
        seen.append((model.training, holds_lent_weights(model)))

    model[1].look.append(look)
    averager.module("ema_0.9")
    assert seen == [(True, False)]


def test_a_thread_may_take_copies_while_another_one_trains():
    torch.manual_seed(0)
    model, twin = net(), net()
    twin.load_state_dict(model.state_dict())
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.01) for m in (model, twin)]
    averagers = [Averager(m, [0.9]) for m in (model, twin)]
    for averager, optimizer in zip(averagers, optimizers, strict=True):
        averager.attach(optimizer)
    end, faults, taken = Event(), [], []

    def serve():
        try:
            taken.append(averagers[0].module("ema_0.9").training)
            while not end.is_set():
                taken.append(averagers[0].module("ema_0.9").training)
        except Exception as error:
            faults.append(error)

    thread = Thread(target=serve)
    thread.start()
    try:
        for seed in range(60):
            train_step(model, optimizers[0], seed)
    finally:
        end.set()
        thread.join()
    for seed in range(60):
        train_step(twin, optimizers[1], seed)
    assert not faults
    assert taken
    assert not any(taken)
    assert_same_bits(snapshot(model), snapshot(twin))
    assert_same_bits(averagers[0].tensors("ema_0.9"), averagers[1].tensors("ema_0.9"))


def test_a_thread_may_take_a_copy_while_another_one_evaluates():
    model = net()
    averager = Averager(model, [0.5, 0.9])
    drift(model, 1)
    averager.update()
    copies = []
    with averager.applied("ema_0.5"):
        thread = Thread(target=lambda: copies.append(averager.module("ema_0.9")))
        thread.start()
        thread.join()
    assert_same_bits(copies[0].state_dict(), averager.tensors("ema_0.9"))


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_a_copy_can_be_made_after_a_forward_pass_left_a_graph_behind(norm):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = nn.Sequential(norm(nn.Linear(3, 4)), nn.Tanh(), norm(nn.Linear(4, 2)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    averager = Averager(model, [EMA(0.5, warmup=None)])
    averager.attach(optimizer)
    for seed in range(3):
        train_step(model, optimizer, seed)
    assert not model[0].weight.is_leaf
    module = averager.module("ema_0.5")
    assert_same_bits(module.state_dict(), averager.tensors("ema_0.5"))
    assert not model[0].weight.is_leaf
    with averager.applied("ema_0.5"):
        torch.testing.assert_close(module(batch(3)), model(batch(3)))


def test_graphs_in_nested_containers_of_a_module_are_left_behind_too():
    model = net()
    averager = Averager(model, [0.9])
    output = model(batch(0))
    model.last = {"outputs": [output, (output,)]}
    model.last["itself"] = model.last
    theirs = averager.module("ema_0.9").last
    assert theirs["itself"] is theirs
    assert torch.equal(theirs["outputs"][0], output)
    assert theirs["outputs"][1][0] is theirs["outputs"][0]
    assert not theirs["outputs"][0].requires_grad


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.ema = Averager(self, [0.9])


def test_the_copy_of_a_model_that_holds_its_averager_has_none():
    model = Holder()
    averager = model.ema
    module = averager.module("ema_0.9")
    assert module.ema is None
    assert model.ema is averager
    assert_same_bits(module.state_dict(), averager.tensors("ema_0.9"))


def test_copying_a_model_that_holds_its_averager_says_to_keep_it_outside():
    with pytest.raises(StateError, match="Keep it outside the module"):
        copy.deepcopy(Holder())


def test_a_copy_holds_the_average_even_if_the_model_copies_itself_in_its_own_way():
    class Own(nn.Linear):
        def __deepcopy__(self, memo):
            made = Own(self.in_features, self.out_features)
            made.load_state_dict(self.state_dict())
            return made

    model = nn.Sequential(Own(3, 2), nn.Linear(2, 2))
    averager = Averager(model, [0.9])
    drift(model, 1)
    averager.update()
    assert_same_bits(averager.module("ema_0.9").state_dict(), averager.tensors("ema_0.9"))


def test_a_copy_shares_no_memory_with_the_average_nor_with_the_model():
    model = net()
    model.register_buffer("scale", torch.ones(1).expand(3))
    model.requires_grad_(True)[0].requires_grad_(False)
    averager = Averager(model, [0.9])
    own, held = snapshot(model), averager.tensors("ema_0.9")
    module = averager.module("ema_0.9")
    with torch.no_grad():
        for x in (*module.parameters(), module[1].running_mean):
            x.add_(1)
    module.scale = module.scale + 1
    assert_same_bits(snapshot(model), own)
    assert_same_bits(averager.tensors("ema_0.9"), held)
