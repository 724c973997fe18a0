"""The block in which a model holds an average."""

import io
from threading import Thread

import pytest
import torch
from support.small_networks import (
    Tied,
    assert_same_bits,
    batch,
    drift,
    net,
    raising,
    snapshot,
    train_step,
    use,
)
from torch import Tensor, nn

import polyak
from polyak import EMA, Averager, Uniform
from polyak.errors import ConfigError, StateError

KINDS = (0.9, 0.5, Uniform())


def trained(model: nn.Module, *, averages=KINDS, steps: int = 4, **options) -> Averager:
    averager = Averager(model, averages, **options)
    for seed in range(steps):
        drift(model, seed)
        averager.step()
    drift(model, 99)  # so that the model's own buffers differ from those of the last update
    return averager


def saved_size(model: nn.Module) -> int:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return file.tell()


MODELS = pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda: net(dropout=0.5), batch(5)),
        (Tied, torch.arange(4)),
        (lambda: nn.Sequential(nn.Conv1d(3, 4, 1), nn.BatchNorm1d(4)), torch.ones(2, 3, 5)),
        (lambda: net().to(torch.bfloat16), batch(5).to(torch.bfloat16)),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)), batch(5)),
        (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 2)), batch(5)),
        (lambda: nn.LSTM(3, 4, num_layers=2), torch.ones(2, 1, 3)),
    ],
    ids=["net", "tied", "conv", "bfloat16", "weight norm", "spectral norm", "LSTM"],
)


@MODELS
@pytest.mark.parametrize("buffers", ["average", "copy"])
def test_the_model_answers_as_the_module_of_that_average(make, x, buffers):
    """Parametrised layers and cuDNN's flat weights included: no one keeps the old tensors."""
    model = make()
    averager = trained(model, buffers=buffers)
    for name in averager.names:
        module = averager.module(name)
        with averager.applied(name) as same, torch.no_grad():
            assert same is model
            torch.testing.assert_close(model(x), module(x), rtol=0, atol=0)


@MODELS
def test_weights_buffers_and_modes_come_back(make, x):
    model = make()
    model.train()
    list(model.modules())[-1].eval()
    averager = trained(model)
    own, flags = snapshot(model), [m.training for m in model.modules()]
    with averager.applied("ema_0.9"):
        assert not any(m.training for m in model.modules())
        model(x)
    assert_same_bits(snapshot(model), own)
    assert [m.training for m in model.modules()] == flags


def test_inside_the_state_dict_is_the_average():
    """C9: NeMo swaps parameters only, so its average runs with the live BatchNorm statistics."""
    model = net()
    averager = trained(model)
    with averager.applied("ema_0.9"):
        assert_same_bits(snapshot(model), averager.tensors("ema_0.9"))


def test_everything_comes_back_when_the_block_raises():
    model = net()
    averager = trained(model)
    own = snapshot(model)
    with pytest.raises(RuntimeError, match="on purpose"), averager.applied("ema_0.9"):
        raising()
    assert_same_bits(snapshot(model), own)
    assert all(m.training for m in model.modules())
    averager.step()  # and the averager is free again


def test_blocks_nest():
    """C9: in torch-ema a nested block loses the model's own weights for good."""
    model = net()
    averager = trained(model)
    own = snapshot(model)
    first, second = averager.tensors("ema_0.9"), averager.tensors("ema_0.5")
    with averager.applied("ema_0.9"):
        with averager.applied("ema_0.5"):
            assert_same_bits(snapshot(model), second)
            with averager.applied("ema_0.9"):
                assert_same_bits(snapshot(model), first)
            assert_same_bits(snapshot(model), second)
        assert_same_bits(snapshot(model), first)
        with pytest.raises(RuntimeError, match="on purpose"), averager.applied("uniform"):
            raising()
        assert_same_bits(snapshot(model), first)
        assert not model.training
    assert_same_bits(snapshot(model), own)
    assert model.training


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 1, 2), (1, 0, 2), (0, 2, 1), (1, 2, 0)])
def test_blocks_that_overlap_without_nesting_give_the_own_weights_back(order):
    model = net()
    averager = trained(model)
    own, addresses = snapshot(model), [p.data_ptr() for p in model.parameters()]
    held = {name: averager.tensors(name) for name in averager.names}
    names = averager.names[: len(order)]
    blocks = [averager.applied(name) for name in names]
    for block in blocks:
        block.__enter__()
    open_ones = list(range(len(order)))
    for index in order:
        blocks[index].__exit__(None, None, None)
        latest = open_ones[-1]
        open_ones.remove(index)
        if index != latest:
            assert_same_bits(snapshot(model), held[names[latest]])
            assert not model.training
    assert_same_bits(snapshot(model), own)
    assert [p.data_ptr() for p in model.parameters()] == addresses
    assert all(m.training for m in model.modules())
    drift(model, 5)  # trains the model, not an average
    for name in averager.names:
        assert_same_bits(averager.tensors(name), held[name])
    averager.step()


