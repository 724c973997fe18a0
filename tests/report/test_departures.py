from dataclasses import replace

import pytest

from polyak.analysis.loaded import LoadedRow, LoadedRun, LoadedStudy, RunLog, load_recorded_study
from polyak.records.runs import EpochRecord, Score
from polyak.report.departures import departures, scale_notice, smaller

CONFIG = {"epochs": 200, "model": {"name": "resnet18"}}


@pytest.fixture
def whole(toy):
    """A row of the paper at the paper's size."""
    _, study = toy
    record = replace(
        study.rows[0],
        dataset="CIFAR-100",
        architecture="ResNet-18",
        seeds=(0, 1, 2),
        paper_averages=study.rows[0].averages,
        search={},
        refit={"0": "r0"},
        transfer={},
        stops={},
    )
    run = LoadedRun(id="r0", ending="done", config=CONFIG, images=50_000, seconds=1.0)
    return LoadedRow(record=record, runs={"r0": run})


def recorded(row, **changes):
    return replace(row, record=replace(row.record, **changes))


def ran(row, **changes):
    return replace(row, runs={"r0": replace(row.runs["r0"], **changes)})


def study_of(toy, *rows):
    _, study = toy
    return LoadedStudy(record=replace(study, rows=tuple(row.record for row in rows)), rows=rows)


def test_the_papers_size_has_no_notice(whole, toy):
    assert smaller(whole) == []
    assert scale_notice(study_of(toy, whole)) == []


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
def test_each_way_to_be_smaller_is_named(whole, change, phrase):
    assert smaller(recorded(whole, **change)) == [phrase]


def test_fewer_epochs_are_named(whole):
    assert smaller(ran(whole, config={**CONFIG, "epochs": 20})) == ["20 epochs instead of 200"]


def test_less_renewal_by_weight_decay_is_named(whole):
    # A refit of the paper's 78,200 steps, but at half its summed learning rate (1.2/2 a step).
    score = Score(loss=1.0, accuracy=0.5)
    epochs = [
        EpochRecord(epoch=n, step=391 * n, learning_rate=rate, train=score, seconds=1.0)
        for n, rate in ((100, 0.6), (200, 0.0))
    ]

    def decayed(weight_decay):
        optim = {"weight_decay": weight_decay, "momentum": 0.9}
        return ran(whole, config={**CONFIG, "optim": optim}, log=RunLog(epochs=epochs))

    phrase = "weight decay renews the weights 23 times in a run instead of 47"
    assert smaller(decayed(1e-4)) == [phrase]
    assert smaller(decayed(2.1e-4)) == []


def test_what_all_rows_share_is_said_once(whole, toy):
    first = recorded(whole, label="a", seeds=(0, 1))
    second = recorded(first, label="b", dataset="TinyImageNet")
    assert scale_notice(study_of(toy, first, second)) == [
        ("all rows", ["2 seeds instead of 3"]),
        ("b", ["50,000 training images instead of 100,000"]),
    ]


def test_another_data_set_at_small_scale_is_named(toy):
    (row,) = load_recorded_study(*toy).rows
    first, second, third = smaller(row)
    assert first == "toy is no data set of the paper"
    # 5e-4 · 3 steps · (0.1/2 + 0.15/2 + …) / (1 − 0.9); those of the paper's refits
    renewed = (
        5e-4 * 3 * (0.05 + (0.1 + 0.05) / 2 + (0.05 + 1 / 30) / 2 + (1 / 30 + 0.025) / 2) / 0.1
    )
    assert second == (
        f"weight decay renews the weights {renewed:.2g} times in a run instead of 16 to 47"
    )
    assert third.startswith("decays fitted to the shorter run: EMA 0.5 for")


def test_a_way_of_resizing_is_named_once(whole, toy):
    assert departures(study_of(toy, whole)) == []
    data = {"resize": 32, "resize_how": "squash"}
    squashed = ran(whole, config={**CONFIG, "data": data})
    cut = ran(whole, config={**CONFIG, "data": {"resize": 32}})
    assert departures(study_of(toy, squashed, cut, squashed)) == [
        "Images are resized to 32×32: both sides scaled.",
        "Images are resized to 32×32: the shorter side scaled, the middle cut out.",
    ]
