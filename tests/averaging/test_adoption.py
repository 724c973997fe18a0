"""Going on with another tool's average as if this bank had kept it from the first step."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.small_networks import EVERY_KIND, Tied, assert_same_bits, batch, drift, net, walk
from torch import nn

import polyak
from polyak import EMA, Averager, PowerEMA, Schedule, Uniform, Window
from polyak.averaging import InverseGamma
from polyak.errors import ConfigError, NonFiniteError, StateError, WeightMismatchError

KINDS = (
    *EVERY_KIND,
    *(EMA(0.99, warmup, name=warmup) for warmup in ("torch_ema", "diffusers", "yolo", "edm2")),
    EMA(0.99, InverseGamma(after=3), "steps", name="inverse_gamma"),
    Schedule(lambda update: 1 / (update.index + 2), name="own"),
)


def floating(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without counters, which until the next update are the model's of now."""
    return {key: x for key, x in state.items() if x.is_floating_point()}


def averages(averager: Averager) -> dict[str, dict[str, torch.Tensor]]:
    return {name: averager.tensors(name) for name in averager.names}


@given(before=st.integers(0, 25), after=st.integers(0, 12), every=st.integers(1, 5))
def test_a_bank_that_adopts_is_one_that_never_stopped_bit_for_bit(before, after, every):
    model = net()
    whole = Averager(model, KINDS, every=every)
    walk(whole, model, range(before))
    adopting = Averager(model, KINDS, every=every)
    adopting.adopt(averages(whole), steps=before)
    for seed in range(before, before + after):
        drift(model, seed)
        whole.step()
        adopting.step()
    for name in whole.names:
        assert_same_bits(floating(adopting.tensors(name)), floating(whole.tensors(name)))
        if name != "own":
            assert adopting.profile(name) == whole.profile(name)
    assert (adopting.steps, adopting.updates) == (whole.steps, whole.updates)
    assert adopting.explain() == whole.explain()


def test_a_file_of_a_plain_state_dict_can_be_adopted(tmp_path):
    model = net()
    torch.save({f"module.{k}": x for k, x in model.state_dict().items()}, tmp_path / "ema.pt")
    drift(model, 1)
    averager = Averager(model, [0.9])
    found = polyak.read_foreign(tmp_path / "ema.pt")["weights"]
    averager.adopt({"ema_0.9": found}, steps=40)
    assert_same_bits(floating(averager.tensors("ema_0.9")), floating(found))


def test_buffers_that_a_tool_did_not_store_are_the_models():
    model = net()
    drift(model, 1)
    averager = Averager(model, [0.9])
    parameters = {name: torch.zeros_like(x) for name, x in model.named_parameters()}
    averager.adopt({"ema_0.9": parameters}, steps=3)
    got = averager.tensors("ema_0.9")
    assert all(not got[name].any() for name in parameters)
    assert torch.equal(got["1.running_mean"], model[1].running_mean)


@pytest.mark.parametrize("name", ["embedding.weight", "head.weight"])
def test_a_tied_weight_may_have_any_of_its_names(name):
    model = Tied()
    averager = Averager(model, [0.9])
    state = {name: torch.ones(5, 3), "head.bias": torch.zeros(5)}
    averager.adopt({"ema_0.9": state}, steps=1)
    assert averager.tensors("ema_0.9")["embedding.weight"].eq(1).all()


