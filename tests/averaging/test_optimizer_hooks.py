"""Counting steps that took place, in every kind of training loop."""

import copy
import gc
import pickle

import pytest
import torch
from support.small_networks import assert_same_bits, batch, net, snapshot, train_step
from torch import nn

from polyak import EMA, Averager
from polyak.averaging.model.watch import Watch
from polyak.averaging.optimizer_hooks.rounds import overflowed
from polyak.errors import ConfigError, StateError


def sgd(model: nn.Module, **options: object) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, **options)


def attached(model, *optimizers, every=1):
    averager = Averager(model, [0.9, 0.99], every=every)
    averager.attach(*optimizers)
    return averager


def test_each_step_counts_after_it_was_taken():
    model = net()
    optimizer = sgd(model)
    averager = attached(model, optimizer)
    twin = Averager(model, [0.9, 0.99])
    for seed in range(5):
        train_step(model, optimizer, seed)
        twin.step()
        assert averager.steps == seed + 1
    assert_same_bits(averager.tensors("ema_0.9"), twin.tensors("ema_0.9"))


@pytest.mark.parametrize("hooked", [True, False])
def test_a_step_without_an_update_looks_at_no_weight(monkeypatch, hooked):
    """It costs a few microseconds, whatever the model is."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    averager = Averager(model, [0.9], every=3)
    if hooked:
        averager.attach(optimizer)
    looks = []
    holds = Watch.holds
    monkeypatch.setattr(Watch, "holds", lambda watch: looks.append(1) or holds(watch))
    for done in range(1, 7):
        looks.clear()
        optimizer.step()
        if not hooked:
            averager.step()
        assert bool(looks) is (done % 3 == 0)


def test_micro_batches_do_not_count():
    """Gradient accumulation: one step for several backward passes."""
    model = net()
    optimizer = sgd(model)
    averager = attached(model, optimizer, every=2)
    for seed in range(12):
        model(batch(seed)).sum().backward()
        if seed % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()
    assert (averager.steps, averager.updates) == (4, 2)


@pytest.mark.parametrize("fused", [False, True])
def test_steps_that_grad_scaler_skips_do_not_count(fused):
    model = net()
    optimizer = sgd(model, fused=fused)
    averager = attached(model, optimizer)
    scaler = torch.amp.GradScaler("cpu")
    for factor in (1.0, float("inf"), 1.0, float("nan"), 1.0):
        before = snapshot(model)
        held = averager.tensors("ema_0.9")
        optimizer.zero_grad()
        loss = model.eval()(batch(1)).square().mean() * factor
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if factor != 1.0:
            assert_same_bits(snapshot(model), before)
            assert_same_bits(averager.tensors("ema_0.9"), held)
    assert (averager.steps, averager.updates, averager.skipped) == (3, 3, 0)


def test_several_optimizers_count_once_the_last_has_stepped():
    """C15: Lightning's global step counts each of them."""
    model = net()
    first, second = (torch.optim.SGD(part.parameters(), lr=0.1) for part in (model[0], model[4]))
    averager = attached(model, first, second)
    first.step()
    assert averager.steps == 0
    first.step()  # a second one of the same before the other's
    assert averager.steps == 0
    second.step()
    assert averager.steps == 1
    first.step()
    assert averager.steps == 1
    second.step()
    assert averager.steps == 2


class Duo:
    """Two weights, each with an optimizer of its own, under one GradScaler."""

    def __init__(self, *, fused: bool = False) -> None:
        self.model = nn.ParameterList([nn.Parameter(torch.zeros(1)) for _ in range(2)])
        self.by_name = {
            name: torch.optim.SGD([p], lr=1.0, fused=fused)
            for name, p in zip("AB", self.model, strict=True)
        }
        self.averager = Averager(self.model, [EMA(0.0, warmup=None)])
        self.averager.attach(*self.by_name.values())
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)

    def iterate(self, order: str, *, overflow: str, apart: bool) -> None:
        """Step in an order; gradients of those in `overflow` are infinite.

        Backward passes come before all steps or, `apart`, each before its own.
        """
        self.model.zero_grad()
        for name in "" if apart else order:
            self._backward(name, overflow)
        for name in order:
            if apart:
                self._backward(name, overflow)
            self.scaler.step(self.by_name[name])
        self.scaler.update()

    def _backward(self, name: str, overflow: str) -> None:
        parameter = self.by_name[name].param_groups[0]["params"][0]
        self.scaler.scale(-parameter.sum()).backward()
        if name in overflow:
            parameter.grad.fill_(torch.inf)

    def in_phase(self) -> bool:
        """Whether the average is the weights as an iteration left them."""
        held = self.averager.tensors("ema_0").values()
        return all(torch.equal(m, x) for m, x in zip(held, self.model, strict=True))


