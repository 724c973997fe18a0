"""`Averager.combine` is the written-out sum, and nothing that is no average comes out of it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import polyak
from polyak import EMA, Averager, Combination, Initial, Window
from polyak.errors import ConfigError, StateError

KEPT = [EMA(0.5), EMA(0.9, warmup=None), Window(3), Initial()]


def trained(averager, model, steps):
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        with torch.no_grad():
            for p in model.parameters():
                p += 0.1 * torch.randn(p.shape, generator=generator).to(p.dtype)
        model(torch.randn(8, 3, generator=generator).to(next(model.parameters()).dtype))
        averager.step()
    return averager


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


@given(data=st.data())
@settings(max_examples=20)
def test_it_is_the_sum_in_float64(data):
    model = network()
    averager = trained(Averager(model, KEPT), model, 7)
    drawn = [data.draw(st.integers(-20, 20)) / 10 for _ in KEPT]
    shares = dict(zip(averager.names, drawn, strict=True)) | {"current": 1 - sum(drawn)}
    found = averager.combine(shares, statistics="current")
    kept = {name: averager.tensors(name) for name in averager.names} | {
        "current": model.state_dict()
    }
    for key, x in found.items():
        if "running" in key or "num" in key:
            assert torch.equal(x, model.state_dict()[key])
            continue
        wanted = sum(share * kept[name][key].double() for name, share in shares.items())
        assert torch.allclose(x.double(), wanted, rtol=1e-6, atol=1e-6)
        assert x.dtype == kept["ema_0.5"][key].dtype


def test_a_lag_free_average_is_read_from_its_parts():
    kind, model = Combination.lag_free(10), network()
    averager = trained(Averager(model, [EMA(0.3), *kind.parts_to_keep], every=2), model, 12)
    names = [part.label for part, _ in kind.parts]
    wanted = averager.combine(dict(zip(names, (share for _, share in kind.parts), strict=True)))
    found = averager.combine(kind)
    assert all(torch.equal(found[key], x) for key, x in wanted.items())
    model.load_state_dict(found)


def test_it_goes_on_exactly_after_a_stop():
    kind, model = Combination.lag_free(10), network()
    averager = trained(Averager(model, kind.parts_to_keep), model, 5)
    again = Averager(model, kind.parts_to_keep)
    again.load_state_dict(averager.state_dict())
    pairs = zip(averager.combine(kind).values(), again.combine(kind).values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_bema_is_read_from_an_average_the_initial_weights_and_those_of_now():
    model = network()
    initial = {key: x.clone() for key, x in model.state_dict().items()}
    kind = Combination.bema(EMA(0.9, warmup=None), 0.3)
    averager = trained(Averager(model, kind.parts_to_keep), model, 6)
    assert averager.names == ("ema_0.9", "initial")
    m, key = averager.tensors("ema_0.9"), "0.weight"
    wanted = m[key] + 0.3 * (model.state_dict()[key] - initial[key])
    torch.testing.assert_close(averager.combine(kind, statistics="current")[key], wanted)


def test_bfloat16_averages_are_summed_with_what_they_lack_to_float32():
    model = network()
    averager = trained(Averager(model, [0.5, 0.9], dtype=torch.bfloat16), model, 6)
    found = averager.combine({"ema_0.5": 1.5, "ema_0.9": -0.5})
    a, b = (averager.tensors(name)["0.weight"].double() for name in averager.names)
    assert torch.allclose(found["0.weight"].double(), 1.5 * a - 0.5 * b, atol=1e-6)


def test_refreshed_statistics_are_no_part_of_a_sum():
    model = network()
    averager = trained(Averager(model, [0.5, 0.9]), model, 6)
    before = averager.combine({"ema_0.5": 0.4, "ema_0.9": 0.6})
    averager.refresh_batchnorm([torch.randn(16, 3)])
    after = averager.combine({"ema_0.5": 0.4, "ema_0.9": 0.6})
    assert all(torch.equal(after[key], x) for key, x in before.items())


def test_spectral_norms_vectors_are_those_of_the_combined_weight():
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4)))
    averager = trained(Averager(model, [0.5, 0.9]), model, 6)
    found = averager.combine({"ema_0.5": 2, "ema_0.9": -1})
    copy = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4)))
    copy.load_state_dict(found)
    largest = torch.linalg.matrix_norm(copy.eval()[0].weight.detach(), ord=2)
    assert float(largest) == pytest.approx(1.0, abs=1e-3)


def test_negative_shares_that_make_a_variance_negative_are_refused_by_its_name():
    model = network()
    averager = trained(Averager(model, [0.5, EMA(0.99, warmup=None)]), model, 6)
    with torch.no_grad():
        model[1].running_var.fill_(1e-4)
    averager.update()
    with pytest.raises(ConfigError, match=r"'1.running_var' would be negative by the negative"):
        averager.combine({"ema_0.5": 3, "ema_0.99": -2})
    found = averager.combine({"ema_0.5": 3, "ema_0.99": -2}, statistics="current")
    assert torch.equal(found["1.running_var"], model[1].running_var)


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ({"ema_0.5": 2}, r"shares of ema_0.5 are \[2\], which sum to 2; expected a sum of 1"),
        ({"ema_0.4": 1}, "ema_0.4"),
        ({}, "expected a share by name"),
        (Combination.lag_free(10), "is not kept; expected parts among ema_0.5, ema_0.9"),
        (EMA(0.7), "'ema_0.7', which is not kept"),
    ],
)
def test_shares_that_are_none_are_named(shares, said):
    averager = Averager(network(), [0.5, 0.9])
    with pytest.raises(ConfigError, match=said):
        averager.combine(shares)


def test_statistics_that_are_no_choice_are_named():
    averager = Averager(nn.Linear(2, 1), 0.9)
    with pytest.raises(ConfigError, match="statistics is 'last'; expected one of combine, current"):
        averager.combine({"ema_0.9": 1}, statistics="last")


def test_while_the_model_holds_an_average_its_weights_of_now_are_no_share():
    averager = Averager(network(), [0.5])
    with averager.applied(), pytest.raises(StateError, match=r"combine\(\)"):
        averager.combine({"ema_0.5": 0.5, "current": 0.5})


def test_a_sum_of_files_is_that_of_the_bank(tmp_path):
    model = network()
    averager = trained(Averager(model, [EMA(0.5), EMA(0.9)]), model, 9)
    polyak.save(averager, tmp_path / "a.safetensors")
    shares = {"ema_0.5": 1.5, "ema_0.9": -0.5}
    found = polyak.synthesize([tmp_path / "a.safetensors"], shares)
    assert found.manifest["synthesis"]["error"] < 1e-3  # of rounding
    for key, x in averager.combine(shares).items():
        torch.testing.assert_close(found["combination"][key], x, atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match="which sum to 2"):
        polyak.synthesize([tmp_path / "a.safetensors"], {"ema_0.5": 2})
    with pytest.raises(ConfigError, match=r"ema_0.7"):
        polyak.synthesize([tmp_path / "a.safetensors"], {"ema_0.7": 1})


def test_the_weights_of_now_alone_are_a_sum():
    model = network()
    averager = trained(Averager(model, [0.5, 0.9]), model, 3)
    found = averager.combine({"current": 1})
    assert all(torch.equal(found[key], x) for key, x in model.state_dict().items())
