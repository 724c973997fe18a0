import pytest
import torch

from polyak import metrics
from polyak.analysis.loaded import load_recorded_study
from polyak.records.predictions import write_predictions
from polyak.records.runs import run_folder
from polyak.records.studies import RowRecord, StudyRecord


def test_every_pair_of_refits_has_its_disagreements_and_who_is_right(tmp_path):
    labels_n = torch.arange(40) % 4
    logits = {}
    for seed in "012":
        logits[seed] = torch.randn(40, 4)
        folder = run_folder(tmp_path, seed)
        write_predictions(
            folder.predictions,
            arms={"test": {"sgd": logits[seed]}, "train": {"sgd": labels_n}},
            labels={"test": {"labels": labels_n}, "train": {"given": labels_n, "clean": labels_n}},
        )
        folder.finish("done", seconds=1.0)
    row = RowRecord(
        label="r",
        dataset="d",
        architecture="a",
        seeds=(0, 1, 2),
        learning_rates=(0.1,),
        averages=(),
        paper_averages=(),
        refit={seed: seed for seed in "012"},
    )
    study = StudyRecord(name="s", title="t", command="c", rows=(row,))
    found = {
        (r.seed, r.metric): r.value
        for r in load_recorded_study(tmp_path, study).results
        if "-" in r.seed
    }
    measures = {
        "churn": metrics.churn,
        "js": metrics.js_divergence,
        "js_paper_code": metrics.js_paper_code,
    }
    expected = {
        (f"{a}-{b}", name): measure(logits[a], logits[b])
        for a, b in ("01", "02", "12")
        for name, measure in measures.items()
    }
    for a, b in ("01", "02", "12"):
        said = zip(logits[a].argmax(1), logits[b].argmax(1), labels_n, strict=True)
        cases = [(int(x == y), int(z == y), bool(x != z)) for x, z, y in said]
        counted = {
            "both_right": [x + z == 2 for x, z, _ in cases],
            "flipped": [x + z == 1 for x, z, _ in cases],
            "both_wrong": [x + z == 0 for x, z, _ in cases],
            "differently_wrong": [x + z == 0 and other for x, z, other in cases],
        }
        expected |= {(f"{a}-{b}", name): sum(hits) / 40 for name, hits in counted.items()}
    assert found == pytest.approx(expected)
