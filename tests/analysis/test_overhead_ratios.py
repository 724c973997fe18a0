import itertools
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, quantile_test

from polyak.analysis.overhead import median_interval, overheads
from polyak.errors import DataError
from polyak.records.timings import Timing, Timings


def timing(averages, every, steps, evaluation, size=0):
    return Timing(
        averages=averages,
        every=every,
        steps_seconds=tuple(steps),
        evaluation_seconds=tuple(evaluation),
        bytes=size,
    )


PLAIN = timing(0, None, [2.0, 4.0, 2.0], [1.0, 2.0, 1.0])
FIVE = timing(5, 16, [2.2, 4.4, 2.1], [4.0, 8.0, 4.0], size=5 * 2**20)
TIMINGS = Timings(
    cases=(PLAIN, FIVE),
    clock="CPU",
    steps=10,
    batch_size=8,
    train_images=80,
    holdout_images=20,
    parameters=7,
    environment={},
)


def test_a_ratio_is_that_of_one_round_so_that_slow_rounds_do_not_count_twice():
    plain, five = overheads(TIMINGS)
    assert (plain.steps_ratio.value, plain.epoch_ratio.value) == (1.0, 1.0)
    assert plain.over_training.value == 1.5
    assert five.steps_ratio.value == pytest.approx(1.1)
    # (2.2 + 4) / (2 + 1), (4.4 + 8) / (4 + 2), (2.1 + 4) / (2 + 1)
    assert five.epoch_ratio.value == pytest.approx(6.2 / 3)
    assert five.over_training.value == pytest.approx(3.1)
    assert five.step.value == pytest.approx(0.22)
    assert five.evaluation.value == 4.0
    assert (plain.mib, five.mib) == (0.0, 5.0)


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40))
def test_the_interval_holds_the_median_and_its_ends_are_numbers_of_the_sample(values):
    found = median_interval(values)
    assert found.value == statistics.median(values)
    if found.low is None:
        assert found.high is None
        assert len(values) < 6
    else:
        assert {found.low, found.high} <= set(values)
        assert found.low <= found.value <= found.high


@pytest.mark.parametrize("n", [1, 5, 6, 8, 9, 12, 30])
def test_the_interval_is_the_narrowest_whose_coverage_is_at_least_the_level(n):
    values = [float(i) for i in range(1, n + 1)]

    def coverage(k):
        """That the median lies between the k-th smallest and the k-th largest."""
        return 1 - 2 * binom.cdf(k - 1, n, 0.5)

    enough = [k for k in range(1, n // 2 + 1) if coverage(k) >= 0.95]
    found = median_interval(values)
    assert (found.low, found.high) == ((enough[-1], n + 1 - enough[-1]) if enough else (None, None))


@pytest.mark.parametrize("n", [6, 9, 12])
def test_the_interval_is_that_of_scipys_quantile_test(n):
    values = [float(i) for i in range(n)]
    found = median_interval(values)
    interval = quantile_test(values, q=0, p=0.5).confidence_interval(0.95)
    assert (found.low, found.high) == (interval.low, interval.high)


def test_order_does_not_matter():
    results = {median_interval(list(p)) for p in itertools.permutations([3.0, 1.0, 2.0])}
    assert len(results) == 1


def test_no_timing_is_no_median():
    with pytest.raises(DataError, match="values is empty"):
        median_interval([])
