import dataclasses
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from polyak.analysis.seeds import Interval, mean_interval, paired_difference
from polyak.errors import ConfigError, DataError

numbers = st.floats(-1e3, 1e3)
levels = st.sampled_from([0.5, 0.9, 0.95, 0.99])


@given(st.lists(numbers, min_size=2, max_size=12), levels)
def test_interval_equals_scipys(values, level):
    interval = mean_interval(values, level=level)
    sd = np.std(values, ddof=1)
    assert interval.n == len(values)
    assert interval.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert interval.sd == pytest.approx(sd, abs=1e-9)
    assert interval.sd_paper_code == pytest.approx(np.std(values), abs=1e-9)
    if sd > 1e-6:  # scipy has no interval of width 0
        low, high = stats.t.interval(
            level, len(values) - 1, loc=np.mean(values), scale=sd / math.sqrt(len(values))
        )
        assert (interval.low, interval.high) == pytest.approx((low, high), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("n", [2, 3, 10])
def test_paired_difference_equals_scipys_paired_test(n, level):
    draw = random.Random(n)
    ours = {seed: draw.gauss(0.8, 0.01) for seed in range(n)}
    baseline = {seed: draw.gauss(0.78, 0.01) for seed in reversed(range(n))}
    test = stats.ttest_rel([ours[s] for s in range(n)], [baseline[s] for s in range(n)])
    expected = test.confidence_interval(level)
    interval = paired_difference(ours, baseline, level=level)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_an_interval_covers_the_truth_as_often_as_it_says():
    draw = random.Random(0)
    repeats, covered = 2000, 0
    for _ in range(repeats):
        interval = mean_interval([draw.gauss(5.0, 2.0) for _ in range(3)], level=0.9)
        covered += interval.low <= 5.0 <= interval.high
    # Three standard errors of the frequency; the normal quantile would cover 76 %.
    assert covered / repeats == pytest.approx(0.9, abs=3 * math.sqrt(0.09 / repeats))


@given(numbers)
def test_a_single_seed_has_a_mean_and_nothing_else(value):
    interval = mean_interval([value])
    assert interval == Interval(mean=value, low=None, high=None, sd=None, n=1)
    assert interval.sd_paper_code is None


def test_equal_values_give_an_interval_of_no_width():
    interval = mean_interval([0.25, 0.25, 0.25])
    assert (interval.low, interval.mean, interval.high, interval.sd) == (0.25, 0.25, 0.25, 0.0)


@given(st.lists(numbers, min_size=1, max_size=8), numbers)
def test_a_constant_advantage_is_the_difference(values, advantage):
    baseline = dict(enumerate(values))
    ours = {seed: value + advantage for seed, value in baseline.items()}
    interval = paired_difference(ours, baseline)
    assert interval.mean == pytest.approx(advantage, abs=1e-9)
    assert interval.n == len(values)


def test_seeds_of_one_side_only_are_dropped_and_named():
    shared = {0: 0.9, 1: 0.8, 5: 0.7}
    ours, baseline = shared | {9: 0.1}, {2: 0.2} | {s: v - 0.1 for s, v in shared.items()}
    interval = paired_difference(ours, baseline)
    assert interval.dropped == (2, 9)
    without = paired_difference(shared, {s: baseline[s] for s in shared})
    assert without == dataclasses.replace(interval, dropped=())


def test_no_shared_seed_is_refused():
    with pytest.raises(DataError, match=r"ours are \[0, 1\] and of the baseline \[2\]; expected"):
        paired_difference({1: 0.5, 0: 0.5}, {2: 0.5})


@pytest.mark.parametrize("values", [[], [0.5, math.nan], [math.inf]])
def test_values_without_a_mean_are_refused(values):
    with pytest.raises(DataError, match="expected at least one number, all finite"):
        mean_interval(values)


@pytest.mark.parametrize("level", [0.0, 1.0, 95, math.nan])
def test_a_level_that_is_no_fraction_is_refused(level):
    with pytest.raises(ConfigError, match="expected 0 < level < 1"):
        mean_interval([0.1, 0.2], level=level)
