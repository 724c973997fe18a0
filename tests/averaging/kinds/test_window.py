"""The mean of the last few snapshots, against the same mean written out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.small_networks import (
    Scalar,
    assert_same_bits,
    drift,
    moved,
    net,
    snapshot,
    through_a_file,
    walk,
)

from polyak import EMA, Averager, Uniform, Window, load, save
from polyak.averaging.kinds import Update
from polyak.averaging.kinds.profiles.profile import contents, profile
from polyak.errors import ConfigError

lengths = st.integers(0, 14)


def mean_of_last(states, last):
    """Float64 mean of the last states; integers are those of the last."""
    kept = states[-last:]
    return {
        key: torch.stack([s[key].double() for s in kept]).mean(0) if x.is_floating_point() else x
        for key, x in kept[-1].items()
    }


@given(last=st.integers(1, 5), every=st.integers(1, 3), steps=lengths)
def test_a_window_is_the_mean_of_its_last_snapshots_written_out(last, every, steps):
    torch.manual_seed(0)
    model = net()
    averager = Averager(model, [Window(last)], every=every)
    states = []
    for seed in range(steps):
        drift(model, seed)
        averager.step()
        if (seed + 1) % every == 0:
            states.append(snapshot(model))
    got = averager.tensors(f"window_{last}")
    for key, x in (mean_of_last(states, last) if states else got).items():
        torch.testing.assert_close(got[key].double(), x.double(), rtol=1e-6, atol=1e-6)


def test_before_the_first_snapshot_it_holds_the_initial_weights_which_never_count():
    model = Scalar(9.0)
    averager = Averager(model, [Window(3, every=4)], every=2)
    model.set(1.0)
    averager.step()
    averager.step()
    assert averager.tensors("window_3_every_4")["w"] == 9.0
    averager.step()
    averager.step()
    assert averager.tensors("window_3_every_4")["w"] == 1.0


def test_snapshots_may_be_rarer_than_updates():
    model = Scalar()
    averager = Averager(model, [0.9, Window(2, every=6)], every=2)
    for step in range(1, 20):
        model.set(float(step))
        averager.step()
    assert averager.tensors("window_2_every_6")["w"] == (12 + 18) / 2
    assert averager.updates == 9


def test_a_skipped_snapshot_is_made_up_for_at_the_next_update():
    model = Scalar()
    averager = Averager(model, [Window(2, every=2, name="w")])
    for step, x in enumerate((1.0, 2.0, 3.0, torch.nan, 5.0, 6.0), start=1):
        model.set(x)
        if step == 4:
            with pytest.warns(RuntimeWarning):
                averager.step()
        else:
            averager.step()
        if step == 5:
            assert averager.tensors("w")["w"] == (2 + 5) / 2
    assert averager.tensors("w")["w"] == (5 + 6) / 2


def test_nothing_drifts_however_long_it_slides():
    """Adding the new and subtracting the old snapshot would leave 1e8's rounding for ever."""
    model = Scalar().float()
    averager = Averager(model, [Window(3)])
    for x in [1e8] * 5 + [0.1] * 3:
        model.set(x)
        averager.step()
    assert averager.tensors("window_3")["w"].item() == pytest.approx(0.1, rel=1e-6)


def test_a_window_leaves_its_neighbours_as_they_are_bit_for_bit():
    torch.manual_seed(0)
    model = net()
    alone = Averager(model, [0.9, Uniform()], every=2)
    beside = Averager(model, [0.9, Window(2), Uniform(), Window(3, every=4)], every=2)
    for seed in range(11):
        drift(model, seed)
        alone.step()
        beside.step()
    assert beside.names == ("ema_0.9", "window_2", "uniform", "window_3_every_4")
    for name in alone.names:
        assert_same_bits(beside.tensors(name), alone.tensors(name))


@given(before=lengths, after=lengths, every=st.integers(1, 3), spacing=st.sampled_from([None, 6]))
def test_a_resumed_window_is_one_that_never_stopped_bit_for_bit(before, after, every, spacing):
    kinds = [EMA(0.9), Window(3, every=spacing, name="w")]
    torch.manual_seed(0)
    model = net()
    never = Averager(model, kinds, every=every)
    walk(never, model, range(before))
    saved, weights = through_a_file(never.state_dict()), snapshot(model)
    walk(never, model, range(100, 100 + after))
    model = net()
    resumed = Averager(model, kinds, every=every)
    model.load_state_dict(weights)
    resumed.load_state_dict(saved)
    walk(resumed, model, range(100, 100 + after))
    assert resumed.explain() == never.explain()
    assert_same_bits(resumed.tensors("w"), never.tensors("w"))


def test_a_loaded_window_is_not_shared():
    model = net()
    one, two = (Averager(model, [Window(2)]) for _ in range(2))
    walk(one, model, range(3))
    two.load_state_dict(one.state_dict())
    held = one.tensors("window_2")
    walk(two, model, range(3))
    assert_same_bits(one.tensors("window_2"), held)


