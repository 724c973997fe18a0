import torch

from polyak import metrics
from polyak.analysis.reliability import pooled_reliability
from polyak.records.predictions import Predictions, write_predictions


def write(out, run_id, samples):
    logits_nk, labels_n = torch.randn(samples, 4), torch.randint(4, (samples,))
    path = out / f"{run_id}.safetensors"
    write_predictions(
        path,
        arms={"test": {"sgd": logits_nk}},
        labels={"test": {"labels": labels_n}},
    )
    return Predictions(path), logits_nk, labels_n


def test_runs_are_pooled(tmp_path):
    (first, *one), (second, *other) = write(tmp_path, "a", 180), write(tmp_path, "b", 180)
    logits_nk, labels_n = (torch.cat(both) for both in zip(one, other, strict=True))
    # 180 samples a run are enough for 3 bars of 60
    expected = metrics.reliability(logits_nk, labels_n, bins=3)
    assert pooled_reliability([first, second]) == {"sgd": expected}


def test_large_test_sets_have_fifteen_bars(tmp_path):
    said, *_ = write(tmp_path, "a", 2000)
    assert len(pooled_reliability([said])["sgd"]) == 15


def test_an_arm_that_no_run_has_gives_no_bars(tmp_path):
    said, *_ = write(tmp_path, "a", 20)
    assert pooled_reliability([said], ["ema_acc"]) == {}
    assert pooled_reliability([]) == {}
