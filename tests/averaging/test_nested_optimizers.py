"""Optimizers that step others: whichever calls a step is made of, it counts once."""

import copy
import gc
import pickle
from collections import defaultdict

import pytest
import torch
from support.small_networks import assert_same_bits, batch, net, snapshot, train_step
from torch import nn

from polyak import EMA, Averager
from polyak.errors import StateError

AVERAGES = (EMA(0.9, warmup=None, name="a"), EMA(0.5, warmup=None, name="b"))


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


class SAM(torch.optim.Optimizer):
    """As davda54/sam: looks uphill, then steps the base optimizer from where it was."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.parameters(), {"rho": 0.05})
        self.base_optimizer = sgd(model)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self) -> None:
        for x in self.param_groups[0]["params"]:
            self.state[x]["old"] = x.clone()
            x.add_(x.grad, alpha=0.05)
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        for x in self.param_groups[0]["params"]:
            x.copy_(self.state[x]["old"])
        self.base_optimizer.step()
        self.zero_grad()

    @torch.no_grad()
    def step(self, closure):
        closure = torch.enable_grad()(closure)
        self.first_step()
        closure()
        self.second_step()


class Slow:
    """Moves half-way back after each step, as Lookahead does after some."""

    def remember(self, model):
        self.model = model
        self.slow = snapshot(model)

    def move_back(self):
        with torch.no_grad():
            for name, x in self.model.named_parameters():
                x.lerp_(self.slow[name], 0.5)


class Lookahead(Slow, torch.optim.Optimizer):
    """As most that are in use: an Optimizer that torch has not set up, so it calls no hooks."""

    def __init__(self, optimizer, model):
        self.remember(model)
        self.optimizer = optimizer
        self.param_groups = optimizer.param_groups
        self.state = defaultdict(dict)
        self.defaults = {}

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none)

    def __getstate__(self):
        return dict(vars(self))

    def __setstate__(self, state):
        vars(self).update(state)

    def step(self, closure=None):
        loss = self.optimizer.step(closure)
        self.move_back()
        return loss


class HooklessLookahead(Slow, torch.optim.Optimizer):
    """As timm's: it has places for hooks, which nothing calls."""

    def __init__(self, optimizer, model):
        self.remember(model)
        self._optimizer_step_pre_hooks = {}
        self._optimizer_step_post_hooks = {}
        self._base_optimizer = optimizer
        self.param_groups = optimizer.param_groups

    def step(self, closure=None):
        self._base_optimizer.step(closure)
        self.move_back()


class SetUpLookahead(Slow, torch.optim.Optimizer):
    """One that torch has set up, so that its hooks and those within it are called."""

    def __init__(self, optimizer, model):
        super().__init__(model.parameters(), {})
        self.remember(model)
        self.inner = optimizer

    def step(self, closure=None):
        self.inner.step(closure)
        self.move_back()


class PlainLookahead(Slow):
    """No optimizer at all, but steps one."""

    def __init__(self, optimizer, model):
        self.remember(model)
        self.optimizer = optimizer
        self.param_groups = optimizer.param_groups

    def step(self, closure=None):
        self.optimizer.step(closure)
        self.move_back()


class Many(torch.optim.Optimizer):
    """A list of optimizers, of one part of the model each."""

    def __init__(self, model):
        parts = [part for part in model if list(part.parameters())]
        self.parts = [sgd(part) for part in parts]
        super().__init__(model.parameters(), {})

    def step(self, closure=None):
        for optimizer in self.parts:
            optimizer.step()


class PlainMany:
    """The same as a plain object with a mapping."""

    def __init__(self, model):
        parts = {name: part for name, part in model.named_children() if list(part.parameters())}
        self.optimizers = {name: sgd(part) for name, part in parts.items()}

    def step(self, closure=None):
        for optimizer in self.optimizers.values():
            optimizer.step()


class Calling(torch.optim.SGD):
    """A subclass that adds to what its base does."""

    def __init__(self, model):
        super().__init__(model.parameters(), lr=0.1)

    def step(self, closure=None):
        super().step(closure)
        with torch.no_grad():
            for x in self.param_groups[0]["params"]:
                x.mul_(0.9)


