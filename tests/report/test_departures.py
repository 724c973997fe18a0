from dataclasses import replace

import pytest

from polyak.records.runs import EpochRecord, Score, run_folder
from polyak.report.departures import scale_notice, smaller


@pytest.fixture
def whole(toy, tmp_path):
    """A row of the paper at the paper's size."""
    _, study = toy
    folder = run_folder(tmp_path, "r0")
    folder.write_config({"epochs": 200, "model": {"name": "resnet18"}})
    folder.finish("done", images=50_000, seconds=1.0)
    return replace(
        study.rows[0],
        dataset="CIFAR-100",
        architecture="ResNet-18",
        seeds=(0, 1, 2),
        paper_averages=study.rows[0].averages,
        search={},
        refit={"0": "r0"},
        transfer={},
    )


def test_the_papers_size_has_no_notice(whole, toy, tmp_path):
    _, study = toy
    assert smaller(tmp_path, whole) == []
    assert scale_notice(tmp_path, replace(study, rows=(whole,))) == []


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        ({"seeds": (0,)}, "1 seed instead of 3"),
        ({"architecture": "VGG-16"}, "model resnet18 instead of VGG-16"),
        ({"dataset": "TinyImageNet"}, "50,000 training images instead of 100,000"),
        (
            {"paper_averages": ("ema_0.968", "ema_0.998")},
            "decays fitted to the shorter run: EMA 0.5 for the paper’s EMA 0.968, "
            "EMA 0.9 for the paper’s EMA 0.998",
        ),
    ],
)
def test_each_way_to_be_smaller_is_named(whole, tmp_path, change, phrase):
    assert smaller(tmp_path, replace(whole, **change)) == [phrase]


def test_fewer_epochs_are_named(whole, tmp_path):
    run_folder(tmp_path, "r0").write_config({"epochs": 20, "model": {"name": "resnet18"}})
    assert smaller(tmp_path, whole) == ["20 epochs instead of 200"]


def test_less_renewal_by_weight_decay_is_named(whole, tmp_path):
    # A refit of the paper's 78,200 steps, but at half its summed learning rate (1.2/2 a step).
    folder = run_folder(tmp_path, "r0")
    optim = {"weight_decay": 1e-4, "momentum": 0.9}
    folder.write_config({"epochs": 200, "model": {"name": "resnet18"}, "optim": optim})
    score = Score(loss=1.0, accuracy=0.5)
    folder.write_epochs(
        [
            EpochRecord(epoch=n, step=391 * n, learning_rate=rate, train=score, seconds=1.0)
            for n, rate in ((100, 0.6), (200, 0.0))
        ]
    )
    phrase = "weight decay renews the weights 23 times in a run instead of 47"
    assert smaller(tmp_path, whole) == [phrase]
    optim["weight_decay"] = 2.1e-4
    folder.write_config({"epochs": 200, "model": {"name": "resnet18"}, "optim": optim})
    assert smaller(tmp_path, whole) == []


def test_what_all_rows_share_is_said_once(whole, toy, tmp_path):
    _, study = toy
    first = replace(whole, label="a", seeds=(0, 1))
    second = replace(first, label="b", dataset="TinyImageNet")
    assert scale_notice(tmp_path, replace(study, rows=(first, second))) == [
        ("all rows", ["2 seeds instead of 3"]),
        ("b", ["50,000 training images instead of 100,000"]),
    ]


def test_another_data_set_at_small_scale_is_named(toy):
    out, study = toy
    first, second, third = smaller(out, study.rows[0])
    assert first == "toy is no data set of the paper"
    # 5e-4 · 3 steps · (0.1/2 + 0.15/2 + …) / (1 − 0.9); those of the paper's refits
    renewed = (
        5e-4 * 3 * (0.05 + (0.1 + 0.05) / 2 + (0.05 + 1 / 30) / 2 + (1 / 30 + 0.025) / 2) / 0.1
    )
    assert second == (
        f"weight decay renews the weights {renewed:.2g} times in a run instead of 16 to 47"
    )
    assert third.startswith("decays fitted to the shorter run: EMA 0.5 for")