@pytest.mark.parametrize("order", ["AB", "BA"])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    "overflows",
    [
        ["A", "", "", ""],
        ["B", "", "", ""],
        ["AB", "", "", ""],
        ["A", "A", "B", "", "AB", "A", "", "B", ""],
        ["", "A", "", "", "B", "", "AB", "", "A", "B", "", "B", "A", ""],
    ],
    ids=["first A", "first B", "first both", "begins badly", "later"],
)
def test_a_skipped_step_of_one_of_several_optimizers_does_not_shift_the_rounds(
    order, apart, fused, overflows
):
    """Whatever the order in which they were attached."""
    duo = Duo(fused=fused)
    for overflow in overflows:
        before = duo.averager.steps
        duo.iterate(order, overflow=overflow, apart=apart)
        counted = duo.averager.steps - before
        # The rest of an iteration may make a round with the rest of the next.
        assert counted == 1 or (overflow and counted == 0)
        assert duo.in_phase() or not counted


def test_the_rounds_of_three_optimizers_outlast_any_skip():
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(3)]
    optimizers = [torch.optim.SGD([p], lr=1.0) for p in parameters]
    averager = attached(nn.ParameterList(parameters), *optimizers)
    whole = 0
    for left_out in (None, 0, None, 1, None, 2, None, 1, 0, 2, None):
        for number, optimizer in enumerate(optimizers):
            before = averager.steps
            if number != left_out:
                optimizer.step()
            assert averager.steps == before or number == 2
        whole += left_out is None
        assert averager.steps == whole


def test_one_that_steps_more_often_counts_once_a_round():
    """As a critic does: its steps before the generator's are one round with that."""
    duo = Duo()
    for _ in range(3):
        for name in "AAAB":
            duo.by_name[name].step()
    assert duo.averager.steps == 3


@pytest.mark.parametrize("begun", [0, 2])
@pytest.mark.parametrize("gone", ["A", "B"])
def test_an_optimizer_that_no_longer_exists_is_not_waited_for(begun, gone):
    duo = Duo()
    for _ in range(begun):
        for optimizer in duo.by_name.values():
            optimizer.step()
    optimizer = None
    del duo.by_name[gone]
    gc.collect()
    [left] = duo.by_name.values()
    for _ in range(5):
        left.step()
    assert duo.averager.steps == begun + 5


def test_sparse_gradients_that_overflow_are_seen():
    embedding = nn.Embedding(3, 2, sparse=True)
    optimizer = torch.optim.SGD(embedding.parameters(), lr=1.0)
    assert not overflowed(optimizer)
    embedding(torch.tensor([1, 1])).sum().backward()
    assert not overflowed(optimizer)
    (embedding(torch.tensor([2])).sum() * torch.inf).backward()
    assert overflowed(optimizer)


def test_lbfgs_counts_one_step_for_many_closures():
    model = net().double()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=5)
    averager = attached(model, optimizer)
    calls = []

    def closure() -> torch.Tensor:
        calls.append(1)
        optimizer.zero_grad()
        loss = model(batch(0).double()).square().mean()
        loss.backward()
        return loss.detach()

    for _ in range(3):
        optimizer.step(closure)
    assert len(calls) > 3
    assert averager.steps == 3


def test_a_scheduler_that_wraps_step_changes_nothing():
    model = net()
    optimizer = sgd(model)
    averager = attached(model, optimizer)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer)
    for seed in range(3):
        train_step(model, optimizer, seed)
        scheduler.step()
    assert averager.steps == 3


def test_a_step_that_raises_does_not_count():
    model = net()
    optimizer = sgd(model)
    averager = attached(model, optimizer)

    def closure() -> float:
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        optimizer.step(closure)
    assert averager.steps == 0


def test_remove_ends_the_counting_and_may_be_called_twice():
    model = net()
    optimizer = sgd(model)
    averager = Averager(model, [0.9])
    handle = averager.attach(optimizer)
    train_step(model, optimizer, 0)
    handle.remove()
    handle.remove()
    train_step(model, optimizer, 1)
    assert averager.steps == 1
    averager.attach(optimizer)
    train_step(model, optimizer, 2)
    assert averager.steps == 2


def test_an_optimizer_given_twice_counts_once():
    model = net()
    optimizer = sgd(model)
    averager = attached(model, optimizer, optimizer)
    train_step(model, optimizer, 0)
    assert averager.steps == 1


def test_attaching_the_same_optimizer_again_is_refused():
    model = net()
    optimizer = sgd(model)
    averager = attached(model, optimizer)
    with pytest.raises(StateError, match="attached already"):
        averager.attach(optimizer)
    train_step(model, optimizer, 0)
    assert averager.steps == 1


def test_an_optimizer_built_later_can_be_attached_too():
    model = net()
    averager = attached(model, sgd(model))
    later = sgd(model)
    averager.attach(later)
    train_step(model, later, 0)
    assert averager.steps == 1