def test_generators_that_are_abandoned_in_their_blocks_give_the_own_weights_back():
    model = net()
    averager = trained(model)
    own = snapshot(model)

    def outputs(name):
        with averager.applied(name):
            for seed in range(3):
                yield model(batch(seed))

    first, second = outputs("ema_0.9"), outputs("ema_0.5")
    next(first), next(second)
    del first
    assert_same_bits(snapshot(model), averager.tensors("ema_0.5"))
    del second
    assert_same_bits(snapshot(model), own)
    averager.step()


def test_a_block_of_another_thread_is_refused_and_changes_nothing():
    """Two threads would answer with each other's weights."""
    model = net()
    averager = trained(model)
    own, refused = snapshot(model), []

    def other():
        try:
            with averager.applied("ema_0.5"):
                refused.append("nothing")
        except StateError as error:
            refused.append(str(error))

    def ask():
        thread = Thread(target=other)
        thread.start()
        thread.join()
        return refused.pop()

    with averager.applied("ema_0.9"):
        assert "holds an average for another thread; expected" in ask()
        assert_same_bits(snapshot(model), averager.tensors("ema_0.9"))
        assert not model.training
    assert_same_bits(snapshot(model), own)
    assert ask() == "nothing"
    assert_same_bits(snapshot(model), own)


