"""Which tensors are averaged, copied, read live; and what has changed since."""

import pytest
import torch
from support.small_networks import Tied, net
from torch import nn
from torch.nn.utils import prune

from polyak import EMA, Averager
from polyak.averaging.kernels import wide
from polyak.averaging.model.weights import copy_infinite, sort_weights, unwrap
from polyak.errors import StateError, WeightMismatchError


class Buffered(nn.Module):
    """Buffers of every sort."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(2))
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("seen", torch.tensor(False))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)
        self.register_buffer("absent", None)
        self.register_parameter("none", None)


def twice_the_same() -> nn.Sequential:
    layer = nn.Linear(2, 2)
    return nn.Sequential(layer, layer)


@pytest.mark.parametrize(
    "make",
    [net, Tied, Buffered, twice_the_same, lambda: nn.LSTM(2, 3), lambda: nn.Sequential()],
)
def test_names_and_order_are_those_of_the_state_dict(make):
    model = make()
    assert list(sort_weights(model, buffers="average").names) == list(model.state_dict())


def test_the_tensors_are_the_models_own():
    model = net()
    listed = sort_weights(model, buffers="average")
    for name, x in {**listed.averaged, **listed.copied}.items():
        assert x.data_ptr() == model.state_dict()[name].data_ptr()
    assert listed.averaged["0.weight"] is model[0].weight


def test_float_buffers_are_averaged_and_integers_copied():
    """C5: torch averages num_batches_tracked too, and truncates or raises."""
    listed = sort_weights(Buffered(), buffers="average")
    assert list(listed.averaged) == ["w", "mean"]
    assert list(listed.copied) == ["count", "seen"]


def test_all_buffers_are_copied_when_asked():
    listed = sort_weights(Buffered(), buffers="copy")
    assert list(listed.averaged) == ["w"]
    assert list(listed.copied) == ["mean", "count", "seen"]


def test_non_persistent_buffers_are_not_weights():
    assert "scratch" not in sort_weights(Buffered(), buffers="average").names


@pytest.mark.parametrize("make", [Tied, twice_the_same])
def test_a_tied_weight_is_listed_once_under_its_first_name(make):
    """C3: timm lists it twice and so updates it twice."""
    model = make()
    listed = sort_weights(model, buffers="average")
    assert len(listed.averaged) == len(list(model.parameters()))
    assert set(listed.names.values()) == set(listed.averaged)
    assert set(listed.names) == set(model.state_dict())


def test_frozen_parameters_are_read_live():
    model = net()
    model[0].requires_grad_(False)
    listed = sort_weights(model, buffers="average")
    assert list(listed.frozen) == ["0.weight", "0.bias"]
    assert not listed.frozen.keys() & listed.averaged.keys()


def test_what_was_averaged_stays_so_when_it_is_frozen_later():
    """C12: whether a parameter is averaged is settled once, not at each update."""
    model = net()
    first = sort_weights(model, buffers="average")
    model[0].requires_grad_(False)
    later = sort_weights(model, buffers="average", like=first)
    first.check_same(later)
    assert list(later.averaged) == list(first.averaged)


def test_a_frozen_parameter_that_trains_is_refused_by_name():
    """C12: Composer never averages a parameter that was frozen at first, and does not say so."""
    model = net()
    model[0].weight.requires_grad_(False)
    first = sort_weights(model, buffers="average")
    model[0].weight.requires_grad_(True)
    with pytest.raises(WeightMismatchError, match=r"0\.weight trains now"):
        first.check_same(sort_weights(model, buffers="average", like=first))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda m: m.append(nn.Linear(2, 2)), r"2 unexpected \(5\.bias, 5\.weight\)"),
        (lambda m: m.pop(4), r"2 missing \(4\.bias, 4\.weight\)"),
        (lambda m: m.register_buffer("count", torch.tensor(0)), r"1 unexpected \(count\)"),
        (lambda m: m.__setitem__(4, nn.Linear(4, 3)), r"shape of 4\.bias, 4\.weight"),
    ],
    ids=["appear", "vanish", "integer buffer", "reshape"],
)
def test_weights_that_changed_are_refused_by_name(change, named):
    """C11: a zip of two lists leaves what was added untracked, in silence."""
    model = net()
    first = sort_weights(model, buffers="average")
    change(model)
    with pytest.raises(WeightMismatchError, match=named):
        first.check_same(sort_weights(model, buffers="average", like=first))


def test_untied_weights_are_refused():
    model = Tied()
    first = sort_weights(model, buffers="average")
    model.head.weight = nn.Parameter(model.head.weight.detach().clone())
    with pytest.raises(WeightMismatchError, match=r"head\.weight"):
        first.check_same(sort_weights(model, buffers="average", like=first))


def test_buffers_that_hold_infinity_are_copied():
    """An attention mask of −inf would make every update look non-finite."""
    model = net()
    model.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
    listed = sort_weights(model, buffers="average")
    copy_infinite(listed)
    assert "mask" in listed.copied
    assert "1.running_mean" in listed.averaged
    listed.check_same(sort_weights(model, buffers="average", like=listed))


def test_masks_of_pruning_are_copied_so_that_they_stay_masks():
    model = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))
    prune.l1_unstructured(model[0], "weight", 1)
    model.register_buffer("other_mask", torch.ones(2))
    averager = Averager(model, [EMA(0.9, warmup=None)])
    prune.l1_unstructured(model[0], "weight", 2)
    averager.update()
    found = sort_weights(model, buffers="average")
    assert found.copied.keys() == {"0.weight_mask", "1.num_batches_tracked"}
    assert "other_mask" in found.averaged
    assert torch.equal(averager.tensors("ema_0.9")["0.weight_mask"], model[0].weight_mask)


def test_lazy_weights_are_refused_by_name():
    with pytest.raises(StateError, match=r"0\.weight has no shape yet"):
        sort_weights(nn.Sequential(nn.LazyLinear(3)), buffers="average")


def test_weights_without_values_are_refused_by_name():
    with torch.device("meta"):
        model = net()
    with pytest.raises(StateError, match=r"0\.weight is on the meta device"):
        sort_weights(model, buffers="average")


def test_wrappers_are_taken_off_whatever_their_order():
    model = net()
    compiled = torch.compile(model, backend="eager")
    assert unwrap(model) is model
    assert unwrap(compiled) is model
    assert unwrap(nn.DataParallel(model)) is model
    assert unwrap(nn.DataParallel(compiled)) is model
    assert unwrap(torch.compile(nn.DataParallel(model), backend="eager")) is model


def test_a_users_module_called_module_is_no_wrapper():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = net()

    model = Own()
    assert unwrap(model) is model


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float8_e4m3fn, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.complex64, torch.complex64),
    ],
)
def test_narrow_dtypes_are_averaged_in_float32(dtype, stored):
    """C7: at d = 0.999 not one element of a bfloat16 average moves."""
    assert wide(dtype) == stored
