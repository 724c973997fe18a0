"""The warm-ups: algebra, ends, names, records, refusals."""

import json
import math
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from polyak.averaging import EMA, Exponential, HalfLifeRamp, InverseGamma, Ratio
from polyak.averaging.kinds import Update
from polyak.averaging.kinds.records import from_record, to_record
from polyak.averaging.kinds.warmups import WARMUPS
from polyak.errors import ConfigError

decays = st.floats(0.0, 0.99999)
counts = st.sampled_from(["updates", "steps"])
ramps = st.one_of(
    st.builds(Ratio, first=st.integers(1, 5), copies=st.integers(0, 4)),
    st.builds(
        InverseGamma,
        gamma=st.floats(0.1, 100.0),
        power=st.floats(0.1, 2.0),
        after=st.integers(0, 50),
    ),
    st.builds(HalfLifeRamp, ratio=st.floats(0.01, 2.0)),
    st.builds(Exponential, tau=st.floats(0.5, 3000.0)),
)


# Algebra


@given(ramp=ramps, decay=decays, span=st.integers(1, 20))
def test_a_warm_up_rises_and_stays_within_the_decay(ramp, decay, span):
    values = [ramp.decay_at(decay, t, span) for t in range(200)]
    assert all(0.0 <= d <= decay for d in values)
    assert all(a <= b + 1e-15 for a, b in pairwise(values))


@given(ramp=ramps, decay=st.floats(0.0, 0.999))
def test_a_warm_up_ends_at_the_decay(ramp, decay):
    end = ramp.end(decay)
    assume(end is not None)
    within = 0.01 * (1 - decay) if isinstance(ramp, Exponential) else 0.0
    assert decay - ramp.decay_at(decay, end) <= within + 1e-15
    if end:
        assert decay - ramp.decay_at(decay, end - 1) > within - 1e-12
    assert ramp.decay_at(decay, 2**60) == pytest.approx(decay, abs=1e-4)


@pytest.mark.parametrize("decay", [0.9, 0.999])
@pytest.mark.parametrize("name", sorted(WARMUPS))
def test_the_end_is_the_first_of_all_counts(name, decay):
    """Bisection against a search from 0."""
    ramp = WARMUPS[name]
    tolerance = 0.01 * (1 - decay) if name == "yolo" else 0.0
    end = ramp.end(decay)
    t = max(0, end - 3000)
    assert ramp.decay_at(decay, t) < decay - tolerance or t == 0
    while decay - ramp.decay_at(decay, t) > tolerance:
        t += 1
    assert t == end


@pytest.mark.parametrize("counter", ["updates", "steps"])
@pytest.mark.parametrize("every", [1, 5, 16])
@pytest.mark.parametrize("name", sorted(set(WARMUPS) - {"yolo"}))
def test_the_updates_that_warm_up_governs_are_those_below_the_decay(name, every, counter):
    average = EMA(0.97, name, counter)
    index = 0
    while average.weight(Update(index, (index + 1) * every, every), index) > 1 - 0.97:
        index += 1
    assert average.governed_updates(every) == index > 0


@given(ramp=ramps, low=decays, high=decays, t=st.integers(0, 400))
def test_where_a_ramp_governs_no_larger_decay_makes_a_difference(ramp, low, high, t):
    assume(low <= high)
    if ramp.governs(low, t):
        assert ramp.decay_at(low, t) == ramp.decay_at(high, t)


def test_a_ramp_that_hardly_rises_never_ends():
    assert EMA(0.999, InverseGamma(power=0.01)).warmup_updates is None


def test_the_plain_mean_is_an_inverse_gamma():
    average = EMA(0.9999, InverseGamma(power=1.0))
    weights = [average.weight(Update(t, t + 1, 1), t) for t in range(50)]
    assert weights == pytest.approx([1 / (t + 1) for t in range(50)], rel=1e-12)


# Names, records, refusals


@pytest.mark.parametrize("name", sorted(WARMUPS))
def test_a_named_warm_up_and_its_object_are_one(name):
    assert EMA(0.9, WARMUPS[name]) == EMA(0.9, name)
    assert EMA(0.9, WARMUPS[name]).warmup == name
    assert to_record(EMA(0.9, name))["warmup"] == name


@given(ramp=ramps, counter=counts)
def test_a_warm_up_with_settings_comes_back_from_its_record(ramp, counter):
    average = EMA(0.99, ramp, counter, name="mine")
    assert from_record(json.loads(json.dumps(to_record(average)))) == average
    assert hash(average) == hash(from_record(to_record(average)))


def test_the_record_of_a_papers_ema_is_as_ever():
    """Files of earlier versions are read, and theirs compare equal."""
    assert to_record(EMA(0.998)) == {
        "kind": "ema",
        "decay": 0.998,
        "warmup": "paper",
        "warmup_counts": "updates",
        "name": None,
        "per": "update",
    }
    assert from_record({"kind": "ema", "decay": 0.9, "warmup": None}) == EMA(0.9, warmup=None)


def test_a_record_of_an_unknown_warm_up_names_the_known_ones():
    record = {**to_record(EMA(0.9)), "warmup": {"kind": "linear"}}
    with pytest.raises(ConfigError, match="'linear'; expected one of ratio, inverse_gamma"):
        from_record(record)


def test_an_unknown_name_meets_the_known_ones():
    with pytest.raises(ConfigError, match=r"'torchema'; expected one of paper, .*'torch_ema'"):
        EMA(0.9, warmup="torchema")
    with pytest.raises(ConfigError, match=r"warmup is 5; expected None, a warm-up or one of"):
        EMA(0.9, warmup=5)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Ratio(first=0), "first is 0"),
        (lambda: Ratio(copies=-1), "copies is -1"),
        (lambda: InverseGamma(gamma=0.0, power=math.nan), "gamma is 0.0.*power is nan"),
        (lambda: InverseGamma(min_decay=1.0), "min_decay is 1.0"),
        (lambda: InverseGamma(after=-1), "after is -1"),
        (lambda: HalfLifeRamp(ratio=0.0), "ratio is 0.0"),
        (lambda: Exponential(tau=math.inf), "tau is inf"),
        (lambda: EMA(0.5, InverseGamma(min_decay=0.6)), "min_decay of the warm-up is 0.6"),
    ],
)
def test_settings_outside_their_range_are_refused(make, named):
    with pytest.raises(ConfigError, match=named):
        make()


def test_a_least_decay_is_meant_per_update():
    average = EMA.per_step(0.99, warmup=InverseGamma(min_decay=0.9))
    assert average.at_period(2).decay == pytest.approx(0.9801)
    with pytest.raises(ConfigError, match="expected <= decay per update"):
        average.at_period(100)
