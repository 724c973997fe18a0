"""Numbers here are copied by hand from the paper's tables, so they check the file."""

import json
from importlib.resources import files

import pytest

from polyak.report.names import ARMS
from polyak.report.paper.published import beside, notes_on, numbers_for, protocol, published


@pytest.mark.parametrize(
    ("dataset", "architecture", "phase", "arm", "metric", "target", "submitted"),
    [
        ("CIFAR-100", "ResNet-18", "refit", "sgd", "accuracy", "test", 77.63),
        ("CIFAR-100", "ResNet-18", "refit", "ema_acc_bn", "accuracy", "test", 78.55),
        ("CIFAR-100", "ResNet-18", "refit", "ema_loss_bn", "loss", "test", 0.82),
        ("CIFAR-100", "WRN-28-10", "refit", "swa_bn", "accuracy", "test", 82.15),
        ("TinyImageNet", "ResNet-18", "refit", "ema_acc_bn", "accuracy", "test", 67.97),
        ("CIFAR-100N", "ResNet-34", "refit", "ema_acc_bn", "accuracy", "test", 65.15),
        ("CIFAR-10N(Worse)", "ResNet-34", "refit", "sgd", "accuracy", "test", 77.69),
        ("CIFAR-100", "ResNet-18", "refit", "ema_loss_bn", "churn", "test", 12.71),
        ("CIFAR-100", "ResNet-18", "refit", "sgd", "js_paper_code", "test", 0.32),
        ("CIFAR-100", "ResNet-18", "transfer", "ema_acc_bn", "accuracy", "CIFAR-10", 84.03),
        ("TinyImageNet", "ResNet-18", "transfer", "sgd", "accuracy", "CIFAR-100", 52.77),
    ],
)
def test_file_holds_what_the_paper_prints(
    dataset, architecture, phase, arm, metric, target, submitted
):
    numbers = numbers_for(dataset, architecture)
    twins = beside(numbers, phase=phase, arm=arm, metric=metric, target=target)
    assert twins[0].version == "submitted"
    assert twins[0].value == submitted


def test_camera_ready_stands_beside_the_submitted_version():
    numbers = numbers_for("CIFAR-100", "ResNet-18")
    twins = beside(numbers, phase="refit", arm="ema_loss_bn", metric="churn")
    assert [(p.version, p.value) for p in twins] == [("submitted", 12.71), ("camera-ready", 11.69)]


def test_spelling_of_a_data_set_does_not_matter():
    assert numbers_for("zh-plus/tiny-imagenet", "resnet18") == numbers_for(
        "TinyImageNet", "ResNet-18"
    )
    assert numbers_for("CIFAR-10", "ResNet-18") != numbers_for("CIFAR-100", "ResNet-18")


def test_every_number_can_be_asked_for():
    everything = published()
    assert len(everything) > 450
    assert {p.arm for p in everything} <= {*ARMS, ""}
    assert {p.phase for p in everything} == {"search", "refit", "transfer"}
    assert all(p.model for p in everything)
    assert all(p.quoted for p in everything if not p.arm)


def test_baseline_of_the_search_is_the_stopped_one():
    numbers = [p for p in published() if p.phase == "search" and p.model in ("SGD", "Baseline")]
    assert {p.arm for p in numbers} == {"sgd_stopped"}


def test_a_version_appears_at_most_once_beside_a_number():
    for p in published():
        if p.arm:
            numbers = numbers_for(p.dataset, p.architecture)
            twins = beside(numbers, phase=p.phase, arm=p.arm, metric=p.metric, target=p.target)
            assert len({t.version for t in twins}) == len(twins) in (1, 2)


def test_nothing_is_known_of_other_data():
    assert numbers_for("digits", "ResNet-8") == ()


def test_every_note_concerns_a_published_number():
    text = files("polyak.report.paper").joinpath("paper_notes.json").read_text(encoding="utf-8")
    notes = {note["text"] for note in json.loads(text)["notes"]}
    assert len(notes) == 14
    assert notes <= {note for p in published() for note in notes_on(p)}


def test_supervised_and_codistillation_are_quoted():
    quoted = {p.table for p in published() if p.quoted}
    assert quoted == {1, 2, 3, 4}
    assert {p.model for p in published() if p.quoted and p.table == 1} == {"SWA"}
    assert [p.value for p in published() if p.quoted and p.table == 1] == [74.27, 82.15]


@pytest.mark.parametrize(
    ("dataset", "epochs", "images"),
    [
        ("CIFAR-10", 200, 50_000),
        ("CIFAR-10N", 200, 50_000),
        ("CIFAR-100N", 200, 50_000),
        ("TinyImageNet", 150, 100_000),
    ],
)
def test_protocol_is_the_papers(dataset, epochs, images):
    assert protocol(dataset) == {"epochs": epochs, "training_images": images, "seeds": 3}


def test_a_number_of_a_named_table_is_found_there():
    numbers = numbers_for("CIFAR-10", "ResNet-18")
    asked = {"phase": "refit", "arm": "sgd", "metric": "accuracy"}
    assert [p.value for p in beside(numbers, **asked)] == [95.19, 95.25]
    assert [p.value for p in beside(numbers, **asked, table=3)] == [95.25, 95.25]
