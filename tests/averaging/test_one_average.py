"""One average: without a list, and without its name."""

import pytest
import torch
from support.small_networks import Scalar, assert_same_bits, batch, net, use, walk

from polyak import EMA, Averager, PowerEMA, Uniform
from polyak.errors import ConfigError

ONE = [0.9, 0, EMA(0.9, None), PowerEMA(gamma=2.0), Uniform(start=3)]


@pytest.mark.parametrize("average", ONE)
def test_it_is_the_bank_of_the_list_with_it(average):
    torch.manual_seed(0)
    model = net()
    alone, listed = Averager(model, average, every=2), Averager(model, [average], every=2)
    assert alone.names == listed.names
    walk(alone, model, range(5))
    assert alone.state_dict()["averages"] == listed.state_dict()["averages"]


def test_its_name_may_be_left_out_of_what_reads_it():
    model = net()
    averager = Averager(model, 0.9)
    walk(averager, model, range(4))
    assert_same_bits(averager.tensors(), averager.tensors("ema_0.9"))
    assert_same_bits(averager.module().state_dict(), averager.module("ema_0.9").state_dict())
    assert averager.profile() == averager.profile("ema_0.9")
    assert averager.standstill() == averager.standstill("ema_0.9")
    with averager.applied() as held:
        unnamed = held(batch(0))
    with averager.applied("ema_0.9") as held:
        assert torch.equal(held(batch(0)), unnamed)


CALLS = ["applied", "live", "module", "tensors", "profile", "standstill", "has_begun"]


@pytest.mark.parametrize("call", CALLS)
def test_of_several_none_is_read_without_its_name(call):
    averager = Averager(Scalar(), [0.9, Uniform()])
    averager.step()
    with pytest.raises(ConfigError, match=r"name is None; expected one of ema_0\.9, uniform\."):
        use(averager, call, None)


def test_it_has_begun_once_weights_are_in_it_and_says_so_while_it_is_applied():
    averager = Averager(Scalar(), Uniform(start=2), every=2)
    for begun in (False, False, False, True):
        averager.step()
        with averager.applied():
            assert averager.has_begun() is begun


@pytest.mark.parametrize("name", ["ema_0.8", ""])
def test_another_name_is_no_name_left_out(name):
    with pytest.raises(ConfigError, match=r"ema_0\.9"):
        Averager(Scalar(), 0.9).tensors(name)


def test_a_bank_says_in_a_line_what_it_holds():
    assert repr(Averager(Scalar(), 0.9)) == "Averager(Scalar, ['ema_0.9'], every=1)"
    bank = Averager(net(), [0.9, Uniform()], every=16)
    assert repr(bank) == "Averager(Sequential, ['ema_0.9', 'uniform'], every=16)"
