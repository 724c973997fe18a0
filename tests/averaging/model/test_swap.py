"""Lending weights to a model, and getting its own back whatever happens."""

import gc
from contextlib import ExitStack, contextmanager

import pytest
import torch
from support.small_networks import assert_same_bits, net, raising, snapshot
from torch import nn

from polyak.averaging.model import swap
from polyak.errors import StateError


@contextmanager
def lent(modules, tensors, weights):
    with ExitStack() as undo:
        swap.lend(undo, modules, tensors, weights)
        yield


def test_lent_weights_go_in_and_the_own_come_back():
    model = net()
    own = snapshot(model)
    other = {name: torch.full_like(x, 7) for name, x in own.items()}
    with lent(list(model.modules()), model.state_dict(keep_vars=True), other):
        assert_same_bits(snapshot(model), other)
    assert_same_bits(snapshot(model), own)


def test_own_weights_come_back_by_address():
    model = net()
    addresses = [p.data_ptr() for p in model.parameters()]
    other = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    with lent(list(model.modules()), dict(model.named_parameters()), other):
        assert [p.data_ptr() for p in model.parameters()] == [
            x.data_ptr() for x in other.values()
        ]  # nothing is copied
    assert [p.data_ptr() for p in model.parameters()] == addresses


def test_own_weights_come_back_when_the_block_raises():
    model = net()
    own = snapshot(model)
    other = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    with (
        pytest.raises(RuntimeError, match="on purpose"),
        lent(list(model.modules()), dict(model.named_parameters()), other),
    ):
        raising()
    assert_same_bits(snapshot(model), own)


def test_own_weights_come_back_when_lending_fails_half_way():
    model = net()
    own = snapshot(model)
    other: dict[str, object] = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    other["4.bias"] = None
    with (
        pytest.raises(AttributeError),
        lent(list(model.modules()), dict(model.named_parameters()), other),
    ):
        pytest.fail("the block must not start")
    assert_same_bits(snapshot(model), own)


def test_buffers_that_were_replaced_inside_come_back():
    model = net()
    own, same = snapshot(model), model[1].running_mean
    other = {name: torch.zeros_like(x) for name, x in own.items()}
    with lent(
        list(model.modules()), model.state_dict(keep_vars=True) | dict(model.named_buffers()), other
    ):
        model[1].running_mean = model[1].running_mean + 1
        model.double()
    assert model[1].running_mean is same
    assert_same_bits(snapshot(model), own)


def test_lending_casts_to_the_models_dtype():
    model = nn.Linear(2, 2, dtype=torch.bfloat16)
    other = {name: torch.full(p.shape, 1.001) for name, p in model.named_parameters()}
    with lent(list(model.modules()), dict(model.named_parameters()), other):
        assert model.weight.dtype == torch.bfloat16
        assert (model.weight == 1.0).all()
    assert (other["weight"] == 1.001).all()  # the lender's own is not rounded


def test_one_owner_may_nest_and_is_forgotten_at_the_end():
    model, owner = net(), object()
    with swap.owning(list(model.modules()), owner):
        with swap.owning(list(model.modules()), owner):
            pass
        assert swap.holds_lent_weights(model)
    assert not swap.holds_lent_weights(model)


def test_another_owner_is_refused_and_changes_nothing():
    model, owner = net(), object()
    with swap.owning(list(model.modules()), owner):
        with (
            pytest.raises(StateError, match="another averager's weights"),
            swap.owning(list(model.modules()), object()),
        ):
            pytest.fail("the block must not start")
        assert swap.holds_lent_weights(model)
    assert not swap.holds_lent_weights(model)


@pytest.mark.parametrize("outer_is_whole", [True, False])
def test_a_model_and_its_part_cannot_have_two_owners(outer_is_whole):
    model = nn.Sequential(net(), nn.Linear(2, 2))
    outer, inner = (model, model[0]) if outer_is_whole else (model[0], model)
    with swap.owning(list(outer.modules()), object()):
        assert swap.holds_lent_weights(inner)
        with pytest.raises(StateError), swap.owning(list(inner.modules()), object()):
            pytest.fail("the block must not start")
    assert not swap.holds_lent_weights(inner)


def test_a_part_that_holds_no_lent_weights_is_free():
    model = nn.Sequential(net(), nn.Linear(2, 2))
    with (
        swap.owning(list(model[0].modules()), object()),
        swap.owning(list(model[1].modules()), object()),
    ):
        assert swap.holds_lent_weights(model)
    assert not swap.holds_lent_weights(model)


def test_a_module_whose_hash_changes_while_it_holds_lent_weights_is_found_again():
    """As a metric of torchmetrics, whose hash is that of what it has gathered so far."""

    class Gathering(nn.Module):
        seen = 0

        def __hash__(self):
            return self.seen

        def __eq__(self, other):
            return self is other

    model = nn.Sequential(nn.Linear(1, 1), Gathering())
    with swap.owning(list(model.modules()), "a"):
        model[1].seen += 1
        assert swap.holds_lent_weights(model[1])
    assert not swap.holds_lent_weights(model)


def test_ownership_keeps_no_model_alive():
    model = net()
    with swap.owning(list(model.modules()), object()):
        pass
    gone = torch.utils.weak.WeakTensorKeyDictionary()
    gone[model[0].weight] = None
    del model
    gc.collect()
    assert not len(gone)


def test_a_later_block_gives_back_what_an_earlier_one_that_has_ended_found():
    given = []
    model, owner = net(), object()
    first, second, third = (swap.owning(list(model.modules()), owner) for _ in range(3))
    for name, block in (("first", first), ("second", second), ("third", third)):
        block.__enter__().callback(given.append, name)
    second.__exit__(None, None, None)
    assert given == []
    third.__exit__(None, None, None)
    assert given == ["second"]
    assert swap.holds_lent_weights(model)
    first.__exit__(None, None, None)
    assert given == ["second", "first"]
    assert not swap.holds_lent_weights(model)


def test_what_an_earlier_block_found_comes_last_even_if_it_ends_in_the_midst_of_a_later_one():
    """An abandoned generator may be collected at any moment."""
    given = []
    model, owner = net(), object()
    first, second = (swap.owning(list(model.modules()), owner) for _ in range(2))
    first.__enter__().callback(given.append, "first")
    undo = second.__enter__()
    undo.callback(given.append, "second")
    undo.callback(first.__exit__, None, None, None)
    second.__exit__(None, None, None)
    assert given == ["second", "first"]
    assert not swap.holds_lent_weights(model)


def test_the_model_is_free_again_when_giving_back_raises():
    model = net()
    with (
        pytest.raises(RuntimeError, match="on purpose"),
        swap.owning(list(model.modules()), object()) as undo,
    ):
        undo.callback(raising)
    assert not swap.holds_lent_weights(model)
