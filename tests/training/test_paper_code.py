"""Selection with recomputed statistics, and what the authors' code does otherwise: each against
an implementation of its own that is written out here.

Shape suffixes: n images, c channels, h height, w width, k classes.
"""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from polyak.averaging import load as load_weights
from polyak.errors import DataError
from polyak.models import build
from polyak.records.predictions import Predictions
from polyak.records.runs import EpochRecord, Score, run_folder
from polyak.records.vocabulary import RULES, Stop
from polyak.training.jobs import carry_out
from polyak.training.randomness import generator
from polyak.training.selection import choose_learning_rate, choose_stop

NAMES = ("ema_0.5", "ema_0.9")
scores = st.builds(
    Score, loss=st.sampled_from([0.5, 1.0, 2.0]), accuracy=st.sampled_from([0.25, 0.5, 0.75])
)
of_all = st.fixed_dictionaries({name: scores for name in ("sgd", *NAMES)})


def history(pairs):
    return [
        EpochRecord(
            epoch=epoch,
            step=epoch,
            learning_rate=0.1,
            train=Score(0.0, 1.0),
            seconds=0.0,
            holdout=averaged,
            holdout_bn=recomputed,
        )
        for epoch, (averaged, recomputed) in enumerate(pairs, start=1)
    ]


histories = st.lists(st.tuples(of_all, of_all), min_size=1, max_size=5).map(history)


@given(histories, st.sampled_from(RULES))
def test_bn_safe_chooses_on_recomputed_scores_as_the_paper_does_on_averaged_ones(records, rule):
    as_if = [replace(record, holdout=record.holdout_bn) for record in records]
    chosen = choose_stop(records, rule=rule, averages=NAMES, selection="bn_safe")
    assert chosen == choose_stop(as_if, rule=rule, averages=NAMES)


@given(histories, st.sampled_from(RULES))
def test_the_papers_selection_does_not_look_at_recomputed_scores(records, rule):
    blind = [replace(record, holdout_bn={}) for record in records]
    chosen = choose_stop(records, rule=rule, averages=NAMES)
    assert chosen == choose_stop(blind, rule=rule, averages=NAMES)


def test_bn_safe_refuses_records_without_recomputed_scores():
    same = dict.fromkeys(("sgd", *NAMES), Score(1.0, 0.5))
    with pytest.raises(DataError, match="hold no hold-out scores"):
        choose_stop(history([(same, {})]), rule="acc", averages=NAMES, selection="bn_safe")


@given(histories)
def test_loss_decay_takes_the_most_accurate_decay_at_the_epoch_of_lowest_loss(records):
    """As the authors' loop goes: one pass, strict comparisons."""
    lowest, best_epoch, best_decay = 1e5, None, None
    for record in records:
        accuracy, loss, decay = 0.0, 1e5, None
        for name in NAMES:
            score = record.holdout[name]
            if score.accuracy > accuracy:
                accuracy, decay = score.accuracy, name
            loss = min(loss, score.loss)
        if loss < lowest:
            lowest, best_epoch, best_decay = loss, record.epoch, decay
    stop = choose_stop(records, rule="loss", averages=NAMES, paper_code=("loss-decay",))
    assert (stop.epoch, stop.average) == (best_epoch, best_decay)
    for rule in ("sgd", "acc"):
        chosen = choose_stop(records, rule=rule, averages=NAMES, paper_code=("loss-decay",))
        assert chosen == choose_stop(records, rule=rule, averages=NAMES)


@pytest.fixture(scope="module")
def done(tiny, tmp_path_factory):
    """Carries out a run and gives its folder."""
    out = tmp_path_factory.mktemp("out")

    def carry(**changes):
        config = replace(tiny, epochs=2, **changes)
        carry_out(config, out)
        return run_folder(out, config.id)

    return carry


def network(run, weights=None):
    model = build(run.config.model, classes=10, channels=1, image_size=8, generator_seed=0)
    if weights is not None:
        model.load_state_dict(weights)
    return model.eval()


@torch.no_grad()
def scored(model, images_nchw, labels_n):
    logits_nk = model(images_nchw)
    right = (logits_nk.argmax(dim=1) == labels_n).double().mean().item()
    return F.cross_entropy(logits_nk, labels_n).item(), right


def test_no_way_of_selecting_changes_a_step_of_training(done):
    plain = done()
    logs = {(): plain.epochs()}
    for name in ("holdout-images", "batchnorm"):
        logs[name] = done(paper_code=(name,)).epochs()
    logs["clean"] = done(holdout_labels="clean").epochs()
    logs["bn_safe"] = done(selection="bn_safe").epochs()
    for log in logs.values():
        assert [record.train for record in log] == [record.train for record in logs[()]]
    last = {name: load_weights(done(**change).arm("sgd"))["sgd"] for name, change in CHANGES}
    for weights in last.values():
        assert all(torch.equal(x, last["plain"][key]) for key, x in weights.items())


CHANGES = (
    ("plain", {}),
    ("images", {"paper_code": ("holdout-images",)}),
    ("bn_safe", {"selection": "bn_safe"}),
)


def test_bn_safe_records_what_the_monitor_says_and_stops_on_it(tiny, done):
    folder = done(selection="bn_safe", monitors=())
    watched = done(monitors=("holdout_bn",))
    recomputed = [dict(record.holdout_bn) for record in folder.epochs()]
    assert recomputed == [dict(record.scores) for record in watched.monitors()]
    assert [r.holdout for r in folder.epochs()] == [r.holdout for r in watched.epochs()]
    assert all(record.holdout_bn == {} for record in watched.epochs())
    names = tiny.averaging.names
    for rule, arm in (("acc", "ema_acc_bn"), ("loss", "ema_loss_bn")):
        stop = choose_stop(folder.epochs(), rule=rule, averages=names, selection="bn_safe")
        facts = load_weights(folder.arm(arm)).manifest
        assert (facts["epoch"], facts["source"]) == (stop.epoch, stop.average)


