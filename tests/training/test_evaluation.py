from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from polyak.averaging import refresh_batchnorm
from polyak.training import evaluation
from polyak.training.config import PRECISIONS
from polyak.training.randomness import generator

MONITORS = ("test", "test_bn", "holdout_bn", "train_given", "train_clean", "train_wrong")
SETS = ("sgd", "ema_0.2", "ema_0.9")


@pytest.fixture(scope="module")
def evaluated(tiny, start):
    """A run in the middle, what all monitors say of it, and what its sets of weights say."""
    run = start(replace(tiny, monitors=MONITORS))
    run._train_epoch(1)
    run._train_epoch(2)
    records = run.evaluation.monitors(run.averager, 2)
    return run, {record.monitor: record.scores for record in records}


def _logits(run, name, images_nchw, *, refresh=False):
    """Slowly: a copy of the model with the weights of one set."""
    weights = run.model.state_dict() if name == "sgd" else run.averager.tensors(name)
    model = _fresh(run)
    model.load_state_dict(weights)
    if refresh and name != "sgd":
        seed = run.config.seed
        batches = run.images.batches(
            128,
            order=generator(seed, "batchnorm order"),
            draws=generator(seed, "batchnorm augmentation"),
        )
        refresh_batchnorm(model, batches)
    with torch.no_grad():
        return model.eval()(run.images.normalise(images_nchw))


def _fresh(run):
    from polyak.models import build

    return build(run.config.model, classes=10, channels=1, image_size=8, generator_seed=0)


def _check(score, logits_nk, labels_n):
    assert score.loss == pytest.approx(F.cross_entropy(logits_nk, labels_n).item(), rel=1e-4)
    right = (logits_nk.argmax(dim=1) == labels_n).double().mean().item()
    assert score.accuracy == pytest.approx(right)


@pytest.mark.parametrize("name", SETS)
def test_each_monitor_scores_its_part_with_its_labels(evaluated, name):
    run, scores = evaluated
    data = run.data
    _check(scores["test"][name], _logits(run, name, data.test_images_nchw), data.test_labels_n)
    train_nk = _logits(run, name, data.train_images_nchw)
    given_n, wrong_n = data.train_given_n, data.train_given_n != data.train_clean_n
    assert 0 < wrong_n.sum() < len(wrong_n)
    _check(scores["train_given"][name], train_nk, given_n)
    _check(scores["train_clean"][name], train_nk[~wrong_n], given_n[~wrong_n])
    # The share of wrong labels that were learnt.
    _check(scores["train_wrong"][name], train_nk[wrong_n], given_n[wrong_n])


@pytest.mark.parametrize("name", SETS)
def test_recomputed_monitors_differ_in_the_averages_statistics_only(evaluated, name):
    run, scores = evaluated
    data = run.data
    for monitor, images_nchw, labels_n in (
        ("test_bn", data.test_images_nchw, data.test_labels_n),
        ("holdout_bn", data.holdout_images_nchw, data.holdout_given_n),
    ):
        _check(scores[monitor][name], _logits(run, name, images_nchw, refresh=True), labels_n)
    if name == "sgd":
        assert scores["test_bn"][name] == scores["test"][name]
    else:
        assert scores["test_bn"][name] != scores["test"][name]


def test_records_come_in_the_declared_order_and_name_the_epoch(tiny, start):
    run = start(replace(tiny, monitors=("train_wrong", "test")))
    records = run.evaluation.monitors(run.averager, 7)
    assert [(r.monitor, r.epoch) for r in records] == [("train_wrong", 7), ("test", 7)]
    assert all(tuple(record.scores) == SETS for record in records)


def test_the_holdout_is_scored_on_its_given_labels_without_recomputation(evaluated):
    run, _ = evaluated
    data = run.data
    assert (data.holdout_given_n != data.holdout_clean_n).any()
    for name, score in run.evaluation.holdout(run.averager).items():
        _check(score, _logits(run, name, data.holdout_images_nchw), data.holdout_given_n)