class ByHand(torch.optim.Optimizer):
    """An optimizer that torch has not set up, and that holds no other."""

    def __init__(self, model):
        self.param_groups = [{"params": list(model.parameters())}]

    def zero_grad(self):
        for x in self.param_groups[0]["params"]:
            x.grad = None

    def step(self, closure=None):
        with torch.no_grad():
            for x in self.param_groups[0]["params"]:
                x.sub_(x.grad, alpha=0.1)


LOOKAHEADS = (Lookahead, HooklessLookahead, SetUpLookahead, PlainLookahead)
MADE = {
    "sgd": sgd,
    "many": Many,
    "plain many": PlainMany,
    "calling its base": Calling,
    "by hand": ByHand,
    **{kind.__name__: lambda model, kind=kind: kind(sgd(model), model) for kind in LOOKAHEADS},
    **{
        f"{outer.__name__} of {inner.__name__}": lambda model, outer=outer, inner=inner: outer(
            inner(sgd(model), model), model
        )
        for outer in LOOKAHEADS
        for inner in LOOKAHEADS
    },
    "list of lookaheads": lambda model: PlainList([kind(sgd(model), model) for kind in LOOKAHEADS]),
}


class PlainList:
    def __init__(self, optimizers):
        self.optimizers = optimizers

    def step(self):
        for optimizer in self.optimizers:
            optimizer.step()


@pytest.mark.parametrize("kind", MADE)
def test_each_step_counts_once_when_the_outermost_call_is_over(kind):
    torch.optim.SGD([torch.zeros(1)], lr=0.1)  # Its own class's step calls hooks from here on.
    model = net()
    optimizer = MADE[kind](model)
    averager, twin = Averager(model, AVERAGES), Averager(model, AVERAGES)
    averager.attach(optimizer)
    for seed in range(4):
        model.zero_grad()
        model(batch(seed)).square().mean().backward()
        optimizer.step()
        twin.step()
        assert averager.steps == seed + 1
    for name in averager.names:
        assert_same_bits(averager.tensors(name), twin.tensors(name))


@pytest.mark.parametrize("kind", MADE)
def test_a_step_that_raises_does_not_count_and_the_next_one_does(kind, monkeypatch):
    model = net()
    optimizer = MADE[kind](model)
    averager = Averager(model, AVERAGES)
    averager.attach(optimizer)

    def backward():
        model.zero_grad()
        model(batch(0)).square().mean().backward()

    backward()
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "add_", _raise)  # within the innermost
        patch.setattr(torch.Tensor, "mul_", _raise)
        patch.setattr(torch.Tensor, "sub_", _raise)
        patch.setattr(torch.Tensor, "lerp_", _raise)
        patch.setattr(torch, "_foreach_add_", _raise)
        with pytest.raises(RuntimeError, match="on purpose"):
            optimizer.step()
    assert averager.steps == 0
    for seed in range(2):
        backward()
        optimizer.step()
        assert averager.steps == seed + 1


def _raise(*_, **__):
    raise RuntimeError("on purpose")


@pytest.mark.parametrize("kind", [k for k in MADE if "Lookahead" in k])
def test_a_step_of_the_inner_one_alone_counts_too(kind):
    model = net()
    optimizer = MADE[kind](model)
    averager = Averager(model, AVERAGES)
    averager.attach(optimizer)
    inner = optimizer
    while not isinstance(inner, torch.optim.SGD):
        held = vars(inner)
        inner = next(held[x] for x in ("optimizer", "_base_optimizer", "inner") if x in held)
    for count in range(1, 4):
        train_step(model, inner, count)
        assert averager.steps == 2 * count - 1
        model.zero_grad()
        model(batch(count)).square().mean().backward()
        optimizer.step()
        assert averager.steps == 2 * count


def sam_step(sam: SAM, model: nn.Module, seed: int, way: str) -> None:
    def closure():
        loss = model(batch(seed)).square().mean()
        loss.backward()
        return loss.detach()

    closure()
    if way == "step":
        sam.step(closure)
    else:
        sam.first_step()
        closure()
        sam.second_step()


