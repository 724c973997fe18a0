"""Going on from a state of which not everything fits."""

import copy

import pytest
import torch
from support.small_networks import assert_same_bits, drift, net, snapshot, through_a_file, walk

import polyak
from polyak import EMA, Averager, PowerEMA, Uniform, Window
from polyak.averaging.files.mixtures.stored import averages_in
from polyak.errors import ConfigError

PART = r"the state was loaded in part: "


def walked(kinds, steps=6, **settings):
    torch.manual_seed(0)
    model = net()
    averager = Averager(model, kinds, **settings)
    walk(averager, model, range(steps))
    return model, averager, through_a_file(copy.deepcopy(averager.state_dict()))


def test_one_average_more_begins_anew_and_the_others_never_stopped():
    model, never, state = walked([0.9, Uniform()])
    more = Averager(model, [EMA(0.5, None), 0.9, Uniform()])
    with pytest.warns(RuntimeWarning, match=PART + r"ema_0\.5 began anew at the model's weights"):
        more.load_state_dict(state, strict=False)
    assert_same_bits(more.tensors("ema_0.5"), snapshot(model))
    alone = Averager(model, [EMA(0.5, None)])
    for averager in (never, more, alone):
        assert averager.scalars()["skipped"] == 0
    for seed in range(6, 12):
        drift(model, seed)
        for averager in (never, more, alone):
            averager.step()
    for name in never.names:
        assert_same_bits(more.tensors(name), never.tensors(name))
    assert_same_bits(more.tensors("ema_0.5"), alone.tensors("ema_0.5"))
    assert more.updates == never.updates == 12


def test_what_began_anew_is_told_from_what_did_not():
    model, _, state = walked([0.9])
    more = Averager(model, [EMA(0.9, name="late"), 0.9])
    with pytest.warns(RuntimeWarning, match=PART):
        more.load_state_dict(state, strict=False)
    assert more.coinciding() == []
    more.step()
    assert "late: decay 0.9 per update" in more.explain()
    assert "began anew after update 6" in more.explain()
    got = more.profile("late")
    assert got[:6] == (0.0,) * 6
    assert sum(got) == pytest.approx(1)
    assert got[6] == pytest.approx(7 / 16)  # d_6 of the bank's warm-up
    assert more.scalars()["late/age"] == pytest.approx(7 / 16)
    again = Averager(model, [EMA(0.9, name="late"), 0.9])
    again.load_state_dict(through_a_file(more.state_dict()))
    assert again.profile("late") == got
    assert again.explain() == more.explain()


def test_a_file_of_it_says_what_is_in_it(tmp_path):
    model, _, state = walked([0.9])
    more = Averager(model, [EMA(0.9, name="late"), 0.9])
    with pytest.warns(RuntimeWarning, match=PART):
        more.load_state_dict(state, strict=False)
    more.step()
    polyak.save(more, tmp_path / "file.safetensors")
    profiles = {x.name: x.profile for x in averages_in(tmp_path / "file.safetensors")}
    assert profiles == {name: more.profile(name) for name in more.names}


def test_another_period_goes_on_from_the_same_averages():
    model, never, state = walked([0.9, PowerEMA(gamma=2.0)], steps=7, every=2)
    finer = Averager(model, [0.9, PowerEMA(gamma=2.0)], every=1)
    with pytest.warns(RuntimeWarning, match=PART + "updates come every 1 steps instead of every 2"):
        finer.load_state_dict(state, strict=False)
    for name in never.names:
        assert_same_bits(finer.tensors(name), never.tensors(name))
    assert (finer.steps, finer.updates) == (7, 3)
    walk(finer, model, range(7, 9))
    assert (finer.steps, finer.updates) == (9, 5)


def test_an_average_under_its_name_goes_on_with_the_settings_of_now():
    model, never, state = walked([EMA(0.9, name="ema")])
    slower = Averager(model, [EMA(0.99, None, name="ema")])
    with pytest.warns(RuntimeWarning, match=PART + "ema went on with other settings"):
        slower.load_state_dict(state, strict=False)
    before = never.tensors()["0.weight"]
    assert torch.equal(slower.tensors()["0.weight"], before)
    drift(model, 9)
    slower.step()
    torch.testing.assert_close(
        slower.tensors()["0.weight"], before.lerp(model[0].weight.detach(), 0.01)
    )


