import math

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given
from hypothesis import strategies as st

from polyak.metrics import accuracy, brier, cross_entropy

# Multiples of 1/8: a shift by another such number is exact.
eighths = st.integers(-800, 800).map(lambda i: i / 8)


@st.composite
def classified(draw):
    n, k = draw(st.integers(1, 12)), draw(st.integers(2, 6))
    logits = draw(hnp.arrays(np.float64, (n, k), elements=eighths))
    labels = draw(hnp.arrays(np.int64, n, elements=st.integers(0, k - 1)))
    return torch.from_numpy(logits), torch.from_numpy(labels)


def looped(logits, labels):
    """All three metrics one sample at a time, in Python floats."""
    right = nats = squares = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        top = max(row)
        weights = [math.exp(z - top) for z in row]
        right += row.index(top) == label
        nats += math.log(sum(weights)) - (row[label] - top)
        p = [w / sum(weights) for w in weights]
        squares += sum((p_j - (j == label)) ** 2 for j, p_j in enumerate(p))
    n = len(labels)
    return right / n, nats / n, squares / n


@given(classified())
def test_metrics_equal_a_loop_over_samples(case):
    got = (accuracy(*case), cross_entropy(*case), brier(*case))
    assert got == pytest.approx(looped(*case), rel=1e-12, abs=1e-12)


@given(classified())
def test_metrics_stay_in_their_ranges(case):
    assert 0 <= accuracy(*case) <= 1
    assert cross_entropy(*case) >= 0
    assert 0 <= brier(*case) <= 2


@given(classified(), eighths)
def test_a_constant_added_to_all_logits_changes_nothing(case, shift):
    logits, labels = case
    for metric in (accuracy, cross_entropy, brier):
        assert metric(logits + shift, labels) == pytest.approx(metric(logits, labels), abs=1e-12)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_metrics_equal_those_of_scikit_learn(classes):
    generator = torch.Generator().manual_seed(classes)
    logits = 3 * torch.randn(500, classes, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    y, p, names = labels.numpy(), logits.softmax(dim=1).numpy(), np.arange(classes)

    assert accuracy(logits, labels) == sklearn.metrics.accuracy_score(y, p.argmax(axis=1))
    assert cross_entropy(logits, labels) == pytest.approx(
        sklearn.metrics.log_loss(y, p, labels=names), rel=1e-10
    )
    assert brier(logits, labels) == pytest.approx(
        sklearn.metrics.brier_score_loss(y, p, labels=names, scale_by_half=False), rel=1e-12
    )


def test_a_sure_mistake_costs_its_whole_margin_and_not_infinity():
    logits, labels = torch.tensor([[2000.0, 0.0]]), torch.tensor([1])
    assert (accuracy(logits, labels), cross_entropy(logits, labels)) == (0.0, 2000.0)
    assert brier(logits, labels) == 2.0


def test_the_first_of_equal_logits_is_the_prediction():
    assert accuracy(torch.zeros(2, 3), torch.tensor([0, 2])) == 0.5
