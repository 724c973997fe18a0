"""Predictions that a run did not make itself."""

from dataclasses import replace

import pytest
import torch

from polyak.errors import DataError, FileError
from polyak.records.predictions import Predictions
from polyak.records.runs import run_folder
from polyak.records.vocabulary import Stop
from polyak.training import logits
from polyak.training.jobs import carry_out
from polyak.training.later_predictions import check_same_task, write_training_predictions

ARMS = ("ema_acc_bn", "sgd_at_ema", "sgd")


@pytest.fixture(scope="module")
def searched(tiny, start, tmp_path_factory):
    """A finished search in its folder, and its data."""
    out = tmp_path_factory.mktemp("out")
    carry_out(tiny, out)
    return run_folder(out, tiny.id), start(tiny).data


def asked(folder, data, config, path, arms=ARMS, **options):
    write_training_predictions(
        path, folder, config=config, data=data, arms=arms, device=torch.device("cpu"), **options
    )
    return Predictions(path)


def test_a_search_is_asked_about_training_and_holdout_images(searched, tiny, tmp_path):
    folder, data = searched
    names = []
    said = asked(folder, data, tiny, tmp_path / "said.safetensors", on_arm=names.append)
    assert tuple(names) == ARMS
    for part in ("train", "holdout"):
        assert set(said.arms(part)) == set(ARMS)
        for kind in ("given", "clean", "index"):
            expected_n = getattr(data, f"{part}_{kind}_n")
            assert torch.equal(said.labels_n(part, kind), expected_n)
    both_n = torch.cat([said.labels_n(part, "index") for part in ("train", "holdout")])
    assert len(both_n.unique()) == 90


def test_its_logits_are_those_that_the_run_saved(searched, tiny, tmp_path):
    """Of the hold-out all are saved, of training images the verdicts."""
    folder, data = searched
    said = asked(folder, data, tiny, tmp_path / "said.safetensors")
    saved = Predictions(folder.predictions)
    for arm in ARMS:
        assert torch.equal(said.logits_nk("holdout", arm), saved.logits_nk("holdout", arm))
        assert torch.equal(said.predicted_n("train", arm), saved.predicted_n("train", arm))


def test_chunks_change_nothing(searched, tiny, tmp_path, monkeypatch):
    folder, data = searched
    whole = asked(folder, data, tiny, tmp_path / "whole.safetensors")
    monkeypatch.setattr(logits, "CHUNK", 50)
    parts = asked(folder, data, tiny, tmp_path / "parts.safetensors")
    a, b = (said.logits_nk("train", "ema_acc_bn") for said in (whole, parts))
    assert torch.allclose(a, b, atol=1e-5)


def test_a_refit_has_no_holdout(tiny, start, tmp_path):
    stops = (Stop(rule="acc", epoch=2, average="ema_0.9"),)
    config = replace(tiny, holdout=False, stops=stops)
    carry_out(config, tmp_path)
    folder, data = run_folder(tmp_path, config.id), start(config).data
    said = asked(folder, data, config, tmp_path / "said.safetensors")
    assert "holdout" not in said
    assert said.logits_nk("train", "sgd").shape == (90, 10)


def test_an_arm_that_was_not_kept_is_refused_with_the_choices(searched, tiny, tmp_path):
    folder, data = searched
    with pytest.raises(FileError, match="arm is 'ema_best'; expected one of ema_acc, "):
        asked(folder, data, tiny, tmp_path / "said.safetensors", arms=["ema_best"])
    assert not (tmp_path / "said.safetensors").exists()


def test_images_of_the_same_classes_and_shape_are_taken(tiny, start):
    data = start(tiny).data
    check_same_task(data, data)


def test_classes_in_another_order_are_refused_by_the_first_that_differs(tiny, start):
    data = start(tiny).data
    zero, one, *rest = data.classes
    with pytest.raises(DataError, match="class 0 is '1'; expected '0', as in training"):
        check_same_task(data, replace(data, classes=(one, zero, *rest)))


def test_both_faults_are_named_at_once(tiny, start):
    data = start(tiny).data
    other = replace(
        data,
        classes=("even", "odd"),
        test_images_nchw=torch.zeros(4, 3, 16, 16, dtype=torch.uint8),
    )
    with pytest.raises(DataError, match=r"2 classes \(even, odd\).*3×16×16; expected 1×8×8"):
        check_same_task(data, other)
