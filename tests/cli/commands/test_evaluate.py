"""The command `polyak evaluate`: kept weights on other test images."""

import csv
import shutil

import pytest
import torch

from polyak.cli.main import main
from polyak.data import DataConfig, load, partition, prepare
from polyak.models import build
from polyak.records.runs import run_folder
from polyak.records.studies import read_study
from polyak.study.runner import run_study
from polyak.training.config_file import read_run_config
from polyak.training.logits import arm_weights

INVERTED = """
from sklearn.datasets import load_digits
import torch
from polyak.data import ImageSet

def load():
    raw = load_digits()
    images = torch.from_numpy(raw.images).mul(15).to(torch.uint8)[:, None]
    labels = torch.from_numpy(raw.target).long()
    names = tuple(str(n) for n in range(10))
    made = lambda x, y: ImageSet(images_nchw=x, labels_n=y, classes=names)
    return made(images, labels), made(255 - images, labels)
"""


@pytest.fixture(scope="module")
def kept(small, here, cli_cache_folder, tmp_path_factory):
    """A study of a search and a refit, evaluated on 60 of the 360 test digits."""
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYAK_CACHE", str(cli_cache_folder))
        quiet = {
            "on_progress": lambda progress: None,
            "workers": 1,
            "command": "polyak study small",
        }
        run_study(small, out, executor=here, **quiet)
    return out


@pytest.fixture
def finished(kept, tmp_path):
    """The study's folder in an output folder of the test's own."""
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    return tmp_path / "small"


def lines_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def table_in(study):
    (path,) = (study / "evaluations").iterdir()
    return lines_of(path)


def test_a_study_is_evaluated_on_all_test_images_of_its_data_set(finished, capsys):
    assert main(["evaluate", str(finished)]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("on the 360 test images of digits-")
    assert "small digits: models of the search, 1 seed" in said.out
    row = read_study(finished).rows[0]
    (run,) = row.refit.values()
    folder = run_folder(finished.parent, run)
    for arm in ("sgd", "ema_acc_bn"):
        (found,) = [
            float(line["value"])
            for line in table_in(finished)
            if (line["phase"], line["arm"], line["metric"]) == ("refit", arm, "accuracy")
        ]
        assert found == pytest.approx(slowly_right(folder, arm))


def slowly_right(folder, arm):
    """One image at a time."""
    config = read_run_config(folder.path / "config.json")
    whole = prepare(DataConfig(train_limit=90, crop_padding=1))
    data = partition(load(whole), whole, holdout=config.holdout)
    model = build(config.model, classes=10, channels=1, image_size=8, generator_seed=0)
    model.load_state_dict(arm_weights(folder, arm)[0])
    model.eval()
    scale, shift = data.normalisation.factors(torch.device("cpu"))
    right = 0
    with torch.no_grad():
        for image_chw, label in zip(data.test_images_nchw, data.test_labels_n, strict=True):
            logits_k = model(image_chw[None].float() * scale.flatten() + shift.flatten())[0]
            right += int(logits_k.argmax() == label)
    return right / len(data.test_labels_n)


def test_on_the_images_of_its_own_evaluation_every_number_is_the_same(finished, capsys):
    assert main(["evaluate", str(finished), "--test-limit", "60"]) == 0
    assert main(["report", str(finished), "--keep", str(finished / "kept")]) == 0
    capsys.readouterr()
    before = {
        tuple(line[key] for key in ("phase", "arm", "seed", "metric")): line["value"]
        for line in lines_of(finished / "kept" / "results.csv")
    }
    again = {
        tuple(line[key] for key in ("phase", "arm", "seed", "metric")): line["value"]
        for line in table_in(finished)
    }
    assert {"accuracy", "loss", "ece", "temperature", "loss_scaled"} <= {key[3] for key in again}
    assert again.items() <= before.items()
    # And the table is kept with the rest.
    assert table_in(finished / "kept") == table_in(finished)


def test_nothing_is_computed_twice_unless_it_is_damaged(finished, capsys):
    assert main(["evaluate", str(finished)]) == 0
    first = capsys.readouterr()
    assert first.err.count(": sgd\n") == 2
    assert main(["evaluate", str(finished)]) == 0
    assert capsys.readouterr() == (first.out, "")
    damaged = next((finished.parent / "evaluations").rglob("*.safetensors"))
    whole = damaged.read_bytes()
    half = len(whole) // 2
    for broken in (whole[:100], whole[:half] + bytes([whole[half] ^ 1]) + whole[half + 1 :]):
        damaged.write_bytes(broken)
        assert main(["evaluate", str(finished)]) == 0
        again = capsys.readouterr()
        assert again.out == first.out
        assert {line.partition(":")[0] for line in again.err.splitlines()} == {damaged.stem}


def test_some_arms_now_and_others_later_make_the_table_of_all(finished, capsys):
    assert main(["evaluate", str(finished), "--arms", "sgd", "ema_acc_bn"]) == 0
    assert {line["arm"] for line in table_in(finished)} == {"sgd", "ema_acc_bn"}
    capsys.readouterr()
    assert main(["evaluate", str(finished)]) == 0
    said = capsys.readouterr().err
    assert "ema_loss_bn" in said
    assert ": sgd\n" not in said
    both = table_in(finished)
    shutil.rmtree(finished.parent / "evaluations")
    assert main(["evaluate", str(finished)]) == 0
    assert table_in(finished) == both


def test_other_images_of_the_same_classes_evaluate_a_run_by_its_id(finished, tmp_path, capsys):
    source = tmp_path / "inverted.py"
    source.write_text(INVERTED)
    (run,) = read_study(finished).rows[0].refit.values()
    words = ["evaluate", run, "--source", f"{source}:load", "--out", str(tmp_path)]
    assert main([*words, "--test-limit", "500"]) == 0
    said = capsys.readouterr().out
    assert "on the 500 test images of inverted-500-" in said
    assert f"{run}: models of all training images, 1 seed" in said
    assert not (finished / "evaluations").exists()


def test_images_of_other_classes_are_refused_by_the_first_that_differs(finished, refused):
    assert "the test images have 2 classes (even, odd); expected 10 (0, 1, 2, …)" in refused(
        "evaluate", finished, "--source", "digits-parity"
    )
    assert not list((finished.parent / "evaluations").rglob("*.safetensors"))


def test_what_cannot_be_evaluated_is_refused(finished, tmp_path, refused):
    assert "run is 'nothing'; expected the folder of a run" in refused("evaluate", "nothing")
    assert "column is given without --source" in refused(
        "evaluate", finished, "--label-column", "fine"
    )
    assert "arm is 'ema'; expected one of sgd, " in refused("evaluate", finished, "--arms", "ema")
    assert "test_limit is 361; expected at most 360" in refused(
        "evaluate", finished, "--test-limit", "361"
    )
    for run in (tmp_path / "runs").iterdir():
        (run / "DONE").unlink()
    assert "no run of" in refused("evaluate", finished)