def test_a_block_may_end_in_another_thread():
    """As a generator's does that another thread collects."""
    model = net()
    averager = trained(model)
    own = snapshot(model)
    block = averager.applied("ema_0.9")
    block.__enter__()
    thread = Thread(target=block.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    assert_same_bits(snapshot(model), own)
    assert model.training


def test_an_unknown_name_leaves_everything_as_it_was():
    model = net()
    averager = trained(model)
    own = snapshot(model)
    with pytest.raises(ConfigError), averager.applied("ema_0.8"):
        pytest.fail("it must not start")
    assert_same_bits(snapshot(model), own)
    assert model.training
    averager.step()


REFUSED = {
    "step": lambda averager, path: averager.step(),
    "update": lambda averager, path: averager.update(),
    "state_dict": lambda averager, path: averager.state_dict(),
    "load_state_dict": lambda averager, path: averager.load_state_dict({}),
    "refresh_batchnorm": lambda averager, path: averager.refresh_batchnorm([batch(0)]),
    "save": lambda averager, path: polyak.save(averager, path / "averages.safetensors"),
}


@pytest.mark.parametrize("call", REFUSED)
@pytest.mark.parametrize("of_the_same", [True, False])
def test_what_would_mix_up_weights_is_refused_inside(call, of_the_same, tmp_path):
    """C9, C16: other tools update, step or save in the wrong state without a word."""
    model = net()
    averager, other = trained(model), Averager(model, [0.9])
    counters = averager.steps, averager.updates
    chosen = averager if of_the_same else other
    held = {name: chosen.tensors(name) for name in chosen.names}
    with averager.applied("ema_0.9"), pytest.raises(StateError, match="holds an average"):
        REFUSED[call](chosen, tmp_path)
    assert (averager.steps, averager.updates) == counters
    for name in chosen.names:
        assert_same_bits(chosen.tensors(name), held[name])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("call", ["applied", "module"])
def test_another_averager_of_the_model_is_refused_inside(call):
    model = net()
    averager, other = trained(model), Averager(model, [0.9])
    own = snapshot(model)
    with averager.applied("ema_0.9"):
        with pytest.raises(StateError, match="another averager's weights are in the model"):
            use(other, call, "ema_0.9")
        assert_same_bits(snapshot(model), averager.tensors("ema_0.9"))
    assert_same_bits(snapshot(model), own)


def test_an_averager_of_a_part_is_refused_inside_too():
    model = nn.Sequential(net(), nn.Linear(2, 2))
    whole, part = Averager(model, [0.9]), Averager(model[0], [0.9])
    with whole.applied("ema_0.9"), pytest.raises(StateError):
        part.step()
    with part.applied("ema_0.9"), pytest.raises(StateError):
        whole.step()
    whole.step()
    part.step()


def test_averages_can_be_read_inside():
    model = net()
    averager, other = trained(model), Averager(model, [0.3])
    outside = {name: averager.tensors(name) for name in averager.names}
    theirs = other.tensors("ema_0.3")
    with averager.applied("ema_0.9"):
        for name in averager.names:
            assert_same_bits(averager.tensors(name), outside[name])
            assert_same_bits(averager.module(name).state_dict(), outside[name])
        assert_same_bits(other.tensors("ema_0.3"), theirs)
        assert averager.explain()


def test_a_forward_pass_in_training_mode_does_not_change_the_average():
    """C4: an evaluation that forgot eval() changes other tools' statistics."""
    model = net()
    averager = trained(model)
    own = snapshot(model)
    held = {name: averager.tensors(name) for name in averager.names}
    with averager.applied("ema_0.9"):
        model.train()
        for seed in range(3):
            model(batch(seed)).sum().backward()
    for name in averager.names:
        assert_same_bits(averager.tensors(name), held[name])
    assert_same_bits(snapshot(model), own)


class Reassigning(nn.Module):
    """Replaces its buffers in a forward pass in place of writing to them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("seen", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        self.mean = 0.9 * self.mean + 0.1 * y.mean(0).detach()
        self.seen = self.seen + 1
        return y


def test_a_forward_pass_that_replaces_buffers_changes_neither_model_nor_average():
    model = Reassigning()
    averager = trained(model)
    own, held = snapshot(model), averager.tensors("ema_0.9")
    with averager.applied("ema_0.9"):
        model.train()
        model(batch(0))
    assert_same_bits(snapshot(model), own)
    assert_same_bits(averager.tensors("ema_0.9"), held)


@pytest.mark.parametrize("averages", [[0.9], [0.5, 0.6, 0.7, 0.8, 0.9]])
def test_an_applied_model_saves_only_its_own_bytes(averages):
    """C9: torch-ema serialises its backup too; a row of a bank must not drag the others along."""
    model = nn.Sequential(nn.Linear(100, 100), nn.BatchNorm1d(100), nn.Linear(100, 3))
    averager = trained(model, averages=averages)
    outside = saved_size(model)
    with averager.applied("ema_0.9"):
        inside = saved_size(model)
    assert abs(inside - outside) < 500


def test_what_was_saved_inside_is_the_average():
    """C9: a checkpoint taken while swapped is whole and says nothing of the raw weights."""
    model = net()
    averager = trained(model)
    file = io.BytesIO()
    with averager.applied("ema_0.9"):
        torch.save(model.state_dict(), file)
    file.seek(0)
    assert_same_bits(torch.load(file, weights_only=True), averager.tensors("ema_0.9"))


def test_training_goes_on_as_if_the_block_had_not_been():
    ends = []
    for look in (False, True):
        torch.manual_seed(0)
        model = net(dropout=0.3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
        averager = Averager(model, [0.9])
        averager.attach(optimizer)
        for seed in range(6):
            if look:
                with averager.applied("ema_0.9"):
                    model(batch(7))
            train_step(model, optimizer, seed)
        momenta = [state["momentum_buffer"] for state in optimizer.state.values()]
        ends.append((snapshot(model), momenta, averager.tensors("ema_0.9")))
    (plain, plain_momenta, plain_average), (looked, momenta, average) = ends
    assert_same_bits(looked, plain)
    assert_same_bits(average, plain_average)
    assert all(torch.equal(a, b) for a, b in zip(momenta, plain_momenta, strict=True))


def test_gradients_survive_the_block():
    """Evaluation between backward and step, as with gradient accumulation."""
    model = net()
    averager = trained(model)
    model(batch(0)).sum().backward()
    grads = [p.grad.clone() for p in model.parameters()]
    with averager.applied("ema_0.9"), torch.no_grad():
        model(batch(1))
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True))


def test_a_graph_built_before_the_block_gives_the_gradients_of_its_weights():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    averager = trained(model)
    model(batch(0)).sum().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    loss = model(batch(0)).sum()
    with averager.applied("ema_0.9"):
        model(batch(1))
    loss.backward()
    for p, g in zip(model.parameters(), expected, strict=True):
        assert torch.equal(p.grad, g)


@pytest.mark.parametrize("order", ["inference first", "block first"])
def test_the_block_works_in_inference_mode(order):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    averager = Averager(model, [0.9])
    averager.attach(optimizer)
    own = snapshot(model)
    if order == "inference first":
        with torch.inference_mode(), averager.applied("ema_0.9"):
            model(batch(0))
    else:
        with averager.applied("ema_0.9"), torch.inference_mode():
            model.train()(batch(0))
    assert_same_bits(snapshot(model), own)
    train_step(model, optimizer, 0)
    assert averager.steps == 1


def test_frozen_parameters_are_in_the_block_too():
    model = net()
    model[0].requires_grad_(False)
    averager = trained(model)
    frozen = model[0].weight.detach().clone()
    with averager.applied("ema_0.9"):
        assert torch.equal(model[0].weight, frozen)
        assert not model[0].weight.requires_grad
        assert model[4].weight.requires_grad


def test_non_persistent_buffers_are_the_models_own():
    model = net()
    model.register_buffer("scratch", torch.zeros(2), persistent=False)
    averager = trained(model)
    scratch = model.scratch.clone()
    with averager.applied("ema_0.9"):
        assert torch.equal(model.scratch, scratch)
    assert "scratch" not in averager.tensors("ema_0.9")


def test_a_wide_average_is_not_rounded_by_being_applied():
    model = net().to(torch.bfloat16)
    averager = trained(model)
    held = averager.tensors("ema_0.9")
    with averager.applied("ema_0.9"):
        assert model[0].weight.dtype == torch.bfloat16
        assert torch.equal(model[0].weight, held["0.weight"].to(torch.bfloat16))
    assert_same_bits(averager.tensors("ema_0.9"), held)


def test_weights_are_restored_by_address():
    """Anything that holds the tensors, such as a fused optimizer, must find them unchanged."""
    model = net()
    averager = trained(model)
    addresses = [x.data_ptr() for x in [*model.parameters(), *model.buffers()]]
    same = [id(x) for x in [*model.parameters(), *model.buffers()]]
    with averager.applied("ema_0.9"):
        assert [id(x) for x in [*model.parameters(), *model.buffers()]] == same
    assert [x.data_ptr() for x in [*model.parameters(), *model.buffers()]] == addresses


def test_a_bootstrap_can_copy_an_average_into_the_model():
    """Writing the average to the model afterwards trains the model, not the average."""
    model = net()
    averager = trained(model, averages=[EMA(0.5)])
    held = averager.tensors("ema_0.5")
    model.load_state_dict(averager.tensors("ema_0.5"))
    drift(model, 1)
    assert_same_bits(averager.tensors("ema_0.5"), held)


class Switch(nn.Module):
    """Shares one layer between two paths, as siamese networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(3, 3)
        self.right = self.left

    def forward(self, x: Tensor) -> Tensor:
        return self.right(self.left(x))


def test_shared_modules_are_lent_once_and_come_back():
    model = Switch()
    averager = trained(model)
    own = snapshot(model)
    with averager.applied("ema_0.9"):
        assert model.left.weight is model.right.weight
        assert_same_bits(snapshot(model), averager.tensors("ema_0.9"))
    assert_same_bits(snapshot(model), own)
