"""The command `polyak evaluate`: kept weights on other test images."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file, save_file
from support.small_runs import run_in_process

from polyak.cli.main import main
from polyak.data import DataConfig, NoiseConfig, load, partition, prepare
from polyak.models import build
from polyak.records.runs import run_folder
from polyak.records.studies import read_study
from polyak.records.vocabulary import CONTROLS
from polyak.report.archive import write_archive
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
def kept(small, cli_cache_folder, tmp_path_factory):
    """A study of a search and a refit, evaluated on 60 of the 360 test digits."""
    return carried_out(small, tmp_path_factory.mktemp("out"), cli_cache_folder)


def carried_out(study, out, cache):
    """A study's runs, made in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYAK_CACHE", str(cache))
        run_in_process(study, out)
    return out


@pytest.fixture(scope="module")
def annealed_too(small, cli_cache_folder, tmp_path_factory):
    """The study with two seeds, wrong labels, and SGD annealed in the average's budget."""
    (row,) = small.rows
    noise = NoiseConfig(kind="symmetric", rate=0.3)
    config = replace(row.config, data=replace(row.config.data, noise=noise))
    row = replace(row, config=config, seeds=(0, 1), follow_ups=("annealed",))
    study = replace(small, rows=(row,))
    return carried_out(study, tmp_path_factory.mktemp("annealed"), cli_cache_folder)


@pytest.fixture
def of_before(annealed_too, tmp_path):
    """The same as code made it that knew no SGD with recomputed statistics."""
    shutil.copytree(annealed_too, tmp_path, dirs_exist_ok=True)
    for run in (tmp_path / "runs").iterdir():
        folder = run_folder(tmp_path, run.name)
        for arm in CONTROLS:
            folder.arm(arm).unlink()
        said = load_file(folder.predictions)
        told = {key: x for key, x in said.items() if key.split("/")[-1] not in CONTROLS}
        save_file(told, folder.predictions)
    return tmp_path / "small"


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
    assert f"{run}: models of all training data, 1 seed" in said
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


def numbers(study):
    """Every number of a study's page, and the page; its figures are not the matter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda self, file, **options: Path(file).touch())
        write_archive(study.parent, study.name, study / "kept")
    lines = lines_of(study / "kept" / "results.csv")
    keys = ("phase", "target", "arm", "seed", "metric")
    found = {tuple(line[key] for key in keys): line["value"] for line in lines}
    return found, (study / "kept" / "index.html").read_text()


@pytest.mark.long
def test_a_study_of_before_gets_the_page_that_it_would_have_today(of_before, annealed_too, capsys):
    """SGD + BN of all its runs, annealed ones too, from the weights that they kept."""
    before, page = numbers(of_before)
    assert "SGD + BN" not in page
    runs = of_before.parent / "runs"
    as_it_was = {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}
    assert main(["evaluate", str(of_before), "--controls"]) == 0
    said = capsys.readouterr()
    assert "on the 60 test images of the runs" in said.out
    assert "SGD, stopped + BN" in said.out
    assert said.out.rstrip().endswith(f"page with them: polyak report {of_before.resolve()}")
    assert {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()} == as_it_was
    assert not (of_before / "evaluations").exists()
    after, page = numbers(of_before)
    assert "SGD + BN" in page
    today, _ = numbers(annealed_too / "small")
    assert after == today
    assert {key[0] for key in after.keys() - before.keys() if key[2] == "sgd_bn"} == {
        "search",
        "refit",
        "annealed",
    }
    assert before.items() <= after.items()
    # What is there is not computed again, and from now on it is evaluated with the rest.
    assert main(["evaluate", str(of_before), "--controls"]) == 0
    assert capsys.readouterr() == (said.out, "")
    assert main(["evaluate", str(of_before), "--test-limit", "50"]) == 0
    assert {"sgd_bn", "sgd"} <= {line["arm"] for line in table_in(of_before)}


def test_a_damaged_or_foreign_file_of_controls_is_named_with_what_to_do(of_before, refused, capsys):
    assert main(["evaluate", str(of_before), "--controls"]) == 0
    capsys.readouterr()
    path, other = sorted((of_before.parent / "evaluations" / "controls").iterdir())[:2]
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    said = refused("report", of_before)
    assert str(path) in said
    assert "Remove it, and run `polyak evaluate --controls` again." in said
    said = load_file(other)
    save_file({**said, "test/labels": said["test/labels"].flip(0)}, other)
    path.write_bytes(whole)
    assert "is about other samples than" in refused("report", of_before)


def test_all_recomputed_statistics_can_be_made_of_the_images_as_they_are(finished, capsys):
    words = ["evaluate", str(finished), "--test-limit", "60"]
    assert main(words) == 0
    assert main([*words, "--batchnorm-augmentation", "off"]) == 0
    assert "-bn-augmentation-off" in capsys.readouterr().out
    as_trained, plain = (
        {tuple(line[k] for k in ("phase", "arm", "metric")): line["value"] for line in lines}
        for lines in map(lines_of, sorted((finished / "evaluations").iterdir()))
    )
    assert as_trained.keys() == plain.keys()
    changed = {key[1] for key, value in plain.items() if as_trained[key] != value}
    assert changed == {arm for _, arm, _ in plain if arm.endswith("_bn")}
    # Temperatures are of the hold-out with statistics of the same kind.
    assert as_trained["search", "sgd_bn", "temperature"] != plain["search", "sgd_bn", "temperature"]