def test_frozen_weights_stay_the_models():
    model = net()
    model[0].requires_grad_(False)
    averager = Averager(model, [0.9])
    averager.adopt({"ema_0.9": {k: x + 1 for k, x in model.state_dict().items()}}, steps=1)
    assert torch.equal(averager.tensors("ema_0.9")["0.weight"], model[0].weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_are_taken_at_the_averages_own(dtype):
    model = net()
    averager = Averager(model, [0.9])
    averager.adopt({"ema_0.9": {k: x.to(dtype) for k, x in model.state_dict().items()}}, steps=1)
    got = averager.tensors("ema_0.9")["0.weight"]
    assert got.dtype == torch.float32
    assert torch.equal(got, model[0].weight.to(dtype).float())


def test_a_split_bfloat16_average_keeps_all_of_what_it_adopts():
    model = net()
    averager = Averager(model, [0.9], dtype=torch.bfloat16)
    averager.adopt({"ema_0.9": model.state_dict()}, steps=1)
    assert torch.equal(averager.tensors("ema_0.9")["0.weight"], model[0].weight)


def test_refreshed_statistics_do_not_lie_over_what_is_adopted():
    model = net()
    averager = Averager(model, [0.9])
    averager.refresh_batchnorm([batch(0, 8)])
    averager.adopt({"ema_0.9": model.state_dict()}, steps=1)
    assert torch.equal(averager.tensors("ema_0.9")["1.running_mean"], model[1].running_mean)


def _without(name):
    return {key: x for key, x in net().state_dict().items() if key != name}


@pytest.mark.parametrize(
    ("weights", "steps", "error", "named"),
    [
        ({"ema_0.9": net().state_dict()}, -1, ConfigError, "steps is -1"),
        ({"ema_0.9": net().state_dict()}, True, ConfigError, "steps is True"),
        ({"ema_0.9": net().state_dict()}, 2.0, ConfigError, "steps is 2.0"),
        ({}, 1, ConfigError, "no average; expected ema_0.9"),
        ({"average": net().state_dict()}, 1, ConfigError, "those of average; expected ema_0.9"),
        ({"ema_0.9": _without("0.weight")}, 1, WeightMismatchError, r"1 missing \(0.weight\)"),
        ({"ema_0.9": {**net().state_dict(), "x": torch.ones(1)}}, 1, WeightMismatchError, r"\(x\)"),
        ({"ema_0.9": {**net().state_dict(), "0.bias": torch.ones(9)}}, 1, WeightMismatchError,
         r"shape of 0.bias is \(9,\) in the file, \(4,\) in the model"),
        ({"ema_0.9": {**net().state_dict(), "0.bias": torch.full((4,), torch.nan)}}, 1,
         NonFiniteError, "0.bias of 'ema_0.9'"),
    ],
)  # fmt: skip
def test_what_cannot_be_adopted_is_refused_and_changes_nothing(weights, steps, error, named):
    model = net()
    averager = Averager(model, [0.9])
    before = averager.tensors("ema_0.9")
    with pytest.raises(error, match=named):
        averager.adopt(weights, steps=steps)
    assert_same_bits(averager.tensors("ema_0.9"), before)
    assert averager.steps == averager.updates == 0
    averager.adopt({"ema_0.9": net().state_dict()}, steps=1)


def test_a_file_with_fewer_rows_than_the_model_says_which_side_has_which_shape(tmp_path):
    """SWivid/F5-TTS 871: the file's text embedding has fewer rows."""

    class Speech(nn.Module):
        def __init__(self, rows):
            super().__init__()
            self.text_embed = nn.Embedding(rows, 2)
            self.head = nn.Linear(2, rows)

    torch.save({"ema": Speech(6).state_dict()}, tmp_path / "ema.pt")
    averager = Averager(Speech(7), [0.9])
    found = polyak.read_foreign(tmp_path / "ema.pt")["ema"]
    with pytest.raises(WeightMismatchError) as caught:
        averager.adopt({"ema_0.9": found}, steps=4)
    said = str(caught.value)
    assert "the shape of text_embed.weight is (6, 2) in the file, (7, 2) in the model" in said
    assert "the shape of head.bias is (6,) in the file, (7,) in the model" in said
    assert "after changing a model's layers" not in said


def test_the_second_of_two_averages_is_checked_before_the_first_is_written():
    model = net()
    averager = Averager(model, [0.9, PowerEMA(gamma=2.0), Uniform()])
    before = averages(averager)
    given = {name: {k: x + 1 for k, x in state.items()} for name, state in before.items()}
    del given["uniform"]["0.weight"]
    with pytest.raises(WeightMismatchError, match="'uniform'"):
        averager.adopt(given, steps=1)
    for name, state in before.items():
        assert_same_bits(averager.tensors(name), state)


def test_infinite_weights_are_adopted_where_they_are_allowed():
    averager = Averager(net(), [0.9], nonfinite="allow")
    state = {**net().state_dict(), "0.bias": torch.full((4,), torch.inf)}
    averager.adopt({"ema_0.9": state}, steps=1)
    assert averager.tensors("ema_0.9")["0.bias"].isinf().all()


def test_a_window_is_refused():
    averager = Averager(net(), [0.9, Window(last=2)])
    with pytest.raises(ConfigError, match="is a window"):
        averager.adopt({name: net().state_dict() for name in averager.names}, steps=1)


def test_an_averager_that_has_counted_is_refused():
    averager = Averager(net(), [0.9], every=4)
    averager.step()
    with pytest.raises(StateError, match="after 1 steps and 0 updates"):
        averager.adopt({"ema_0.9": net().state_dict()}, steps=8)