def test_one_average_less_is_said():
    model, never, state = walked([0.9, 0.99])
    fewer = Averager(model, [0.99])
    with pytest.warns(RuntimeWarning, match=PART + r"ema_0\.9 of the state did not go on"):
        fewer.load_state_dict(state, strict=False)
    assert_same_bits(fewer.tensors(), never.tensors("ema_0.99"))


def test_a_window_of_another_length_begins_anew():
    model, _, state = walked([Window(3, name="w"), 0.9])
    averager = Averager(model, [Window(2, name="w"), 0.9])
    with pytest.warns(RuntimeWarning, match="w began anew"):
        averager.load_state_dict(state, strict=False)
    first = snapshot(model)
    walk(averager, model, range(6, 7))
    got = averager.tensors("w")["0.weight"]
    assert torch.equal(got, model[0].weight)
    assert not torch.equal(got, first["0.weight"])
    assert averager.profile("w")[-1] == 1.0
    fits = Averager(model, [Window(3, name="w"), 0.9])
    fits.load_state_dict(state, strict=False)
    assert fits.state_dict()["remainder"]["w"].keys() == state["remainder"]["w"].keys()


def test_halves_of_float32_begin_anew_whole():
    model, _, state = walked([0.9], dtype=torch.bfloat16)
    more = Averager(model, [0.5, 0.9], dtype=torch.bfloat16)
    with pytest.warns(RuntimeWarning, match=PART):
        more.load_state_dict(state, strict=False)
    assert_same_bits(more.tensors("ema_0.5"), snapshot(model))


@pytest.mark.parametrize("kinds", [[EMA(0.5, None), 0.9], [0.9, EMA(0.5, None)]])
def test_a_buffer_that_is_infinite_at_this_build_only_goes_on_in_part_as_it_was(kinds):
    """Averaged in the state, and copied if nothing had been loaded; whichever comes first."""
    models = net(), net()
    for model, best in zip(models, (1.0, torch.inf), strict=True):
        model.register_buffer("best", torch.tensor(best))
    never = Averager(models[0], [0.9])
    walk(never, models[0], range(3))
    models[0].best.fill_(2.0)
    never.update()
    more = Averager(models[1], kinds)
    models[1].load_state_dict(models[0].state_dict())
    with pytest.warns(RuntimeWarning, match=PART + r"ema_0\.5 began anew"):
        more.load_state_dict(through_a_file(never.state_dict()), strict=False)
    assert_same_bits(more.tensors("ema_0.9"), never.tensors("ema_0.9"))
    assert_same_bits(more.tensors("ema_0.5"), snapshot(models[0]))


def test_a_state_that_fits_is_loaded_as_ever_and_says_nothing():
    model, never, state = walked([0.9, Uniform()])
    averager = Averager(model, [0.9, Uniform()])
    averager.load_state_dict(state, strict=False)
    assert averager.state_dict()["history"] == never.state_dict()["history"]
    assert averager.explain() == never.explain()


def test_before_any_update_nothing_is_late():
    model, _, state = walked([0.9], steps=0)
    more = Averager(model, [0.5, 0.9])
    with pytest.warns(RuntimeWarning, match=PART):
        more.load_state_dict(state, strict=False)
    assert more.profile("ema_0.5") == (1.0,)
    assert "begun" not in more.state_dict()["history"]


@pytest.mark.parametrize("kinds", [[0.5], [Uniform(name="ema_0.9")]])
def test_a_state_of_which_nothing_fits_is_refused(kinds):
    model, _, state = walked([0.9])
    with pytest.raises(ConfigError, match=r"expected at least one of"):
        Averager(model, kinds).load_state_dict(state, strict=False)


def test_what_is_no_averagers_state_is_refused():
    model, averager, _ = walked([0.9])
    with pytest.raises(ConfigError, match="the state lacks"):
        averager.load_state_dict(model.state_dict(), strict=False)


def test_other_buffers_are_refused_all_the_same():
    model, _, state = walked([0.9])
    with pytest.raises(ConfigError, match="buffers"):
        Averager(model, [0.9, 0.5], buffers="copy").load_state_dict(state, strict=False)


def test_strictly_other_averages_are_refused():
    model, _, state = walked([0.9])
    with pytest.raises(ConfigError, match="Build the averager with the saved averages"):
        Averager(model, [0.9, 0.5]).load_state_dict(state)
