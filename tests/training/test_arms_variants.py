"""Every average at a run's stops, as its file says."""

from dataclasses import replace

import pytest
import torch

from polyak.records.predictions import Predictions
from polyak.records.runs import run_folder
from polyak.records.vocabulary import Stop
from polyak.training import arms as module
from polyak.training.arms import arms, variants, write_arms, write_variants

STOPS = (
    Stop(rule="sgd", epoch=1, average="sgd"),
    Stop(rule="acc", epoch=2, average="ema_0.2"),
    Stop(rule="loss", epoch=3, average="ema_0.9"),
)


def written(run, folder):
    trained = run.train(lambda record: None)
    write_arms(run, trained, folder)
    write_variants(run, trained, folder)
    return folder


@pytest.fixture(scope="module")
def finished(tiny, start, tmp_path_factory):
    run = start(replace(tiny, holdout=False, stops=STOPS))
    return run, written(run, run_folder(tmp_path_factory.mktemp("out"), run.config.id))


def test_there_is_one_for_each_rule_average_and_kind_of_statistics(finished):
    _, folder = finished
    assert set(Predictions(folder.variants).arms("test")) == {
        f"{rule}.{average}.{statistics}"
        for rule in ("acc", "loss")
        for average in ("ema_0.2", "ema_0.9")
        for statistics in ("averaged", "recomputed")
    }


@pytest.mark.parametrize(
    ("arm", "variant"),
    [
        ("ema_acc", "acc.ema_0.2.averaged"),
        ("ema_acc_bn", "acc.ema_0.9.recomputed"),
        ("ema_loss", "loss.ema_0.9.averaged"),
        ("ema_loss_bn", "loss.ema_0.9.recomputed"),
    ],
)
def test_what_was_chosen_says_the_same_as_an_arm(finished, arm, variant):
    _, folder = finished
    said, varied = Predictions(folder.predictions), Predictions(folder.variants)
    assert torch.equal(said.logits_nk("test", arm), varied.logits_nk("test", variant))
    assert torch.equal(said.labels_n("test"), varied.labels_n("test"))


def test_a_search_run_has_them_on_the_holdout_too(tiny, start, tmp_path):
    run = start(tiny)
    folder = written(run, run_folder(tmp_path, run.config.id))
    arms, varied = Predictions(folder.predictions), Predictions(folder.variants)
    stop = run.trained.kept["acc"].stop
    chosen = f"acc.{stop.average}.averaged"
    assert torch.equal(arms.logits_nk("holdout", "ema_acc"), varied.logits_nk("holdout", chosen))


def test_a_run_that_keeps_the_chosen_has_no_such_file(tiny, start, tmp_path):
    run = start(replace(tiny, keep="chosen"))
    assert not written(run, run_folder(tmp_path, run.config.id)).variants.exists()


def test_equal_weights_are_evaluated_once(tiny, start, tmp_path, monkeypatch):
    """Decays that warm-up holds equal to the end of a short run."""
    averaging = replace(tiny.averaging, decays=(0.05, 0.95, 0.96), every=4)
    run = start(replace(tiny, averaging=averaging))
    trained = run.train(lambda record: None)
    folder = run_folder(tmp_path, run.config.id)
    write_arms(run, trained, folder)
    seen = []
    original = module.load_arm
    monkeypatch.setattr(module, "load_arm", lambda run, arm: (seen.append(arm), original(run, arm)))
    write_variants(run, trained, folder)
    found = list(variants(trained, run.config))
    assert len(found) == 12

    def what(arm):
        twin = {"ema_0.96": "ema_0.95"}
        source = arm.origin["source"]
        return arm.origin["epoch"], twin.get(source, source), arm.refresh

    known = {what(arm) for arm in arms(trained, run.config)}
    assert sorted(map(what, seen)) == sorted({what(arm) for arm in found} - known)
    said = Predictions(folder.variants)
    twins = (f"acc.ema_{decay}.recomputed" for decay in ("0.95", "0.96"))
    first, second = (said.logits_nk("test", twin) for twin in twins)
    assert torch.equal(first, second)
