import math

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr, softmax

from polyak.errors import ConfigError, DataError
from polyak.metrics import churn, js_divergence, js_paper_code, pairwise

# Multiples of 1/8: a shift by another such number is exact.
eighths = st.integers(-8000, 8000).map(lambda i: i / 8)


@st.composite
def pairs(draw):
    shape = draw(st.integers(1, 10)), draw(st.integers(2, 6))
    arrays = hnp.arrays(np.float64, shape, elements=eighths)
    return torch.from_numpy(draw(arrays)), torch.from_numpy(draw(arrays))


def drawn(seed, n, k, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    a, b = scale * torch.randn(2, n, k, generator=generator, dtype=torch.float64)
    return a, (a + b) / 2


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_js_divergence_is_scipys_squared_distance(classes):
    a, b = drawn(0, 50, classes)
    p, q = softmax(a.numpy(), axis=1), softmax(b.numpy(), axis=1)
    expected = np.mean(jensenshannon(p, q, axis=1) ** 2)
    assert js_divergence(a, b) == pytest.approx(expected, rel=1e-10)


@given(pairs())
def test_js_divergence_equals_its_definition(case):
    """½ Σ p ln(p/m) + ½ Σ q ln(q/m) in scipy, saturated logits included."""
    p, q = (softmax(x.numpy(), axis=1) for x in case)
    m = (p + q) / 2
    expected = np.mean(np.sum(rel_entr(p, m) + rel_entr(q, m), axis=1)) / 2
    assert js_divergence(*case) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", [churn, js_divergence])
@given(case=pairs())
def test_disagreement_is_symmetric_and_zero_with_itself(metric, case):
    a, b = case
    assert metric(a, b) == pytest.approx(metric(b, a), abs=1e-15)
    assert metric(a, a) == pytest.approx(0.0, abs=1e-15)


@given(pairs())
def test_disagreement_stays_in_its_range(case):
    assert 0 <= churn(*case) <= 1
    assert 0 <= js_divergence(*case) <= math.log(2)


def test_rounding_does_not_leave_the_range():
    for seed in range(100):
        a, _ = drawn(seed, 2, 3)
        assert 0 <= js_divergence(a, a) < 1e-15


@given(pairs(), eighths, eighths)
def test_constants_added_to_all_logits_change_nothing(case, shift_a, shift_b):
    a, b = case
    for metric in (churn, js_divergence):
        shifted = metric(a + shift_a, b + shift_b)
        assert shifted == pytest.approx(metric(a, b), abs=1e-12)


@given(pairs(), st.integers(0, 2**32))
def test_the_order_of_samples_and_classes_does_not_matter(case, seed):
    a, b = case
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(a.shape[0], generator=generator)
    columns = torch.randperm(a.shape[1], generator=generator)
    assert churn(a[rows], b[rows]) == pytest.approx(churn(a, b), abs=1e-15)
    permuted = js_divergence(a[rows][:, columns], b[rows][:, columns])
    assert permuted == pytest.approx(js_divergence(a, b), abs=1e-12)


@given(pairs())
def test_churn_counts_different_predictions(case):
    a, b = (x.tolist() for x in case)
    different = [r.index(max(r)) != s.index(max(s)) for r, s in zip(a, b, strict=True)]
    assert churn(*case) == pytest.approx(sum(different) / len(different), abs=1e-15)


@pytest.mark.parametrize("size", [1e3, 1e30, 1e300])
def test_saturated_logits_give_exactly_the_bounds(size):
    sure = torch.tensor([[size, 0.0, 0.0]], dtype=torch.float64)
    other = torch.tensor([[0.0, size, 0.0]], dtype=torch.float64)
    assert js_divergence(sure, other) == pytest.approx(math.log(2), abs=1e-15)
    assert js_divergence(sure, sure) == 0.0


def test_js_of_close_models_is_an_eighth_of_the_squared_distance():
    """JS → (1/8) Σ δ²/p for q = p + δ: small values are not lost to rounding."""
    p = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
    delta = 1e-4 * torch.tensor([[1.0, -2.0, 1.0]], dtype=torch.float64)
    expected = (delta.square() / p).sum().item() / 8
    assert js_divergence(p.log(), (p + delta).log()) == pytest.approx(expected, rel=1e-3)


def paper_code_looped(a, b, batch_size):
    """The authors' arithmetic with torch's own KL, a batch and a class at a time."""
    values = []
    for start in range(0, len(a), batch_size):
        p = a[start : start + batch_size].softmax(dim=0)
        q = b[start : start + batch_size].softmax(dim=0)
        m = (p + q) / 2
        value = 0.0
        for j in range(p.shape[1]):
            # F.kl_div(log x, y) is KL(y‖x): m takes the place of the first argument.
            for x in (p, q):
                value += F.kl_div((x[:, j] + 1e-8).log(), m[:, j], reduction="sum").item() / 2
        values.append(value / len(p))
    return sum(values) / len(values)


@pytest.mark.parametrize("n", [100, 300, 250])
def test_the_option_of_the_paper_follows_the_authors_code(n):
    a, b = drawn(1, n, 7)
    assert js_paper_code(a, b) == pytest.approx(paper_code_looped(a, b, 100), rel=1e-10)
    assert js_paper_code(a, b, batch_size=30) == pytest.approx(
        paper_code_looped(a, b, 30), rel=1e-10
    )


def test_the_option_of_the_paper_exceeds_the_bound_of_a_js_divergence():
    """As the published 0.85 does: it grows with classes over batch size."""
    a, b = drawn(2, 200, 200, scale=8.0)
    assert js_divergence(a, b) < math.log(2) < js_paper_code(a, b)
    few, many = (js_paper_code(a[:, :k], b[:, :k]) for k in (10, 200))
    assert many == pytest.approx(20 * few, rel=0.3)


def test_the_option_of_the_paper_depends_on_the_batches():
    a, b = drawn(3, 200, 5)
    order = torch.arange(200).view(2, 100).t().reshape(-1)
    assert js_divergence(a[order], b[order]) == pytest.approx(js_divergence(a, b), rel=1e-12)
    assert js_paper_code(a[order], b[order]) != pytest.approx(js_paper_code(a, b), rel=1e-4)


def test_a_batch_below_one_is_refused():
    with pytest.raises(ConfigError, match="batch_size is 0; expected >= 1"):
        js_paper_code(torch.zeros(1, 2), torch.zeros(1, 2), batch_size=0)


@given(st.integers(2, 6))
def test_every_unordered_pair_of_runs_comes_once(runs):
    seen = []

    def metric(a, b):
        seen.append((int(a), int(b)))
        return float(a * 10 + b)

    values = pairwise(metric, [torch.tensor(i) for i in range(runs)])
    assert seen == [(i, j) for i in range(runs) for j in range(i + 1, runs)]
    assert values == [10.0 * i + j for i, j in seen]


def test_fewer_than_two_runs_are_refused():
    with pytest.raises(DataError, match="number of runs is 1; expected at least 2"):
        pairwise(churn, [torch.zeros(1, 2)])