def test_it_is_applied_saved_and_read_as_any_average(tmp_path):
    torch.manual_seed(0)
    model = net()
    averager = Averager(model, [Window(2)])
    walk(averager, model, range(4))
    held = averager.tensors("window_2")
    with averager.applied("window_2"):
        assert_same_bits(snapshot(model), held)
    assert_same_bits(averager.module("window_2").state_dict(), held)
    save(averager, tmp_path / "w.safetensors")
    loaded = load(tmp_path / "w.safetensors")
    assert_same_bits(loaded["window_2"], held)
    assert loaded.manifest["averages"]["window_2"]["kind"] == "window"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_snapshots_of_half_precision_weights_have_a_float32_mean(dtype):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2).to(dtype)
    averager = Averager(model, [Window(2)])
    states = []
    for seed in range(3):
        drift(model, seed)
        averager.step()
        states.append(snapshot(model))
    expected = (states[-1]["weight"].float() + states[-2]["weight"].float()) / 2
    got = averager.tensors("window_2")["weight"]
    assert got.dtype == torch.float32
    assert torch.equal(got, expected)
    kept = averager.state_dict()["remainder"]["window_2"]
    assert {x.dtype for x in kept.values()} == {dtype}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_mean_has_the_dtype_asked_for_and_its_snapshots_the_weights_own(dtype):
    torch.manual_seed(0)
    model = net()
    averager = Averager(model, [0.9, Window(2)], dtype=dtype)
    states = []
    for seed in range(3):
        drift(model, seed)
        averager.step()
        states.append(snapshot(model))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    first, second = (s["0.weight"].to(wide) for s in states[-2:])
    assert torch.equal(averager.tensors("window_2")["0.weight"], (first + second) / 2)
    assert averager.state_dict()["dtypes"] == str(dtype).removeprefix("torch.")
    resumed = Averager(model, [0.9, Window(2)], dtype=dtype)
    resumed.load_state_dict(through_a_file(averager.state_dict()))
    for each in (averager, resumed):
        walk(each, model, range(1))
    assert resumed.standstill("window_2") == 0.0


def test_a_layer_unfrozen_later_counts_as_it_was_in_the_snapshots_before():
    torch.manual_seed(0)
    model = net()
    model[0].requires_grad_(False)
    averager = Averager(model, [Window(3)])
    frozen = model[0].weight.detach().clone()
    averager.step()
    averager.step()
    model[0].requires_grad_(True)
    averager.track()
    with torch.no_grad():
        model[0].weight += 3.0
    averager.step()
    torch.testing.assert_close(averager.tensors("window_3")["0.weight"], frozen + 1.0)


@given(last=st.integers(1, 5), every=st.integers(1, 3), updates=st.integers(0, 12))
def test_its_profile_is_what_the_averager_does(last, every, updates):
    kind = Window(last, every=2 * every)
    shares = profile(kind, updates=updates, every=every)
    assert len(shares) == updates + 1
    assert sum(shares) == pytest.approx(1.0)
    states = moved(lambda: Scalar(4.0), updates)
    model = Scalar(4.0)
    averager = Averager(model, [kind], every=every)
    for t in range(1, updates + 1):
        drift(model, t)
        for _ in range(every):
            averager.step()
    expected = sum(s * x["w"] for s, x in zip(shares, states, strict=True))
    assert averager.tensors(kind.label)["w"].item() == pytest.approx(expected.item(), rel=1e-12)
    assert averager.profile(kind.label) == shares
    ages = sum(s * (updates - i) for i, s in enumerate(shares))
    if shares[0] == 0:
        assert contents(kind, updates=updates, every=every).mean_age == pytest.approx(ages)


def test_it_is_explained_in_words():
    averager = Averager(Scalar(), [Window(5, every=8), Window(9, every=8)], every=4)
    assert "plain mean of the last 5 snapshots, one every 8 steps" in averager.explain()
    for _ in range(40):
        averager.step()
    assert "equal so far, no window has dropped a snapshot" in averager.explain()
    for _ in range(8):
        averager.step()
    assert averager.coinciding() == []


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "3"])
def test_settings_outside_their_range_are_refused(value):
    with pytest.raises(ConfigError, match="last is"):
        Window(value)
    with pytest.raises(ConfigError, match="every is"):
        Window(2, every=value)


def test_a_spacing_that_updates_do_not_meet_is_refused():
    with pytest.raises(ConfigError, match="expected a multiple of the averager's period, 4"):
        Averager(net(), [Window(3, every=6)], every=4)


def test_the_share_of_the_newest_weights():
    kind = Window(3, every=2)
    assert kind.weight(Update(0, 1, 1), 0) == 0.0
    assert kind.weight(Update(1, 2, 1), 0) == 1.0
    assert kind.weight(Update(9, 10, 1), 7) == pytest.approx(1 / 3)


@given(last=st.integers(1, 5), spacing=st.integers(1, 4), updates=st.integers(0, 30))
def test_its_ages_are_those_of_the_snapshots_in_its_profile(last, spacing, updates):
    kind = Window(last, every=2 * spacing)
    shares = profile(kind, updates=updates, every=2)[1:]
    ages = [updates - 1 - index for index, share in enumerate(shares) if share > 0]
    assert kind.ages(updates=updates, every=2) == ages[::-1]