@pytest.mark.parametrize(
    "ways", [["step"] * 5, ["halves"] * 5, ["step", "halves", "halves", "step", "halves"]]
)
@pytest.mark.parametrize("held", ["whole", "base"])
def test_sam_counts_the_steps_of_its_base_however_it_is_called(ways, held):
    """Its first step is undone by its second one, so only that changes the weights for good."""
    model = net()
    sam = SAM(model)
    averager, twin = Averager(model, AVERAGES), Averager(model, AVERAGES)
    averager.attach(sam if held == "whole" else sam.base_optimizer)
    for seed, way in enumerate(ways):
        sam_step(sam, model, seed, way)
        twin.step()
        assert averager.steps == seed + 1
    for name in averager.names:
        assert_same_bits(averager.tensors(name), twin.tensors(name))


def test_a_step_of_sam_that_raised_half_way_leaves_its_halves_counted():
    model = net()
    sam = SAM(model)
    averager = Averager(model, AVERAGES)
    averager.attach(sam)
    sam_step(sam, model, 0, "halves")
    model(batch(0)).sum().backward()
    with pytest.raises(RuntimeError, match="on purpose") as kept:
        sam.step(_raise)
    assert averager.steps == 1
    for seed in range(3):
        sam_step(sam, model, seed, "halves")
    assert averager.steps == 4
    assert kept is not None  # its frames are alive all the while


def test_a_list_of_optimizers_that_are_stepped_one_by_one_counts_rounds():
    model = net()
    optimizer = Many(model)
    averager = Averager(model, AVERAGES)
    averager.attach(optimizer)
    model(batch(0)).sum().backward()
    for count in range(1, 4):
        for part in optimizer.parts:
            assert averager.steps == 2 * (count - 1)
            part.step()
        assert averager.steps == 2 * count - 1
        optimizer.parts[0].step()  # of a round that the whole one's step ends
        optimizer.step()
        assert averager.steps == 2 * count


def test_several_nested_ones_count_in_rounds():
    models = [net(), net()]
    first, second = SAM(models[0]), Lookahead(sgd(models[1]), models[1])
    averager = Averager(nn.ModuleList(models), AVERAGES)
    averager.attach(first, second)
    for seed in range(3):
        sam_step(first, models[0], seed, "halves")
        assert averager.steps == seed
        train_step(models[1], second, seed)
        assert averager.steps == seed + 1


def test_one_given_with_the_one_that_holds_it_counts_once():
    model = net()
    sam = SAM(model)
    averager = Averager(model, AVERAGES)
    averager.attach(sam.base_optimizer, sam)
    sam_step(sam, model, 0, "step")
    sam_step(sam, model, 1, "halves")
    assert averager.steps == 2
    for part in (sam, sam.base_optimizer):
        with pytest.raises(StateError, match="attached already"):
            averager.attach(part)


def test_an_optimizer_that_only_knows_of_another_does_not_count_its_steps():
    models = [net(), net()]
    generator, critic = map(sgd, models)
    generator.critic = critic
    averager = Averager(models[0], AVERAGES)
    averager.attach(generator)
    train_step(models[1], critic, 0)
    assert averager.steps == 0
    train_step(models[0], generator, 0)
    assert averager.steps == 1


@pytest.mark.parametrize("kind", LOOKAHEADS)
def test_the_inner_one_goes_on_counting_when_the_outer_one_is_gone(kind):
    model = net()
    inner = sgd(model)
    averager = Averager(model, AVERAGES)
    averager.attach(kind(inner, model))
    gc.collect()
    for seed in range(3):
        train_step(model, inner, seed)
    assert averager.steps == 3


