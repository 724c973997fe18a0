import torch

from polyak import metrics
from polyak.analysis.reliability import pooled_reliability
from polyak.records.predictions import write_predictions
from polyak.records.runs import run_folder


def write(out, run_id, samples):
    logits_nk, labels_n = torch.randn(samples, 4), torch.randint(4, (samples,))
    write_predictions(
        run_folder(out, run_id).predictions,
        arms={"test": {"sgd": logits_nk}},
        labels={"test": {"labels": labels_n}},
    )
    run_folder(out, run_id).finish("done", seconds=1.0)
    return logits_nk, labels_n


def test_runs_are_pooled_and_unfinished_ones_left_out(tmp_path):
    first, second = write(tmp_path, "a", 180), write(tmp_path, "b", 180)
    logits_nk, labels_n = (torch.cat(both) for both in zip(first, second, strict=True))
    # 180 samples a run are enough for 3 bars of 60
    expected = metrics.reliability(logits_nk, labels_n, bins=3)
    assert pooled_reliability(tmp_path, ["a", "b", "never"], "sgd") == expected


def test_large_test_sets_have_fifteen_bars(tmp_path):
    write(tmp_path, "a", 2000)
    assert len(pooled_reliability(tmp_path, ["a"], "sgd")) == 15


def test_an_arm_that_no_run_has_gives_no_bars(tmp_path):
    write(tmp_path, "a", 20)
    assert pooled_reliability(tmp_path, ["a"], "ema_acc") == []
    assert pooled_reliability(tmp_path, [], "sgd") == []
