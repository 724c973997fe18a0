"""What a bank says of itself, held against what it does."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.small_networks import Scalar, profile

from polyak import EMA, Averager, PowerEMA, Schedule, Uniform
from polyak.averaging import InverseGamma
from polyak.averaging.kinds.profiles.profile import contents
from polyak.errors import ConfigError

HALF = Schedule(lambda _: 0.5, name="half")


def line_of(averager: Averager, name: str) -> str:
    [line] = [line for line in averager.explain().splitlines() if line.startswith(f"{name}:")]
    return line


def test_the_papers_bank_says_where_warm_up_ends():
    """C2: with every = 16 its largest decay is out of warm-up after epoch 184 of 200 only."""
    averager = Averager(Scalar(), [0.968, 0.998], every=16)
    line = line_of(averager, "ema_0.998")
    assert "half-life 346.2 updates (5540 steps)" in line
    assert "warm-up governs until update 4490 (step 71840)" in line


def test_the_counter_of_warm_up_is_named():
    averager = Averager(Scalar(), [EMA(0.998, warmup_counts="steps")], every=16)
    assert "warm-up governs until step 4490 (update 280)" in averager.explain()


STEPS_PER_EPOCH = 391  # 50,000 pictures in batches of 128


def test_the_papers_warm_up_is_foretold_before_training():
    """C2: d = 0.998 at T = 16 is warming up until epoch 183.7 of 200."""
    total = 200 * STEPS_PER_EPOCH
    averager = Averager(Scalar(), [0.968, 0.984, 0.992, 0.996, 0.998], every=16)
    text = averager.explain(total_steps=total)
    assert "ema_0.998: warm-up will govern 91.9% of the planned 78200 steps" in text
    step = int(re.search(r"governs until update 4490 \(step (\d+)\)", text).group(1))
    assert 200 * step / total == pytest.approx(183.7, abs=0.05)
    assert text.count("warning:") == 1
    # What it comes to: a tenth of the run in place of the decay's 499 updates.
    [line] = [line for line in text.splitlines() if line.startswith("ema_0.998:")]
    end = contents(0.998, updates=total // 16, every=16)
    assert f"at step {total} mean age {end.mean_age:.1f} updates" in line
    assert line.endswith("initial weights 0.00%")


def test_on_four_fifths_of_the_data_the_papers_warm_up_never_ends():
    averager = Averager(Scalar(), [0.996, 0.998], every=16)
    text = averager.explain(total_steps=200 * 313)
    assert "warning: ema_0.998: warm-up will govern all of the planned 62600 steps" in text
    assert "warning: ema_0.996: warm-up will govern 57.3% of the planned" in text


def test_a_warm_up_that_counts_steps_is_short_and_no_cause_for_warning():
    averager = Averager(Scalar(), [EMA(0.998, warmup_counts="steps")], every=16)
    assert "warning" not in averager.explain(total_steps=200 * STEPS_PER_EPOCH)


def test_averages_that_a_short_run_cannot_tell_apart_are_foretold():
    averager = Averager(Scalar(), [0.9, 0.99, 0.999], every=2)
    text = averager.explain(total_steps=400)
    assert "warning: ema_0.99 = ema_0.999: equal until step 400, all inside warm-up" in text


@pytest.mark.parametrize(
    ("warmup", "words"),
    [
        ("torch_ema", "governs until update 4489 (step 8978)"),
        ("yolo", "governs until update 21635 (step 43270) (within 1%)"),
        (InverseGamma(power=0.01), "never ends"),
    ],
)
def test_other_warm_ups_say_where_they_end(warmup, words):
    averager = Averager(Scalar(), [EMA(0.998, warmup=warmup)], every=2)
    assert f"warm-up {words};" in averager.explain()


def test_a_decay_below_the_ramp_has_no_warm_up():
    assert "warm-up never governs" in Averager(Scalar(), [0.05]).explain()


@pytest.mark.parametrize(("updates", "governed"), [(0, False), (3, True), (80, True), (81, False)])
@pytest.mark.parametrize("counts", ["updates", "steps"])
def test_a_warm_up_that_has_governed_all_so_far_is_warned_of(updates, governed, counts):
    """The ramp reaches 0.9 at t = 80."""
    averager = Averager(Scalar(), [EMA(0.9, warmup_counts=counts, name="m")])
    for _ in range(updates):
        averager.step()
    warned = "warning: m: warm-up has governed every update so far" in averager.explain()
    assert warned == governed


@pytest.mark.parametrize("total_steps", [0, -5, 10.0])
def test_a_planned_run_without_steps_is_refused(total_steps):
    with pytest.raises(ConfigError, match=f"total_steps is {total_steps}; expected an integer"):
        Averager(Scalar(), [0.9]).explain(total_steps=total_steps)


@given(
    kind=st.sampled_from([EMA(0.9), EMA(0.9, None), PowerEMA(gamma=2.0), Uniform(start=9), HALF]),
    every=st.integers(1, 4),
    updates=st.integers(1, 12),
)
def test_the_age_of_an_average_is_that_of_its_profile(kind, every, updates):
    averager = Averager(Scalar(), [kind], every=every)
    for _ in range(every * updates):
        averager.step()
    age = sum(share * (updates - i) for i, share in enumerate(averager.profile(kind.label)))
    words = f"mean age {age:.1f} updates ({age * every:.0f} steps)"
    assert words in line_of(averager, kind.label)


def test_the_age_of_a_mean_is_known_after_a_skipped_update():
    model = Scalar()
    averager = Averager(model, [Uniform(start=2)])
    for x in (1.0, 2.0, torch.nan, 4.0, 5.0, 6.0):
        model.set(x)
        if x == x:
            averager.step()
        else:
            with pytest.warns(RuntimeWarning):
                averager.step()
    assert "mean age 1.0 updates" in averager.explain()  # of 4, 5 and 6


def test_kinds_are_told_apart():
    averager = Averager(
        Scalar(),
        [EMA(0.9, warmup=None), EMA(0.0), PowerEMA(gamma=8.0), Uniform(start=7), HALF],
        every=2,
    )
    text = averager.explain()
    assert text.startswith("5 averages, one update every 2 steps, 0 updates so far")
    assert "half-life 6.6 updates (13 steps), no warm-up" in line_of(averager, "ema_0.9")
    assert "the weights of the last update" in line_of(averager, "ema_0")
    assert "γ 8, mean age 10.0% of the run so far" in text
    assert "plain mean of all updates after step 7" in text
    assert "lerp weights of a function of yours" in line_of(averager, "half")


@given(
    kind=st.sampled_from(
        [EMA(0.9), EMA(0.99, warmup=None), PowerEMA(gamma=2.0), Uniform(), Uniform(start=9)]
    ),
    every=st.integers(1, 4),
    updates=st.integers(0, 12),
)
def test_the_share_of_the_initial_weights_is_exact(kind, every, updates):
    averager = Averager(Scalar(), [kind], every=every)
    for _ in range(every * updates):
        averager.step()
    share = profile(kind, every=every, updates=updates)[0]
    assert line_of(averager, kind.label).endswith(f"initial weights {share:.2%}")


@pytest.mark.parametrize(("updates", "equal"), [(272, True), (273, False)])
def test_the_first_update_outside_warm_up_ends_the_likeness(updates, equal):
    """0.968 < 273/282: update 273, t = 272, is the first that the ramp does not govern."""
    model = Scalar()
    averager = Averager(model, [0.968, 0.998])
    for step in range(updates):
        model.set(float(step))
        averager.step()
    a, b = (averager.tensors(name)["w"] for name in averager.names)
    assert torch.equal(a, b) == equal
    assert ("ema_0.968 = ema_0.998: equal so far" in averager.explain()) == equal