def test_a_refit_of_bn_safe_evaluates_the_average_that_was_chosen(tiny, done):
    stop = Stop(rule="acc", epoch=1, average=tiny.averaging.names[0])
    chosen = done(holdout=False, stops=(stop,), selection="bn_safe")
    usual = done(holdout=False, stops=(stop,))
    sources = [load_weights(f.arm("ema_acc_bn")).manifest["source"] for f in (chosen, usual)]
    assert sources == [tiny.averaging.names[0], tiny.averaging.names[-1]]


def by_hand(images_nchw, *, padding, flip, draws):
    """Pad, crop and mirror one image after the other."""
    n, _, h, w = images_nchw.shape
    corners = torch.randint(0, 2 * padding + 1, (n, 2), generator=draws).tolist()
    coins = torch.randint(0, 2, (n,), generator=draws).tolist()
    cut = []
    for image, (top, left), coin in zip(images_nchw, corners, coins, strict=True):
        padded = torch.zeros(image.shape[0], h + 2 * padding, w + 2 * padding, dtype=image.dtype)
        padded[:, padding : padding + h, padding : padding + w] = image
        crop = padded[:, top : top + h, left : left + w]
        cut.append(torch.stack([row.flip(-1) for row in crop]) if flip and coin else crop)
    return torch.stack(cut)


def test_holdout_images_are_cropped_and_flipped_anew_for_every_evaluation(tiny, start):
    run = start(replace(tiny, paper_code=("holdout-images",)))
    run._train_epoch(1)
    draws = generator(tiny.seed, "holdout augmentation")
    data = run.data
    found = []
    for _ in range(2):
        images = by_hand(data.holdout_images_nchw, padding=1, flip=True, draws=draws)
        said = run.evaluation.holdout(run.averager)
        model = network(run, run.averager.tensors("ema_0.9"))
        loss, right = scored(model, run.data.normalisation(images), data.holdout_given_n)
        assert said["ema_0.9"].loss == pytest.approx(loss, rel=1e-4)
        assert said["ema_0.9"].accuracy == pytest.approx(right)
        found.append(said["ema_0.9"].loss)
    assert found[0] != found[1]


def test_holdout_images_of_the_saved_logits_are_augmented_too(done, tiny, start):
    folder = done(paper_code=("holdout-images",))
    run = start(tiny)
    draws = generator(tiny.seed, "final holdout augmentation")
    images = by_hand(run.data.holdout_images_nchw, padding=1, flip=True, draws=draws)
    model = network(run, load_weights(folder.arm("sgd"))["sgd"])
    with torch.no_grad():
        expected = model(run.data.normalisation(images))
    said = Predictions(folder.predictions).logits_nk("holdout", "sgd")
    assert torch.allclose(said.float(), expected, atol=1e-2, rtol=1e-2)


def test_a_clean_holdout_is_scored_on_right_labels(tiny, start):
    run = start(replace(tiny, holdout_labels="clean"))
    data = run.data
    assert (data.holdout_given_n != data.holdout_clean_n).any()
    images = data.normalisation(data.holdout_images_nchw)
    for name, said in run.evaluation.holdout(run.averager).items():
        weights = run.model.state_dict() if name == "sgd" else run.averager.tensors(name)
        loss, right = scored(network(run, weights), images, data.holdout_clean_n)
        assert said.loss == pytest.approx(loss, rel=1e-4)
        assert said.accuracy == pytest.approx(right)


def test_batchnorm_of_the_arms_has_the_mean_of_the_batches_variances(done, tiny, start):
    """Batch by batch, from what the first layer sees: torch's mean and unbiased variance."""
    # A full batch of 128 and one of 32.
    config = replace(tiny, data=replace(tiny.data, train_limit=200))
    folder = done(data=config.data, paper_code=("batchnorm",))
    weights = load_weights(folder.arm("ema_acc_bn"))["ema_acc_bn"]
    run = start(config)
    model = network(run, weights)
    layer = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    seen = []
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    batches = run.images.batches(
        128,
        order=generator(tiny.seed, "final batchnorm order"),
        draws=generator(tiny.seed, "final batchnorm augmentation"),
    )
    with torch.no_grad():
        for images, _ in batches:
            model(images)
    assert [len(x) for x in seen] == [128, 32]
    variances = [x.transpose(0, 1).flatten(1).var(dim=1) for x in seen]
    assert torch.allclose(layer.running_var, torch.stack(variances).mean(dim=0), rtol=1e-4)


def test_monitors_and_bn_safe_recompute_alike(tiny, start):
    """With batches of unequal size the two ways differ."""
    scores = {}
    for names in ((), ("batchnorm",)):
        config = replace(tiny, paper_code=names, data=replace(tiny.data, train_limit=200))
        run = start(config)
        run._train_epoch(1)
        scores[names] = run.evaluation.holdout_bn(run.averager)
    assert scores[()]["sgd"] == scores["batchnorm",]["sgd"]
    assert scores[()]["ema_0.9"] != scores["batchnorm",]["ema_0.9"]


def test_the_learning_rate_is_chosen_by_sgd_whatever_the_averages_are_chosen_by():
    good, bad = Score(1.0, 0.75), Score(1.0, 0.5)
    runs = {
        rate: {0: history([({"sgd": sgd, "ema_0.5": bad}, {"sgd": sgd, "ema_0.5": good})])}
        for rate, sgd in ((0.1, bad), (0.2, good))
    }
    assert choose_learning_rate(runs) == 0.2
