"""Every metric refuses at the door what it cannot give a meaning."""

import pytest
import torch

from polyak import metrics
from polyak.errors import DataError
from polyak.metrics.inputs import last_step

OF_LABELS = [
    metrics.accuracy,
    metrics.cross_entropy,
    metrics.brier,
    lambda logits, labels: metrics.ece(logits, labels, bins=1),
    lambda logits, labels: metrics.reliability(logits, labels, bins=1),
    metrics.fit_temperature,
    metrics.fit_temperature_paper_code,
]
OF_PAIRS = [metrics.churn, metrics.js_divergence, metrics.js_paper_code]
GOOD = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]])
LABELS = torch.tensor([1, 0])


def floor(logits):
    return metrics.ece_floor(logits, bins=1, generator=torch.Generator())


BAD_LOGITS = {
    "no samples": (torch.zeros(0, 3), r"shape of logits\w* is \(0, 3\); expected \(n, k\)"),
    "one class": (torch.zeros(2, 1), r"is \(2, 1\); expected .* k >= 2"),
    "one axis": (torch.zeros(2), r"is \(2,\); expected"),
    "integers": (torch.ones(2, 3, dtype=torch.int64), "is torch.int64; expected a floating one"),
    "nan": (GOOD.clone().index_fill_(0, torch.tensor([1]), torch.nan), "is 3; expected 0"),
    "infinite": (GOOD.clone().index_fill_(1, torch.tensor([0]), torch.inf), "is 2; expected 0"),
}
BAD_LABELS = {
    "too few": (LABELS[:1], r"shape of labels is \(1,\); expected \(2,\)"),
    "one-hot": (torch.eye(3, dtype=torch.int64)[:2], r"is \(2, 3\); expected \(2,\)"),
    "floating": (LABELS.float(), "is torch.float32; expected int64"),
    "boolean": (LABELS.bool(), "is torch.bool; expected int64"),
    "too large": (torch.tensor([3, 0]), "is 0 to 3; expected 0 to 2"),
    "negative": (torch.tensor([1, -1]), "is -1 to 1; expected 0 to 2"),
}


@pytest.mark.parametrize("metric", OF_LABELS)
@pytest.mark.parametrize("fault", BAD_LOGITS)
def test_labelled_metrics_refuse_bad_logits(metric, fault):
    logits, message = BAD_LOGITS[fault]
    with pytest.raises(DataError, match=message):
        metric(logits, LABELS)


@pytest.mark.parametrize("metric", OF_LABELS)
@pytest.mark.parametrize("fault", BAD_LABELS)
def test_labelled_metrics_refuse_bad_labels(metric, fault):
    labels, message = BAD_LABELS[fault]
    with pytest.raises(DataError, match=message):
        metric(GOOD, labels)


@pytest.mark.parametrize("fault", BAD_LOGITS)
def test_the_floor_refuses_bad_logits(fault):
    logits, message = BAD_LOGITS[fault]
    with pytest.raises(DataError, match=message):
        floor(logits)


@pytest.mark.parametrize("metric", OF_PAIRS)
@pytest.mark.parametrize("fault", BAD_LOGITS)
def test_pair_metrics_refuse_bad_logits_on_either_side(metric, fault):
    logits, message = BAD_LOGITS[fault]
    with pytest.raises(DataError, match=message):
        metric(logits, GOOD)
    with pytest.raises(DataError, match="logits_b"):
        metric(GOOD, logits)


@pytest.mark.parametrize("metric", OF_PAIRS)
def test_pair_metrics_refuse_different_shapes(metric):
    with pytest.raises(DataError, match=r"logits_b is \(1, 3\); expected \(2, 3\)"):
        metric(GOOD, GOOD[:1])


@pytest.mark.parametrize("metric", OF_LABELS)
def test_dtype_and_gradient_of_the_inputs_do_not_matter(metric):
    """These logits are exact in every format, so the value must be the same to the last bit."""
    expected = metric(GOOD.double(), LABELS)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert metric(GOOD.to(dtype, copy=True).requires_grad_(), LABELS) == expected
    for dtype in (torch.uint8, torch.int32):
        assert metric(GOOD, LABELS.to(dtype)) == expected
    with torch.inference_mode():
        assert metric(GOOD.double().clone(), LABELS.clone()) == expected


