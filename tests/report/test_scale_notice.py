from dataclasses import replace

import pytest

from polyak.records.runs import run_folder
from polyak.report.scale import scale_notice, smaller


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
    first, second = smaller(out, study.rows[0])
    assert first == "toy is no data set of the paper"
    assert second.startswith("decays fitted to the shorter run: EMA 0.5 for")
