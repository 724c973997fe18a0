"""An EMA that begins late: a copy of the weights until then, and one of its own from there on."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.small_networks import (
    Scalar,
    assert_same_bits,
    drift,
    generator,
    net,
    through_a_file,
    walk,
)
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import polyak
from polyak import EMA, Averager
from polyak.averaging import Exponential, InverseGamma, Ratio
from polyak.averaging.kinds.records import from_record, to_record
from polyak.averaging.kinds.warmups import WARMUPS
from polyak.cli.commands.inspect import description
from polyak.errors import ConfigError

OWN = (InverseGamma(power=0.9, min_decay=0.3), Ratio(first=3, copies=2), Exponential(tau=5.0))
warmups = st.sampled_from([None, *WARMUPS, *OWN])
counters = st.sampled_from(["updates", "steps"])
periods = st.integers(1, 6)
starts = st.integers(0, 30)


def assert_close_floats(ours, theirs):
    """torch averages counters of BatchNorm, too; here they are the model's."""
    for key, x in ours.items():
        if x.is_floating_point():
            torch.testing.assert_close(x, theirs[key], rtol=1e-5, atol=1e-6)


def decay_written_out(average: EMA, *, every: int, begun: int, step: int, since: int) -> float:
    """d of the update at `step`, in a run that a bank joins at its update `begun`."""
    d = average.decay**every if average.per == "step" else average.decay
    if average.warmup is None:
        return d
    if average.warmup_counts == "steps":
        return average.ramp.decay_at(d, step - average.start - 1, since)
    return average.ramp.decay_at(d, (step - begun) // every - 1)


@given(
    decay=st.floats(0.3, 0.999),
    warmup=warmups,
    counter=counters,
    per=st.sampled_from(["update", "step"]),
    start=starts,
    every=periods,
    seed=st.integers(0, 99),
)
def test_it_is_a_copy_and_then_the_recurrence_written_out(
    decay, warmup, counter, per, start, every, seed
):
    """Every setting at every period against a loop that knows when it begins."""
    assume(decay**every >= 0.3)  # the least decay of one of the warm-ups
    average = EMA(decay, warmup, counter, per=per, start=start)
    model = Scalar(1.0)
    averager = Averager(model, [average], every=every)
    begun = math.ceil(start / every) * every
    m = 1.0
    path = torch.randn(begun + 6 * every, generator=generator(seed), dtype=torch.float64)
    for step, x in enumerate(path.tolist(), start=1):
        model.set(x)
        averager.step()
        if step % every == 0 and step <= begun:
            m = x
        elif step % every == 0:
            d = decay_written_out(average, every=every, begun=begun, step=step, since=every)
            m = d * m + (1 - d) * x
        got = averager.tensors(average.label)["w"].item()
        assert got == pytest.approx(m, rel=1e-9, abs=1e-9)


@settings(max_examples=30)
@given(every=periods, periods_before=st.integers(0, 6), warmup=warmups, counter=counters)
def test_it_is_the_ema_of_an_averager_that_is_built_at_its_start(
    every, periods_before, warmup, counter
):
    start = periods_before * every
    model = net()
    early = Averager(model, [EMA(0.9, warmup, counter, "m", start=start)], every=every)
    walk(early, model, range(start))
    late = Averager(model, [EMA(0.9, warmup, counter, "m")], every=every)
    for seed in range(100, 100 + 4 * every):
        drift(model, seed)
        early.step()
        late.step()
        assert_same_bits(early.tensors("m"), late.tensors("m"))


@settings(max_examples=20)
@given(every=periods, start=st.integers(1, 30), steps=st.integers(0, 60))
def test_it_is_torchs_average_of_who_begins_to_call_it_then(every, start, steps):
    """torch copies at its first update, which is ours at or after `start`."""
    model = net()
    peer = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    ours = Averager(model, [EMA(0.9, None, start=start)], every=every)
    [name] = ours.names
    for step in range(1, steps + 1):
        drift(model, step)
        ours.step()
        if step % every == 0 and step >= start:
            peer.update_parameters(model)
            assert_close_floats(ours.tensors(name), peer.module.state_dict())


@pytest.mark.parametrize("start", [0, 1, 5, 12])
def test_it_is_lightnings_average(start):
    """`EMAWeightAveraging(update_every_n_steps=1, update_starting_at_step=s)`, Lightning 2.6.

    Its steps count from 0, and its update is torch's, whose first one copies.
    """
    model = net()
    peer = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    ours = Averager(model, [EMA(0.9, None, start=start + 1, name="m")])
    for step_idx in range(20):
        drift(model, step_idx)
        ours.step()
        if step_idx >= start:
            peer.update_parameters(model)
            assert_close_floats(ours.tensors("m"), peer.module.state_dict())


def test_a_start_within_a_period_waits_for_the_next_update():
    model = Scalar(0.0)
    averager = Averager(model, [EMA(0.5, None, start=5)], every=4)
    held = []
    for step in range(1, 17):
        model.set(float(step))
        averager.step()
        held.append(averager.tensors("ema_0.5_from_5")["w"].item())
    assert held[3::4] == [4.0, 8.0, 10.0, 13.0]


@pytest.mark.filterwarnings("ignore:.*hold NaN")
@given(
    moves=st.lists(st.sampled_from(["step", "nan", "update"]), min_size=1, max_size=40),
    start=st.integers(1, 15),
    every=st.integers(1, 3),
)
def test_skipped_and_additional_updates_are_counted_from_where_it_began(moves, start, every):
    """t is the number of updates since it began, wherever they took place."""
    model = Scalar(0.0)
    averager = Averager(model, [EMA(0.9, start=start, name="m")], every=every)
    m, since_begun, reached, last_steps, steps = 0.0, None, 0, 0, 0
    for i, move in enumerate(moves):
        value = torch.nan if move == "nan" else float(i + 1)
        model.set(value)
        if move == "update":
            averager.update()
        else:
            averager.step()
            steps += 1
        took_place = move == "update" or (move == "step" and steps % every == 0)
        if took_place:
            reached += steps - last_steps or every
            last_steps = steps
            if since_begun is None:
                m = value
                since_begun = 0 if reached >= start else None
            else:
                d = min(0.9, (since_begun + 1) / (since_begun + 10))
                m = d * m + (1 - d) * value
                since_begun += 1
        if move != "nan":
            assert averager.tensors("m")["w"].item() == pytest.approx(m, rel=1e-9)


KINDS = [
    EMA(0.9, start=6),
    EMA(0.8, None, start=3),
    EMA(0.9, "edm2", "steps", start=5),
    EMA.per_step(0.95, start=4),
]


@pytest.mark.parametrize("before", [0, 1, 5, 6, 9, 14])
def test_a_resumed_bank_is_one_that_never_stopped_bit_for_bit(before):
    model = net()
    never = Averager(model, KINDS, every=2)
    walk(never, model, range(before))
    resumed = Averager(model, KINDS, every=2)
    resumed.load_state_dict(through_a_file(never.state_dict()))
    adopting = Averager(model, KINDS, every=2)
    adopting.adopt({name: never.tensors(name) for name in never.names}, steps=before)
    for seed in range(100, 109):
        drift(model, seed)
        for averager in (never, resumed, adopting):
            averager.step()
    for name in never.names:
        assert_same_bits(resumed.tensors(name), never.tensors(name))
        assert_close_floats(adopting.tensors(name), never.tensors(name))
    assert resumed.explain() == never.explain() == adopting.explain()


def test_files_records_and_inspect_know_its_start(tmp_path):
    model = net()
    averager = Averager(model, KINDS, every=2)
    walk(averager, model, range(9))
    polyak.save(averager, tmp_path / "file")
    saved = polyak.load(tmp_path / "file")
    assert saved.manifest["averages"]["ema_0.9_from_6"]["start"] == 6
    assert any("start 6" in line for line in description(tmp_path / "file"))
    for kind in KINDS:
        assert from_record(to_record(kind)) == kind
    made = polyak.synthesize([tmp_path / "file"], EMA(0.8, None, start=3, name="again"))
    assert made.manifest["averages"]["again"]["start"] == 3
    same = averager.tensors("ema_0.8_from_3")
    torch.testing.assert_close(made["again"]["0.weight"], same["0.weight"])


def test_a_record_without_a_start_is_that_of_an_earlier_version():
    assert "start" not in to_record(EMA(0.9))
    assert from_record(to_record(EMA(0.9))) == EMA(0.9, start=0)
    early = Averager(net(), [EMA(0.9, name="m")]).state_dict()
    with pytest.raises(ConfigError, match="the saved averages are"):
        Averager(net(), [EMA(0.9, name="m", start=4)]).load_state_dict(early)


def test_its_name_tells_it_from_one_that_begins_at_once():
    assert EMA(0.99, start=1000).label == "ema_0.99_from_1000"
    assert EMA.per_step(0.99, start=10).at_period(4).label == "ema_0.99_per_step_from_10"
    assert EMA.halflife(steps=9, start=3).label == "ema_halflife_9_steps_from_3"
    assert EMA(0.99, start=5, name="mine").label == "mine"
    assert Averager(net(), [0.99, EMA(0.99, start=5)]).names == ("ema_0.99", "ema_0.99_from_5")


@pytest.mark.parametrize("start", [-1, 1.5, math.nan, "10", True, None])
def test_a_start_that_is_no_number_of_steps_is_refused(start):
    with pytest.raises(ConfigError, match=r"start is .*; expected optimizer steps"):
        EMA(0.9, start=start)


def test_a_batch_of_another_size_starts_at_the_same_sample():
    assert EMA(0.9, start=1000).scaled_batch(8).start == 125
    assert EMA(0.9, start=1).scaled_batch(8).start == 1
    assert EMA(0.9).scaled_batch(8).start == 0


# What it says of itself


@pytest.mark.parametrize(
    ("average", "words"),
    [
        (EMA(0.9, None, start=10), "warm-up copies the weights until update 3 (step 12)"),
        (EMA(0.9, start=10), "until update 3 (step 12), then governs until update 83 (step 332)"),
        (
            EMA(0.9, "paper", "steps", start=10),
            "until update 3 (step 12), then governs until step 90 (update 22)",
        ),
        (EMA(0.0, start=10), "the weights of the last update"),
    ],
)
def test_explain_says_when_it_begins(average, words):
    text = Averager(Scalar(), [average], every=4).explain(total_steps=100)
    assert words in text


def test_a_run_that_is_over_before_it_has_much_to_average_is_foretold():
    averager = Averager(Scalar(), [EMA(0.9, None, start=80, name="m")])
    averager.step()
    text = averager.explain(total_steps=100)
    assert "warning: m: warm-up will govern 80.0% of the planned 100 steps" in text
    assert "warning: m: warm-up has governed every update so far" in text


@given(average=st.builds(EMA, st.just(0.8), warmups, counters, start=starts), every=periods)
def test_the_end_of_the_warm_up_is_the_first_update_with_the_decay(average, every):
    assume(not isinstance(average.ramp, Exponential))  # over within a tolerance
    end = average.governed_updates(every)
    weights = list(
        polyak.averaging.kinds.profiles.profile.regular_weights(average, updates=60, every=every)
    )
    expected = next((i for i, w in enumerate(weights) if w <= 1 - 0.8), None)
    assert expected is None or end == expected
    assert average.warmup_steps(every) >= (end - 1) * every


@given(
    first=st.builds(EMA, st.sampled_from([0.5, 0.9]), warmups, counters, start=st.integers(0, 12)),
    second=st.builds(EMA, st.sampled_from([0.5, 0.9]), warmups, counters, start=st.integers(0, 12)),
    every=st.integers(1, 4),
    updates=st.integers(1, 30),
)
def test_those_that_are_said_to_be_equal_have_had_equal_weights(first, second, every, updates):
    def weights(kind):
        return list(
            polyak.averaging.kinds.profiles.profile.regular_weights(
                kind, updates=updates, every=every
            )
        )

    named = [
        average.at_period(every).likeness(steps=updates * every, updates=updates)
        for average in (first, second)
    ]
    if named[0] == named[1]:
        assert weights(first) == weights(second)
    # One kind of start and warm-up: what is equal is said to be so.
    if (first.warmup, first.warmup_counts, first.start) == (
        second.warmup,
        second.warmup_counts,
        second.start,
    ) and first.warmup == "paper":
        assert (named[0] == named[1]) == (weights(first) == weights(second))


def test_those_that_have_not_begun_are_equal_until_the_later_of_them_begins():
    kinds = [EMA(0.9, start=6, name="a"), EMA(0.5, None, start=9, name="b")]
    averager = Averager(Scalar(), kinds, every=2)
    for _ in range(4):
        averager.step()
    assert averager.coinciding() == [["a", "b"]]
    for _ in range(4):
        averager.step()
    assert averager.coinciding() == []