@pytest.mark.parametrize("metric", OF_LABELS)
def test_inputs_are_left_as_they_were(metric):
    logits, labels = GOOD.double(), LABELS.clone()
    metric(logits, labels)
    assert logits.equal(GOOD.double())
    assert labels.equal(LABELS)


CALIBRATED = [metrics.ece_equal_mass, metrics.ece_equal_width]
RANKED = [metrics.auroc, metrics.auroc_interval, lambda x, y: metrics.precision_at(x, y, 1)]


@pytest.mark.parametrize("metric", OF_LABELS)
def test_arrays_and_lists_are_refused_by_name_with_the_remedy(metric):
    remedy = r"logits is a numpy.ndarray; expected a torch.Tensor. Pass torch.as_tensor\(logits\)"
    with pytest.raises(DataError, match=remedy):
        metric(GOOD.numpy(), LABELS)
    with pytest.raises(DataError, match="logits is a list"):
        metric(GOOD.tolist(), LABELS)
    with pytest.raises(DataError, match=r"labels is a numpy\.ndarray"):
        metric(GOOD, LABELS.numpy())


@pytest.mark.parametrize("metric", OF_PAIRS)
def test_arrays_are_refused_on_either_side_of_a_pair(metric):
    for pair in ((GOOD.numpy(), GOOD), (GOOD, GOOD.numpy())):
        with pytest.raises(DataError, match=r"logits_[ab] is a numpy.ndarray"):
            metric(*pair)


@pytest.mark.parametrize(
    "metric", [*RANKED, *(lambda x, y, m=m: m(x, y, bins=1) for m in CALIBRATED)]
)
def test_arrays_are_refused_where_scores_and_confidences_are_wanted(metric):
    with pytest.raises(DataError, match=r"is a numpy\.ndarray"):
        metric(torch.tensor([0.5, 0.6]).numpy(), torch.tensor([True, False]))
    with pytest.raises(DataError, match=r"is a numpy\.ndarray"):
        metric(torch.tensor([0.5, 0.6]), torch.tensor([True, False]).numpy())


OF_ARGMAX = [metrics.accuracy]
OF_SOFTMAX = [
    *(metric for metric in OF_LABELS if metric not in OF_ARGMAX),
    lambda logits, labels: metrics.margins(logits, labels),
    lambda logits, labels: metrics.sample_losses(logits, labels),
    lambda logits, labels: floor(logits),
    lambda logits, labels: metrics.js_divergence(logits, GOOD),
    lambda logits, labels: metrics.js_divergence(GOOD, logits),
]


@pytest.mark.parametrize("metric", OF_SOFTMAX)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_probabilities_are_warned_of_where_a_softmax_follows(metric, dtype):
    with pytest.warns(RuntimeWarning, match=r"rows of logits\w* are >= 0 and sum to 1.*\.log\(\)"):
        metric(GOOD.softmax(dim=1).to(dtype), LABELS)
    metric(GOOD.softmax(dim=1).log(), LABELS)


def test_probabilities_are_fine_where_only_the_largest_counts():
    probabilities = GOOD.softmax(dim=1)
    assert metrics.accuracy(probabilities, LABELS) == metrics.accuracy(GOOD, LABELS)
    assert metrics.churn(probabilities, GOOD) == 0
    metrics.agreement(probabilities, probabilities, LABELS)


@pytest.mark.parametrize(
    ("outputs", "step"),
    [
        (GOOD, None),
        (GOOD.softmax(1), "softmax"),
        (GOOD.log_softmax(1), "log_softmax"),
        (GOOD.sigmoid(), "sigmoid"),
        (GOOD.relu(), None),
        (0 * GOOD, None),
        (-GOOD.abs(), None),
    ],
)
def test_outputs_tell_what_was_applied_to_logits(outputs, step):
    assert last_step(outputs) == step