@pytest.mark.parametrize("kind", LOOKAHEADS)
def test_removing_leaves_an_optimizer_as_it_was(kind):
    model = net()
    optimizer = kind(sgd(model), model)
    model(batch(0)).sum().backward()
    averagers = [Averager(model, AVERAGES) for _ in range(2)]
    first, second = [averager.attach(optimizer) for averager in averagers]
    optimizer.step()
    second.remove()
    optimizer.step()
    second = averagers[1].attach(optimizer)
    first.remove()  # not the one that was attached last
    optimizer.step()
    second.remove()
    optimizer.step()
    assert [averager.steps for averager in averagers] == [2, 2]
    fresh = kind(sgd(model), model)
    Averager(model, AVERAGES).attach(fresh).remove()
    assert "step" not in vars(fresh)


@pytest.mark.parametrize("kind", [Lookahead, PlainLookahead])
def test_a_watched_optimizer_can_be_copied_and_pickled_and_scheduled(kind):
    model = net()
    optimizer = kind(sgd(model), model)
    averager = Averager(model, AVERAGES)
    averager.attach(optimizer)
    model(batch(0)).sum().backward()
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        other.step()
    assert averager.steps == 0
    if kind is Lookahead:
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
        optimizer.step()
        scheduler.step()
        assert averager.steps == 1


@pytest.mark.parametrize("kind", ["Lookahead", "PlainLookahead", "many", "by hand"])
def test_a_step_while_an_average_is_applied_is_refused_before_it_writes(kind):
    model = net()
    optimizer = MADE[kind](model)
    averager = Averager(model, AVERAGES)
    averager.attach(optimizer)
    held = averager.tensors("a")
    with averager.applied("a"), pytest.raises(StateError, match=r"optimizer\.step\(\)"):
        optimizer.step()
    assert_same_bits(averager.tensors("a"), held)


def test_a_wrapper_that_steps_nothing_does_not_count():
    """As Accelerate's, which passes over the steps of gradient accumulation."""

    class Accumulating(torch.optim.Optimizer):
        def __init__(self, optimizer):
            self.optimizer = optimizer
            self.calls = 0

        def step(self, closure=None):
            self.calls += 1
            if self.calls % 3 == 0:
                self.optimizer.step(closure)

    model = net()
    optimizer = Accumulating(sgd(model))
    averager = Averager(model, AVERAGES)
    averager.attach(optimizer)
    model(batch(0)).sum().backward()
    for count in range(1, 10):
        optimizer.step()
        assert averager.steps == count // 3


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", [Lookahead, PlainLookahead, SetUpLookahead])
def test_steps_that_grad_scaler_skips_do_not_count(kind, fused):
    model = net().eval()
    inner = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    optimizer = kind(inner, model)
    averager = Averager(model, AVERAGES)
    averager.attach(optimizer)
    scaler = torch.amp.GradScaler("cpu")
    for factor in (1.0, float("inf"), 1.0, float("nan"), 1.0):
        model.zero_grad()
        scaler.scale(model(batch(1)).square().mean() * factor).backward()
        scaler.step(inner)
        scaler.update()
    assert averager.steps == 3


@pytest.mark.slow
def test_a_compiled_step_counts_once(recwarn):
    model = net()
    sam = SAM(model)
    averager = Averager(model, AVERAGES)
    averager.attach(sam)
    step = torch.compile(sam.base_optimizer.step, backend="eager")
    for count in range(1, 4):
        model(batch(0)).sum().backward()
        step()
        assert averager.steps == count
    assert not [w for w in recwarn if "polyak" in str(w.message)]


def test_attach_together_with_step_is_refused_and_not_counted_twice():
    model = net()
    optimizer = sgd(model)
    averager = Averager(model, AVERAGES)
    train_step(model, optimizer, 0)
    averager.step()
    handle = averager.attach(optimizer)
    train_step(model, optimizer, 1)
    with pytest.raises(
        StateError, match=r"step\(\) was called while SGD is attached; .*remove\(\)"
    ):
        averager.step()
    assert (averager.steps, averager.updates) == (2, 2)
    averager.update()
    handle.remove()
    train_step(model, optimizer, 2)
    averager.step()
    assert (averager.steps, averager.updates) == (3, 4)


def test_an_attached_optimizer_that_is_gone_does_not_forbid_step():
    model = net()
    averager = Averager(model, AVERAGES)
    averager.attach(sgd(model))
    gc.collect()
    averager.step()
    assert averager.steps == 1