def test_evaluating_twice_says_the_same_and_leaves_the_model_in_training(evaluated):
    run, _ = evaluated
    before = {key: x.clone() for key, x in run.model.state_dict().items()}
    assert run.evaluation.holdout(run.averager) == run.evaluation.holdout(run.averager)
    run.evaluation.monitors(run.averager, 2)
    assert all(torch.equal(before[key], x) for key, x in run.model.state_dict().items())
    assert all(module.training for module in run.model.modules())


def test_without_wrong_labels_nothing_is_memorised(tiny, start):
    data = replace(tiny.data, noise=type(tiny.data.noise)())
    run = start(replace(tiny, data=data, monitors=("train_wrong", "train_clean")))
    wrong, clean = run.evaluation.monitors(run.averager, 2)
    assert wrong.scores == {}
    assert set(clean.scores) == set(SETS)


def test_recomputing_on_a_part_takes_the_same_images_and_crops_after_every_epoch(tiny, start):
    run = start(replace(tiny, monitors=("holdout_bn",), batchnorm_images=128))
    first, second = (list(run.evaluation.batchnorm_batches()) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first[0], second[0], strict=True))
    whole = start(replace(tiny, monitors=("holdout_bn",)))
    drawn, again = (list(whole.evaluation.batchnorm_batches()) for _ in range(2))
    # Before its second epoch a run on all images has drawn as often as one on a part ever does.
    assert all(torch.equal(a, b) for a, b in zip(first[0], drawn[0], strict=True))
    assert not torch.equal(drawn[0][0], again[0][0])


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(evaluation, "BATCHNORM_BATCH", 24)


def _refreshed_on(run, images):
    """Slowly: each average in a copy of the model, on the first batches alone."""
    batches = list(run.evaluation.batchnorm_batches())[: images // 24]
    found = {}
    for name in run.averager.names:
        model = _fresh(run)
        model.load_state_dict(run.averager.tensors(name))
        refresh_batchnorm(model, batches)
        with torch.no_grad():
            found[name] = model.eval()(run.images.normalise(run.data.holdout_images_nchw))
    return found


def test_a_part_of_the_images_is_that_part_for_all_averages(tiny, start, small_batches):
    run = start(replace(tiny, monitors=("holdout_bn",), batchnorm_images=48))
    run._train_epoch(1)
    run.batch = 0
    run._train_epoch(2)
    (record,) = run.evaluation.monitors(run.averager, 2)
    for name, logits_nk in _refreshed_on(run, 48).items():
        _check(record.scores[name], logits_nk, run.data.holdout_given_n)
    assert run.evaluation.monitors(run.averager, 2) == [record]


def test_a_part_as_large_as_the_whole_is_the_whole(tiny, start, small_batches):
    scores = []
    for images in (72, None):
        run = start(replace(tiny, monitors=("holdout_bn",), batchnorm_images=images))
        run._train_epoch(1)
        scores.append(run.evaluation.monitors(run.averager, 1))
    assert scores[0] == scores[1]


def test_evaluating_in_bfloat16_rounds_every_score_and_no_weight_or_statistic(tiny, start):
    runs = {p: start(replace(tiny, monitors=MONITORS, precision=p)) for p in PRECISIONS}
    exact, lower = runs["float32"], runs["bfloat16"]
    exact._train_epoch(1)
    lower.model.load_state_dict(exact.model.state_dict())
    lower.averager.load_state_dict(exact.averager.state_dict())
    before = lower.averager.tensors("ema_0.9")
    said = [run.evaluation.monitors(run.averager, 1) for run in (exact, lower)]
    for one, other in zip(*said, strict=True):
        for name, score in one.scores.items():
            assert other.scores[name].loss != score.loss
            assert other.scores[name].loss == pytest.approx(score.loss, rel=0.02)
    with lower.evaluation._refreshed(lower.averager), lower.averager.applied("ema_0.9"):
        assert lower.model.norm.running_var.dtype == torch.float32
    for key, x in lower.averager.tensors("ema_0.9").items():
        assert torch.equal(x, before[key])
