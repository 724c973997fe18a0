import math

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polyak.errors import ConfigError, DataError
from polyak.metrics import (
    accuracy,
    ece,
    ece_equal_mass,
    ece_equal_width,
    ece_floor,
    reliability,
)

BOTH = [ece_equal_mass, ece_equal_width]


@st.composite
def scored(draw, unique=False):
    """Confidences in thousandths with their outcomes, and a possible number of bins."""
    n = draw(st.integers(1, 40))
    thousandths = draw(hnp.arrays(np.int64, n, elements=st.integers(0, 1000), unique=unique))
    correct = draw(hnp.arrays(np.bool_, n))
    confidence = torch.from_numpy(thousandths).double() / 1000
    return confidence, torch.from_numpy(correct), draw(st.integers(1, n))


def looped_equal_mass(confidence, correct, bins):
    """Sort, cut by tensor_split, average each piece: the definition, in Python floats."""
    pairs = sorted(zip(confidence.tolist(), correct.tolist(), strict=True), key=lambda p: p[0])
    pieces = np.array_split(np.arange(len(pairs)), bins)
    return sum(len(piece) * gap([pairs[i] for i in piece]) for piece in pieces) / len(pairs)


def looped_equal_width(confidence, correct, bins):
    """Each bin by its two inequalities."""
    pairs = list(zip(confidence.tolist(), correct.tolist(), strict=True))
    total = 0.0
    for b in range(bins):
        inside = [p for p in pairs if b / bins < p[0] <= (b + 1) / bins or (b == 0 and p[0] == 0)]
        total += len(inside) * gap(inside) if inside else 0.0
    return total / len(pairs)


def gap(pairs):
    confidence, correct = zip(*pairs, strict=True)
    return abs(math.fsum(correct) / len(pairs) - math.fsum(confidence) / len(pairs))


@given(scored())
def test_equal_mass_equals_its_definition_in_a_loop(case):
    confidence, correct, bins = case
    expected = looped_equal_mass(confidence, correct, bins)
    assert ece_equal_mass(confidence, correct, bins=bins) == pytest.approx(expected, abs=1e-12)


@given(scored())
def test_equal_width_equals_its_definition_in_a_loop(case):
    confidence, correct, bins = case
    expected = looped_equal_width(confidence, correct, bins)
    assert ece_equal_width(confidence, correct, bins=bins) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("function", BOTH)
@given(case=scored())
def test_one_bin_gives_the_gap_of_the_means(function, case):
    confidence, correct, _ = case
    expected = abs(correct.double().mean() - confidence.mean()).item()
    assert function(confidence, correct, bins=1) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("function", BOTH)
@given(case=scored())
def test_ece_lies_between_the_gap_of_the_means_and_one(function, case):
    confidence, correct, bins = case
    value = function(confidence, correct, bins=bins)
    assert function(confidence, correct, bins=1) - 1e-12 <= value <= 1


@pytest.mark.parametrize("function", BOTH)
@given(case=scored(unique=True), seed=st.integers(0, 2**32))
def test_order_does_not_matter_without_ties(function, case, seed):
    confidence, correct, bins = case
    order = torch.randperm(len(correct), generator=torch.Generator().manual_seed(seed))
    shuffled = function(confidence[order], correct[order], bins=bins)
    assert shuffled == pytest.approx(function(confidence, correct, bins=bins), abs=1e-12)


@given(scored())
def test_a_bin_for_each_sample_gives_the_mean_absolute_gap(case):
    confidence, correct, _ = case
    expected = (correct.double() - confidence).abs().mean().item()
    value = ece_equal_mass(confidence, correct, bins=len(correct))
    assert value == pytest.approx(expected, abs=1e-12)


def test_ties_in_confidence_keep_their_input_order():
    confidence = torch.full((4,), 0.5)
    assert ece_equal_mass(confidence, torch.tensor([1, 1, 0, 0]), bins=2) == 0.5
    assert ece_equal_mass(confidence, torch.tensor([1, 0, 1, 0]), bins=2) == 0.0


