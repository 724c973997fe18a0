"""--log of train and study: curves of every run, whoever trained it, and nothing else changes."""

import csv
import json
import sys

import pytest

from polyak.cli.main import main
from polyak.loggers.curves import read_curves
from polyak.records.runs import run_folder
from polyak.training.config_file import read_run_config
from polyak.training.interruption import InterruptedRun, Interruption
from polyak.training.jobs import carry_out

DATA = ["--data.train-limit", "90", "--data.test-limit", "40", "--monitors", "test"]
NETWORK = ["--model.width", "4", "--averaging.decays", "0.9", "--averaging.every", "2"]
TRAIN = ["train", *DATA, *NETWORK, "--batch-size", "45", "--optim.warmup-epochs", ".5"]
TRAIN += ["--epochs", "3"]


def curves_of(out, run):
    with (out / "logs" / "csv" / f"{run}.csv").open(newline="") as file:
        return {
            int(line.pop("epoch")): {name: float(value) for name, value in line.items()}
            for line in csv.DictReader(file)
        }


def recorded(out, run):
    return read_curves(run_folder(out, run), name="").epochs


def test_curves_of_a_run_and_a_resume_have_each_epoch_once(tmp_path, capsys):
    assert main([*TRAIN, "--out", str(tmp_path), "--log", "csv"]) == 0
    [folder] = (tmp_path / "runs").iterdir()
    assert curves_of(tmp_path, folder.name) == recorded(tmp_path, folder.name)
    # The same run in another folder, interrupted after an epoch and gone on with.
    config, out = read_run_config(folder / "config.json"), tmp_path / "again"
    interruption = Interruption()

    def ask(record):
        interruption.signal_number = 15

    with pytest.raises(InterruptedRun):
        carry_out(config, out, on_epoch=ask, interruption=interruption)
    words = ["train", "--config", str(folder / "config.json"), "--out", str(out), "--log", "csv"]
    assert main(words) == 0
    found = curves_of(out, folder.name)
    assert list(found) == [1, 2, 3]
    assert [values["holdout/ema_0.9/loss"] for values in found.values()] == [
        values["holdout/ema_0.9/loss"] for values in recorded(tmp_path, folder.name).values()
    ]
    capsys.readouterr()


def test_a_log_is_no_part_of_what_a_run_is(tmp_path, capsys):
    for number, more in enumerate(([], ["--log", "csv"])):
        assert main([*TRAIN, "--out", str(tmp_path / str(number)), *more]) == 0
    capsys.readouterr()
    plain, logged = (next((tmp_path / str(n) / "runs").iterdir()) for n in (0, 1))
    assert plain.name == logged.name
    assert (plain / "config.json").read_bytes() == (logged / "config.json").read_bytes()
    files = [{path.name for path in folder.iterdir()} for folder in (plain, logged)]
    assert files[0] == files[1]
    assert "log" not in json.loads((logged / "config.json").read_text())


def test_a_study_logs_all_its_runs_those_done_before_too(in_process, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["study", "small", "--out", str(out)]) == 0
    runs = sorted(path.name for path in (out / "runs").iterdir())
    assert not (out / "logs").exists()
    assert main(["study", "small", "--out", str(out), "--log", "csv"]) == 0
    assert sorted(path.stem for path in (out / "logs" / "csv").iterdir()) == runs
    for run in runs:
        assert curves_of(out, run) == recorded(out, run)
    fresh = tmp_path / "fresh"
    assert main(["study", "small", "--out", str(fresh), "--log", "csv"]) == 0
    assert sorted(path.stem for path in (fresh / "logs" / "csv").iterdir()) == runs
    capsys.readouterr()


def test_a_logger_that_breaks_is_said_and_the_run_goes_on(tmp_path, capsys):
    (tmp_path / "logs").write_text("a file where a folder should be")
    assert main([*TRAIN, "--out", str(tmp_path), "--log", "csv"]) == 0
    said = capsys.readouterr()
    assert "run: " in said.out
    assert said.err.count("log csv failed and is left out") == 1


@pytest.mark.parametrize("words", [["train"], ["study", "small"]])
def test_a_logger_that_is_not_installed_is_refused_before_training(
    words, in_process, tmp_path, refused, monkeypatch
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    said = refused(*words, "--out", tmp_path, "--log", "wandb")
    assert 'pip install "polyak[wandb]"' in said
    assert not (tmp_path / "runs").exists()
