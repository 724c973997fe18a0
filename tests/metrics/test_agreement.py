from dataclasses import astuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polyak.errors import DataError
from polyak.metrics import agreement, churn

CLASSES = 3


@st.composite
def pairs(draw):
    n = draw(st.integers(1, 30))
    seed = draw(st.integers(0, 10_000))
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(n, CLASSES, generator=generator) for _ in range(2))
    return a, b, torch.randint(CLASSES, (n,), generator=generator)


@given(pairs())
def test_the_parts_are_counted_one_sample_at_a_time(pair):
    a, b, labels = pair
    counts = [0, 0, 0, 0]
    for x, y, label in zip(
        a.argmax(1).tolist(), b.argmax(1).tolist(), labels.tolist(), strict=True
    ):
        counts[0] += x == label and y == label
        counts[1] += (x == label) != (y == label)
        counts[2] += x != label and y != label
        counts[3] += x != label and y != label and x != y
    assert astuple(agreement(a, b, labels)) == pytest.approx([c / len(a) for c in counts])


@given(pairs())
def test_flipped_and_differently_wrong_are_churn_and_the_whole_is_one(pair):
    found = agreement(*pair)
    assert found.both_right + found.flipped + found.both_wrong == pytest.approx(1)
    assert found.flipped + found.differently_wrong == pytest.approx(churn(*pair[:2]))
    assert found == agreement(pair[1], pair[0], pair[2])


def test_labels_of_other_samples_are_refused():
    logits = torch.zeros(3, 2)
    with pytest.raises(DataError, match="labels"):
        agreement(logits, logits, torch.zeros(2, dtype=torch.long))