def test_a_confidence_of_one_belongs_to_the_last_bin_of_equal_width():
    """An extra bin for exactly 1 gives 0.525, as in torchmetrics 1.9."""
    confidence = torch.tensor([0.95, 1.0], dtype=torch.float64)
    assert ece_equal_width(confidence, torch.tensor([1, 0]), bins=10) == pytest.approx(0.475)


@pytest.mark.parametrize("bins", [7, 10, 100])
def test_edges_of_equal_width_close_on_the_right(bins):
    """A confidence at edge b/B shares a bin with what lies just below, not with what is above."""
    for b in range(1, bins):
        edge, below, above = b / bins, (b - 0.5) / bins, (b + 0.5) / bins
        pair = torch.tensor([edge, below], dtype=torch.float64)
        joint = abs(1 - edge - below) / 2
        outcome = torch.tensor([1, 0])
        assert ece_equal_width(pair, outcome, bins=bins) == pytest.approx(joint, abs=1e-12)
        pair[1] = above
        apart = (1 - edge + above) / 2
        assert ece_equal_width(pair, outcome, bins=bins) == pytest.approx(apart, abs=1e-12)


def over_confident(n=2000, k=10):
    """Logits and labels by formula, so that their ECE can be written down here."""
    i = torch.arange(n, dtype=torch.float64)
    logits = torch.zeros(n, k, dtype=torch.float64)
    logits[:, 3] = 1 + 6 * ((i * 0.6180339887498949) % 1)
    right = (i * 0.4142135623730951) % 1 < logits[:, 3].div(1.5).sub(1).sigmoid()
    return logits, torch.where(right, 3, 7)


@pytest.mark.parametrize(
    ("scheme", "bins", "expected"),
    [
        ("equal_mass", 100, 0.07377270),
        ("equal_mass", 15, 0.05769887),
        ("equal_width", 15, 0.05770369),
    ],
)
def test_ece_of_fixed_logits_stays_what_a_loop_once_gave(scheme, bins, expected):
    logits, labels = over_confident()
    confidence = [1 / (1 + 9 * math.exp(-z)) for z in logits[:, 3].tolist()]
    loop = {"equal_mass": looped_equal_mass, "equal_width": looped_equal_width}[scheme]
    assert loop(torch.tensor(confidence, dtype=torch.float64), labels == 3, bins) == pytest.approx(
        expected, abs=1e-7
    )
    assert ece(logits, labels, bins=bins, scheme=scheme) == pytest.approx(expected, abs=1e-7)


def test_logits_that_saturate_float32_are_still_ordered():
    """Their float32 softmax is exactly 1 for all, so equal mass would cut in input order."""
    logits = torch.tensor([[20.0, 0.0], [25.0, 0.0], [30.0, 0.0], [21.0, 0.0]])
    labels = torch.tensor([1, 0, 0, 1])
    assert (logits.softmax(dim=1)[:, 0] == 1).all()
    assert ece(logits, labels, bins=2) == pytest.approx(0.5, abs=1e-6)
    assert ece(logits[[1, 0, 2, 3]], labels[[1, 0, 2, 3]], bins=2) == pytest.approx(0.5, abs=1e-6)


@given(scored())
def test_reliability_adds_up_to_the_ece_of_equal_width(case):
    confidence, correct, bins = case
    # Two classes whose softmax is the confidence, or its complement where that is larger.
    safe = confidence.clamp(1e-6, 1 - 1e-6)
    logits = torch.stack([safe.log(), (1 - safe).log()], dim=1)
    labels = (~correct).long()
    bars = reliability(logits, labels, bins=bins)

    n = len(correct)
    assert [bar.low for bar in bars] == [b / bins for b in range(bins)]
    assert [bar.high for bar in bars] == [(b + 1) / bins for b in range(bins)]
    assert sum(bar.count for bar in bars) == n
    full = [bar for bar in bars if bar.count]
    assert all(bar.confidence is None and bar.accuracy is None for bar in bars if not bar.count)
    assert all(bar.low - 1e-12 <= bar.confidence <= bar.high + 1e-12 for bar in full)
    right = sum(bar.count * bar.accuracy for bar in full) / n
    assert right == pytest.approx(accuracy(logits, labels), abs=1e-12)
    total = sum(bar.count * abs(bar.accuracy - bar.confidence) for bar in full) / n
    expected = ece(logits, labels, bins=bins, scheme="equal_width")
    assert total == pytest.approx(expected, abs=1e-12)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_floor_of_one_sample_is_its_expectation():
    """|1 − c| with probability c, and c with probability 1 − c."""
    confidence = 0.8
    logits = torch.tensor([[confidence, 1 - confidence]], dtype=torch.float64).log()
    value = ece_floor(logits, bins=1, draws=4000, generator=generator())
    # The standard error of the mean is 0.6 · 0.4 / √4000 = 0.0038.
    assert value == pytest.approx(2 * confidence * (1 - confidence), abs=0.012)