def test_two_averagers_may_watch_one_optimizer():
    model = net()
    optimizer = sgd(model)
    one, two = attached(model, optimizer), attached(model, optimizer, every=2)
    for seed in range(4):
        train_step(model, optimizer, seed)
    assert (one.updates, two.updates) == (4, 2)


class Prepared(torch.optim.Optimizer):
    """As Accelerate wraps: an optimizer by name, without hooks of its own."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self, closure=None):
        self.optimizer.step(closure)


class Delegating:
    """As Lightning wraps: whatever is asked of it is asked of the optimizer within."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def __getattr__(self, name):
        return getattr(self.optimizer, name)


class Lookahead(torch.optim.SGD):
    """Steps another optimizer, then moves on from what that did."""

    def __init__(self, model):
        super().__init__(model.parameters(), lr=0.0)
        self.optimizer = sgd(model)
        self.slow = snapshot(model)
        self.model = model

    def step(self, closure=None):
        self.optimizer.step()
        with torch.no_grad():
            for name, x in self.model.named_parameters():
                x.lerp_(self.slow[name], 0.5)


@pytest.mark.parametrize("wrap", [Prepared, Delegating, lambda o: Delegating(Prepared(o))])
@pytest.mark.parametrize("count", [1, 2])
def test_wrappers_without_hooks_of_their_own_count(wrap, count):
    models = [net() for _ in range(count)]
    optimizers = [sgd(model) for model in models]
    averager = attached(models[0], *map(wrap, optimizers))
    for seed in range(3):
        for model, optimizer in zip(models, optimizers, strict=True):
            train_step(model, optimizer, seed)
    assert averager.steps == 3
    with pytest.raises(StateError, match="attached already"):
        averager.attach(optimizers[0])


def test_an_optimizer_that_steps_another_counts_when_its_own_step_is_over():
    model = net()
    optimizer = Lookahead(model)
    averager, twin = attached(model, optimizer), Averager(model, [0.9, 0.99])
    train_step(model, optimizer, 0)
    # In the inner optimizer's hook the weights would not have moved back yet.
    twin.step()
    assert averager.steps == 1
    assert_same_bits(averager.tensors("ema_0.9"), twin.tensors("ema_0.9"))


@pytest.mark.parametrize("wrong", [None, "sgd", net()])
def test_what_is_no_optimizer_is_refused(wrong):
    with pytest.raises(ConfigError, match=r"optimizer is a \w+; expected a torch.optim.Optimizer"):
        Averager(net(), [0.9]).attach(wrong)


def test_attaching_nothing_is_refused():
    with pytest.raises(ConfigError, match="no optimizer"):
        Averager(net(), [0.9]).attach()


def test_a_step_while_an_average_is_applied_is_refused_before_it_writes():
    """C9: it would train the average."""
    model = net()
    optimizer = sgd(model)
    averager = attached(model, optimizer)
    train_step(model, optimizer, 0)
    own, held = snapshot(model), averager.tensors("ema_0.99")
    with (
        averager.applied("ema_0.99"),
        pytest.raises(StateError, match=r"optimizer\.step\(\) was called while"),
    ):
        optimizer.step()
    assert_same_bits(snapshot(model), own)
    assert_same_bits(averager.tensors("ema_0.99"), held)
    train_step(model, optimizer, 1)
    assert averager.steps == 2


def test_an_attached_optimizer_can_be_copied_and_pickled():
    model = net()
    optimizer = sgd(model)
    averager = attached(model, optimizer)
    train_step(model, optimizer, 0)
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        other.step()
    assert averager.steps == 1


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_averaging_does_not_change_training_by_one_bit(make):
    """C17: no decay of weights, no draw of random numbers, nothing hides in the averager."""
    ends = []
    for averages in (None, [0.9, 0.99, 0.998]):
        torch.manual_seed(3)
        model = net(dropout=0.5)
        optimizer = make(model.parameters(), lr=0.05, weight_decay=0.01)
        if averages:
            averager = Averager(model, averages, every=2)
            averager.attach(optimizer)
        for seed in range(12):
            train_step(model, optimizer, seed)
            if averages and seed % 4 == 3:
                averager.refresh_batchnorm([batch(90), batch(91)])
                for name in averager.names:
                    averager.tensors(name), averager.module(name)
                    with averager.applied(name):
                        model(batch(1))
        ends.append((snapshot(model), optimizer.state_dict(), torch.get_rng_state()))
    (plain, plain_optimizer, plain_rng), (averaged, optimizer_state, rng) = ends
    assert_same_bits(averaged, plain)
    assert torch.equal(rng, plain_rng)
    for index, state in plain_optimizer["state"].items():
        for key, x in state.items():
            got = optimizer_state["state"][index][key]
            assert torch.equal(got, x) if isinstance(x, torch.Tensor) else got == x
