import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given
from hypothesis import strategies as st

from polyak.errors import ConfigError, DataError
from polyak.metrics import auroc, auroc_difference, auroc_interval, precision_at


@st.composite
def ranked(draw):
    """Scores with many ties, and at least two samples of each kind."""
    n = draw(st.integers(4, 20))
    scores = draw(hnp.arrays(np.float64, n, elements=st.integers(0, 6).map(float)))
    positive = draw(hnp.arrays(np.bool_, n))
    positive[:4] = [True, True, False, False]
    return torch.from_numpy(scores), torch.from_numpy(positive)


def pairs(scores_n, positive_n):
    """The win of each positive (rows) against each negative: 1, ½ or 0."""
    ours, theirs = scores_n[positive_n][:, None], scores_n[~positive_n][None]
    return (ours > theirs).double() + (ours == theirs).double() / 2


@given(ranked())
def test_auroc_equals_a_count_of_pairs_and_scikit_learn(case):
    assert auroc(*case) == pytest.approx(pairs(*case).mean().item())
    assert auroc(*case) == pytest.approx(sklearn.metrics.roc_auc_score(case[1], case[0]))


@given(ranked())
def test_turning_the_scores_round_turns_the_auroc_round(case):
    assert auroc(-case[0], case[1]) == pytest.approx(1 - auroc(*case))


@given(ranked(), st.floats(0.5, 0.99))
def test_the_interval_stays_in_range_around_its_value(case, level):
    found = auroc_interval(*case, level=level)
    assert 0 <= found.low <= found.value <= found.high <= 1


@given(ranked())
def test_the_variance_is_that_of_a_loop_over_samples(case):
    """DeLong's components by hand, and the interval of the difference that follows."""
    scores_n, positive_n = case
    other_n = scores_n.roll(1)
    a, b = pairs(scores_n, positive_n), pairs(other_n, positive_n)
    d = a - b
    p, q = d.shape
    by_positive, by_negative = d.mean(1).tolist(), d.mean(0).tolist()
    mean = sum(by_positive) / p
    variance = sum((x - mean) ** 2 for x in by_positive) / (p - 1) / p
    variance += sum((x - mean) ** 2 for x in by_negative) / (q - 1) / q
    found = auroc_difference(scores_n, other_n, positive_n)
    assert found.value == pytest.approx(mean, abs=1e-12)
    assert found.high - found.low == pytest.approx(2 * 1.959964 * variance**0.5, abs=1e-6)


@given(ranked())
def test_a_score_does_not_differ_from_itself(case):
    found = auroc_difference(case[0], case[0], case[1])
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_nine_of_ten_intervals_hold_the_truth():
    """Normal scores with a shift have a known AUROC."""
    draw = torch.Generator().manual_seed(3)
    positive_n = torch.arange(120) < 40
    truth = 0.5 * (1 + torch.erf(torch.tensor(1.0) / 2)).item()
    inside = differences = 0
    for _ in range(200):
        first, second = (torch.randn(120, generator=draw) + positive_n for _ in range(2))
        found = auroc_interval(first, positive_n, level=0.9)
        inside += found.low <= truth <= found.high
        both = auroc_difference(first, second, positive_n, level=0.9)
        differences += both.low <= 0 <= both.high
    # 200 draws at 0.9: a standard deviation is 0.02.
    assert 0.84 <= inside / 200 <= 0.96
    assert 0.84 <= differences / 200 <= 0.96


@given(ranked(), st.data())
def test_precision_is_the_mean_over_all_orders_of_ties(case, data):
    scores_n, positive_n = case
    k = data.draw(st.integers(1, len(scores_n)))
    draw = torch.Generator().manual_seed(0)
    found = []
    for _ in range(100):
        shuffled = torch.randperm(len(scores_n), generator=draw)
        top = shuffled[scores_n[shuffled].argsort(descending=True, stable=True)][:k]
        found.append(positive_n[top].double().mean().item())
    assert precision_at(scores_n, positive_n, k) == pytest.approx(np.mean(found), abs=0.25)


def test_precision_without_ties_is_a_count():
    scores_n = torch.tensor([0.1, 0.4, 0.3, 0.2])
    positive_n = torch.tensor([False, True, False, True])
    assert [precision_at(scores_n, positive_n, k) for k in (1, 2, 3, 4)] == [1, 0.5, 2 / 3, 0.5]


def test_what_cannot_be_ranked_is_refused():
    scores_n, both_n = torch.tensor([1.0, 2.0]), torch.tensor([True, False])
    with pytest.raises(DataError, match="2 and 0; expected at least one of each"):
        auroc(scores_n, torch.tensor([True, True]))
    with pytest.raises(DataError, match="1 and 1; expected at least 2"):
        auroc_interval(scores_n, both_n)
    with pytest.raises(DataError, match="NaN or infinity"):
        auroc(torch.tensor([1.0, float("nan")]), both_n)
    with pytest.raises(DataError, match=r"expected torch\.bool"):
        auroc(scores_n, torch.tensor([1, 0]))
    with pytest.raises(DataError, match=r"\(2,\) and \(3,\)"):
        auroc(scores_n, torch.tensor([True, False, True]))
    with pytest.raises(ConfigError, match="k is 3; expected 1 to 2"):
        precision_at(scores_n, both_n, 3)
    with pytest.raises(ConfigError, match="level is 95"):
        auroc_interval(scores_n, both_n, level=95)
