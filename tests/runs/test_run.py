"""A finished run in Python: what it gives is what the run itself computed."""

import shutil

import pytest
import torch

import polyak
from polyak import runs
from polyak.averaging import load as load_weights
from polyak.data import load, partition
from polyak.errors import ConfigError, DataError, FileError, StateError
from polyak.records.predictions import Predictions
from polyak.records.studies import RowRecord, StudyRecord, write_study

ARMS = {"sgd", "sgd_stopped", "sgd_at_ema", "ema_acc", "ema_acc_bn", "ema_loss", "ema_loss_bn"}
ARMS |= {"sgd_bn", "sgd_stopped_bn", "sgd_at_ema_bn"}


def test_the_front_door_loads_it_when_it_is_first_asked_for():
    assert polyak.runs is runs
    assert "runs" in polyak.__all__


def test_every_arms_network_says_what_the_run_said(run):
    assert set(run.arms) == ARMS | {"swa_bn"}
    for arm in run.arms:
        network = run.network(arm)
        assert not network.training
        assert not any(x.requires_grad for x in network.parameters())
        assert torch.equal(run.predict(network, run.data.test_images_nchw), run.logits(arm))
        held = run.predict(network, run.data.holdout_images_nchw)
        assert torch.equal(held, run.logits(arm, "holdout"))


def test_a_network_takes_images_that_the_runs_normalisation_made(run):
    images = run.data.test_images_nchw
    slowly = (images.double() / 255 - run.card.mean[0]) / run.card.std[0]
    assert torch.allclose(run.normalisation(images).double(), slowly, atol=1e-5)
    logits = run.network("ema_acc")(run.normalisation(images))
    assert torch.allclose(logits, run.logits("ema_acc"), atol=1e-5)


def test_weights_are_those_of_the_arms_file(run, folder):
    saved = load_weights(folder.arm("ema_loss_bn"))["ema_loss_bn"]
    network = run.network("ema_loss_bn").state_dict()
    assert all(torch.equal(network[key], x) for key, x in saved.items())
    assert run.about("ema_loss_bn")["rule"] == "loss"


@pytest.mark.parametrize(("arm", "kept"), [("sgd", "sgd_bn"), ("ema_acc_bn", "ema_acc_bn")])
def test_recomputed_statistics_are_those_of_bn_arms(run, arm, kept):
    found = run.network(arm, batchnorm="recomputed").state_dict()
    expected = run.network(kept).state_dict()
    assert all(torch.equal(expected[key], x) for key, x in found.items())
    saved = run.network("sgd").state_dict()
    assert any(not torch.equal(saved[key], x) for key, x in found.items() if "running" in key)


def test_settings_data_classes_and_records_are_the_runs_own(run, folder):
    config = run.config
    assert (run.id, run.path) == (folder.path.name, folder.path)
    data = partition(load(config.data), config.data, holdout=True)
    assert torch.equal(run.data.train_images_nchw, data.train_images_nchw)
    assert run.normalisation == data.normalisation
    assert run.classes == tuple(str(digit) for digit in range(10))
    assert run.card.image_shape == (1, 8, 8)
    assert [record.epoch for record in run.epochs] == [1, 2]
    assert run.monitors == []


def test_labels_and_classes_said_come_with_the_logits(run, folder):
    said = Predictions(folder.predictions)
    assert torch.equal(run.labels(), said.labels_n("test"))
    assert torch.equal(run.labels("train", clean=True), said.labels_n("train", "clean"))
    assert not torch.equal(run.labels("train"), run.labels("train", clean=True))
    assert torch.equal(run.predicted("sgd"), run.logits("sgd").argmax(1))
    assert torch.equal(run.predicted("sgd", "train"), said.predicted_n("train", "sgd"))


def test_metrics_are_those_of_the_test_logits(run):
    logits, labels = run.logits("ema_acc_bn").double(), run.labels()
    found = run.metrics("ema_acc_bn")
    assert found["accuracy"] == (logits.argmax(1) == labels).double().mean().item()
    slowly = -logits.log_softmax(1)[torch.arange(len(labels)), labels].mean().item()
    assert found["loss"] == pytest.approx(slowly)
    assert found.keys() == {"accuracy", "loss", "brier", "ece"}