@pytest.mark.parametrize("scheme", ["equal_mass", "equal_width"])
def test_the_floor_is_the_mean_ece_of_labels_drawn_from_the_probabilities(scheme):
    """The slow twin draws a label among all classes and scores it as any other label."""
    logits = 2 * torch.randn(600, 5, generator=generator(), dtype=torch.float64)
    p = logits.softmax(dim=1)
    own = generator(1)
    drawn = [
        ece(logits, torch.multinomial(p, 1, generator=own)[:, 0], bins=20, scheme=scheme)
        for _ in range(150)
    ]
    error = torch.tensor(drawn).std().item() * math.sqrt(2 / 150)
    value = ece_floor(logits, bins=20, scheme=scheme, draws=150, generator=generator(2))
    assert value == pytest.approx(sum(drawn) / 150, abs=4 * error)


def test_the_floor_is_the_mean_absolute_noise_of_a_bin():
    """For many samples a bin E|gap| = √(2/π) · √(c(1 − c)/n_b), by the central limit theorem."""
    logits = torch.tensor([[0.7, 0.3]], dtype=torch.float64).log().repeat(10_000, 1)
    expected = math.sqrt(2 / math.pi * 0.7 * 0.3 / 100)
    value = ece_floor(logits, bins=100, draws=50, generator=generator())
    assert value == pytest.approx(expected, rel=0.05)


def test_one_seed_gives_one_floor():
    logits = torch.randn(50, 3, generator=generator())
    first, again, other = (
        ece_floor(logits, bins=5, draws=3, generator=generator(seed)) for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.parametrize("function", BOTH)
@pytest.mark.parametrize(
    ("confidence", "correct", "message"),
    [
        ([], [], r"shape of confidence is \(0,\)"),
        ([0.5], [1, 0], r"of correct \(2,\); expected one shape"),
        ([[0.5]], [[1]], r"is \(1, 1\) and"),
        ([0.5, 1.5, -0.1], [1, 0, 1], r"outside \[0, 1\] is 2"),
        ([0.5, math.nan], [1, 0], r"outside \[0, 1\] is 1"),
        ([0.5], [2], "correct is not only 0 and 1"),
    ],
)
def test_scores_out_of_range_are_refused(function, confidence, correct, message):
    with pytest.raises(DataError, match=message):
        function(torch.tensor(confidence), torch.tensor(correct), bins=1)


def test_settings_out_of_range_are_refused():
    logits, labels = torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ConfigError, match="bins is 100; expected at most 3"):
        ece(logits, labels)
    with pytest.raises(ConfigError, match="bins is 0; expected >= 1"):
        ece(logits, labels, bins=0, scheme="equal_width")
    with pytest.raises(ConfigError, match="bins is 0; expected >= 1"):
        reliability(logits, labels, bins=0)
    with pytest.raises(ConfigError, match="Did you mean 'equal_mass'"):
        ece(logits, labels, bins=1, scheme="equalmass")
    with pytest.raises(ConfigError, match="draws is 0; expected >= 1"):
        ece_floor(logits, bins=1, draws=0, generator=generator())
    assert ece(logits, labels, bins=100, scheme="equal_width") == 0.5
