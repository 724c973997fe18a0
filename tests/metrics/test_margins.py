import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polyak.errors import DataError
from polyak.metrics import (
    best_other,
    cross_entropy,
    js_divergence,
    margins,
    sample_divergences,
    sample_losses,
)

numbers = st.integers(-800, 800).map(lambda i: i / 8)


@st.composite
def classified(draw):
    n, k = draw(st.integers(1, 12)), draw(st.integers(2, 6))
    logits = draw(hnp.arrays(np.float64, (n, k), elements=numbers))
    labels = draw(hnp.arrays(np.int64, n, elements=st.integers(0, k - 1)))
    return torch.from_numpy(logits), torch.from_numpy(labels)


@given(classified())
def test_margins_and_best_others_equal_a_loop_over_samples(case):
    for row, label, margin, other in zip(
        case[0].tolist(),
        case[1].tolist(),
        margins(*case).tolist(),
        best_other(*case).tolist(),
        strict=True,
    ):
        rest = {j: z for j, z in enumerate(row) if j != label}
        assert margin == row[label] - max(rest.values())
        assert other != label
        assert row[other] == max(rest.values())


@given(classified())
def test_a_margin_is_a_difference_of_log_probabilities(case):
    log_p_nk = case[0].log_softmax(dim=1)
    chosen = torch.stack([case[1], best_other(*case)])
    own_n, other_n = log_p_nk.T.gather(0, chosen)
    assert torch.allclose(margins(*case), own_n - other_n, atol=1e-10)


@given(classified())
def test_sample_losses_average_to_the_cross_entropy(case):
    assert sample_losses(*case).mean().item() == pytest.approx(cross_entropy(*case), abs=1e-10)


def test_sure_samples_keep_different_losses():
    """log_softmax would round both to 0."""
    logits_nk = torch.tensor([[100.0, 0.0], [101.0, 0.0]])
    first, second = sample_losses(logits_nk, torch.tensor([0, 0])).tolist()
    assert 0 < second < first == pytest.approx(np.exp(-100.0))


@given(classified())
def test_divergences_of_samples_average_to_the_models_divergence(case):
    flipped_nk = case[0].flip(1)
    each_n = sample_divergences(case[0], flipped_nk)
    assert each_n.mean().item() == pytest.approx(js_divergence(case[0], flipped_nk), abs=1e-12)
    assert bool((each_n >= 0).all())
    for i, value in enumerate(each_n):
        alone = js_divergence(case[0][i : i + 1], flipped_nk[i : i + 1])
        assert value.item() == pytest.approx(alone, abs=1e-12)


@pytest.mark.parametrize("metric", [margins, best_other, sample_losses])
def test_labels_out_of_range_are_refused(metric):
    with pytest.raises(DataError, match="expected 0 to 1"):
        metric(torch.zeros(1, 2), torch.tensor([2]))