def test_variants_have_logits_and_no_weights(run):
    assert "acc.ema_0.9.recomputed" in run.variants
    assert run.logits("acc.ema_0.9.recomputed").shape == (40, 10)
    with pytest.raises(FileError, match="expected one of ema_acc, "):
        run.network("acc.ema_0.9.recomputed")


@pytest.mark.parametrize("ask", ["network", "logits", "metrics", "about", "predicted"])
def test_an_unknown_arm_is_refused_with_those_that_there_are(run, ask):
    with pytest.raises(FileError, match="Did you mean 'ema_acc_bn'") as caught:
        getattr(run, ask)("ema_acc_bm")
    assert "ema_acc, ema_acc_bn, ema_loss" in str(caught.value)


def test_a_run_without_a_hold_out_says_so(both):
    assert set(both[False].arms) == {"sgd", "sgd_bn", "swa_bn"}
    with pytest.raises(FileError, match="part is 'holdout'"):
        both[False].logits("sgd", "holdout")


def test_the_card_stands_in_for_the_data(run, folder, tmp_path, monkeypatch):
    moved = tmp_path / "elsewhere" / run.id
    shutil.copytree(folder.path, moved)
    images = run.data.test_images_nchw
    monkeypatch.setenv("POLYAK_CACHE", str(tmp_path / "none"))
    monkeypatch.setattr("polyak.data.sources._digits_files", _gone)
    alone = runs.load(moved)
    network = alone.network("sgd")
    assert torch.equal(alone.predict(network, images), run.logits("sgd"))
    with pytest.raises(DataError):
        _ = alone.data


def _gone():
    raise DataError("no digits here.")


def test_a_run_of_before_cards_has_them_from_its_data(run, folder, tmp_path):
    moved = tmp_path / run.id
    shutil.copytree(folder.path, moved)
    (moved / "card.json").unlink()
    old = runs.load(moved).card
    assert (old.classes, old.mean, old.std) == (run.classes, run.card.mean, run.card.std)
    assert not (moved / "card.json").exists()


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"classes": 3}'])
def test_a_damaged_card_is_named(folder, run, tmp_path, content):
    moved = tmp_path / run.id
    shutil.copytree(folder.path, moved)
    (moved / "card.json").write_text(content)
    with pytest.raises(FileError, match=r"card\.json cannot be read"):
        _ = runs.load(moved).card


def test_what_is_no_finished_run_is_refused(run, folder, tmp_path):
    with pytest.raises(FileError, match="expected the folder of a run"):
        runs.load(tmp_path)
    moved = tmp_path / run.id
    shutil.copytree(folder.path, moved)
    (moved / "DONE").unlink()
    with pytest.raises(StateError, match="not finished"):
        runs.load(moved)


@pytest.mark.parametrize(
    "images", [torch.zeros(2, 1, 8, 8), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)]
)
def test_images_of_another_kind_are_refused(run, images):
    with pytest.raises(ConfigError, match=r"expected torch\.uint8 \(1, 8, 8\)"):
        run.predict(run.network("sgd"), images)


def test_a_run_knows_its_studies(run, out):
    assert run.studies() == ()
    row = RowRecord(
        label="a",
        dataset="digits",
        architecture="r",
        seeds=(0,),
        learning_rates=(0.1,),
        averages=(),
        paper_averages=(),
        search={"0.1": {"0": run.id}},
    )
    write_study(out / "mine", StudyRecord(name="mine", title="", command="", rows=(row,)))
    try:
        assert run.studies() == ("mine",)
    finally:
        shutil.rmtree(out / "mine")


def test_nothing_is_drawn_from_torchs_generators(run):
    before = torch.get_rng_state()
    run.predict(run.network("sgd"), run.data.test_images_nchw)
    assert torch.equal(torch.get_rng_state(), before)
