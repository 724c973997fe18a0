"""Every pair of runs at once is what the metrics of two runs say of each pair."""

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polyak import metrics
from polyak.errors import DataError


@given(
    runs=st.integers(1, 4),
    samples=st.sampled_from([1, 7, 100, 230]),
    classes=st.integers(2, 12),
    scale=st.sampled_from([0.1, 3.0, 900.0]),
    seed=st.integers(0, 2**31),
)
def test_every_pair_is_as_the_metrics_of_two_runs_have_it(runs, samples, classes, scale, seed):
    draw = torch.Generator().manual_seed(seed)
    logits = [scale * torch.randn(samples, classes, generator=draw) for _ in range(runs)]
    labels_n = torch.randint(classes, (samples,), generator=draw)
    found = dict(metrics.differences(logits, labels_n))
    assert list(found) == list(combinations(range(runs), 2))
    for (i, j), each in found.items():
        a, b = logits[i], logits[j]
        assert each.churn == metrics.churn(a, b)
        assert each.agreement == metrics.agreement(a, b, labels_n)
        assert each.js == pytest.approx(metrics.js_divergence(a, b), abs=1e-12)
        assert each.js_paper_code == pytest.approx(metrics.js_paper_code(a, b), abs=1e-12)


def test_a_run_differs_from_itself_in_nothing():
    logits = 900 * torch.randn(50, 10, generator=torch.Generator().manual_seed(0))
    [(_, found)] = metrics.differences([logits, logits.clone()], torch.zeros(50, dtype=torch.long))
    assert (found.churn, found.js) == (0.0, 0.0)


@pytest.mark.parametrize("other", [torch.randn(4, 3), torch.full((3, 3), torch.nan)])
def test_runs_of_other_samples_and_of_nan_are_refused(other):
    with pytest.raises(DataError, match=r"shape|NaN"):
        list(metrics.differences([torch.randn(3, 3), other], torch.tensor([0, 1, 2])))
