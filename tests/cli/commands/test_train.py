import re
from dataclasses import fields

import pytest

from polyak import checksums
from polyak.cli.commands.train import BESIDE_A_FILE, TrainCommand
from polyak.cli.main import main
from polyak.metrics import accuracy
from polyak.records.locks import holding
from polyak.records.predictions import Predictions
from polyak.records.runs import RunFolder
from polyak.training import faster_precision

DATA = "--data.source digits --data.train-limit 90 --data.test-limit 60".split()  # noqa: SIM905 (as typed)
REST = "--model.width 4 --epochs 2 --batch-size 45 --optim.lr 0.1 --optim.warmup-epochs 1".split()  # noqa: SIM905
BANK = "--averaging.decays 0.5 0.9 --averaging.every 1".split()  # noqa: SIM905
TINY = ["train", *DATA, *REST, *BANK]


def test_train_shows_epochs_on_stderr_and_the_arms_on_stdout(tmp_path, capsys):
    assert main([*TINY, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "1/2" in said.err
    assert "2/2" in said.err
    heading, *rows, last = said.out.splitlines()
    assert heading.split() == ["arm", "test", "accuracy", "test", "loss"]
    (folder,) = (tmp_path / "runs").iterdir()
    assert last == f"run: {folder.resolve()}"
    predictions = Predictions(folder / "predictions.safetensors")
    shown = {row.split()[0]: row.split()[1] for row in rows}
    assert shown == {
        arm: format(
            accuracy(predictions.logits_nk("test", arm), predictions.labels_n("test")), ".2%"
        )
        for arm in predictions.arms("test")
    }
    # Again: nothing is trained, the table is the same.
    assert main([*TINY, "--out", str(tmp_path)]) == 0
    again = capsys.readouterr()
    assert again.out == said.out
    assert "2/2" not in again.err


def test_a_run_that_diverges_is_code_1_and_says_what_to_lower(tmp_path, capsys):
    assert main([*TINY, "--optim.lr", "1e30", "--out", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert re.fullmatch(r"diverged in epoch [12]; lower --optim.lr \(it is 1e\+30\)\n", out)


def test_all_faults_come_at_once_with_code_2(tmp_path, capsys):
    faults = "--model.name resnet19 --optim.lr -1 --data.holdout 2 --epochs 0"
    assert main([*TINY, *faults.split(), "--out", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    for part in ("Did you mean 'resnet18'?", "lr is -1.0", "holdout is 2.0", "epochs is 0"):
        assert part in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--data.source digit", "Did you mean 'digits'?"),
        ("--device cdua", "device is 'cdua'"),
        ("--data.train-limit 100000", "train_limit is 100000; expected at most 1437"),
    ],
)
def test_what_cannot_be_is_code_2(tmp_path, capsys, options, message):
    assert main([*TINY, *options.split(), "--out", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.out == ""


@pytest.mark.parametrize(
    "settings",
    [["--epochs", "200"], ["--epochs=200"], ["--batch_size=128"], ["--no-fp32"], ["--holdout"]],
)
def test_a_setting_beside_a_file_is_refused_even_at_its_default(tmp_path, capsys, settings):
    assert main([*TINY, "--out", str(tmp_path)]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    alone = ["train", "--config", str(folder / "config.json"), "--out", str(tmp_path)]
    alone += ["--device", "cpu", "--time-limit=9m"]
    assert main(alone) == 0
    capsys.readouterr()
    assert main([*alone, *settings]) == 2
    said = capsys.readouterr()
    flag = settings[0].split("=")[0].replace("_", "-")
    assert f"{flag} is given too; expected one or the other" in said.err
    assert said.out == ""


def test_every_flag_of_train_that_is_no_setting_goes_with_a_file():
    own = {field.name for field in fields(TrainCommand)} - {"config"}
    flags = {"config" if name == "from_file" else name for name in own}
    assert {"--" + name.replace("_", "-") for name in flags} == set(BESIDE_A_FILE)


def test_a_time_limit_is_code_75_and_the_same_command_goes_on(tmp_path, capsys, monkeypatch):
    """The clock of the limit is at its end when the first step is over."""
    command = [*TINY, "--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr("polyak.training.interruption.before_limit", lambda seconds: 0.0)
        assert main([*command, "--time-limit", "9m"]) == 75
    said = capsys.readouterr()
    assert "stopped at the time limit; the same command goes on where it was" in said.err
    assert said.out == ""
    (folder,) = (tmp_path / "runs").iterdir()
    assert [path.stem for path in (folder / "checkpoint").iterdir()] == ["at-0000-00001"]
    assert main([*command, "--time-limit", "9m"]) == 0
    resumed = capsys.readouterr().out.splitlines()[:-1]
    assert not (folder / "checkpoint").exists()
    assert main([*TINY, "--out", str(tmp_path / "other")]) == 0
    assert capsys.readouterr().out.splitlines()[:-1] == resumed


def test_a_run_that_another_process_holds_is_code_2(tmp_path, capsys):
    assert main([*TINY, "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    (folder,) = (tmp_path / "runs").iterdir()
    (folder / "DONE").unlink()
    with holding(folder):
        assert main([*TINY, "--out", str(tmp_path)]) == 2
    assert f"{folder} is held by process" in capsys.readouterr().err
    assert main([*TINY, "--out", str(tmp_path)]) == 0


NET = """
from torch import nn

def build(classes, channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
"""
OWN = [*DATA, "--epochs", "1", "--optim.warmup-epochs", "0.5", *BANK]


def test_a_comment_in_a_networks_file_leaves_its_runs_what_they_were(tmp_path, capsys):
    path = tmp_path / "net.py"
    path.write_text(NET)
    command = ["train", "--model", f"{path}:build", *OWN, "--out", str(tmp_path)]
    assert main(command) == 0
    first = capsys.readouterr().out
    path.write_text(f'"""Mine."""\n{NET}\n# A comment.\ndef another():\n    return 1\n')
    assert main(command) == 0
    assert capsys.readouterr().out == first
    (folder,) = (tmp_path / "runs").iterdir()
    path.write_text(NET.replace("nn.Flatten(), ", "nn.Flatten(), nn.ReLU(), "))
    assert main(["evaluate", str(folder)]) == 2
    assert "changed code is another run" in capsys.readouterr().err
    path.write_text(f"{NET}\n# Another comment.\n")
    assert main(["evaluate", str(folder)]) == 0


def test_a_run_that_an_earlier_version_began_goes_on(tmp_path, capsys):
    """It was named by the checksum of the network's whole file."""
    path = tmp_path / "net.py"
    path.write_text(NET)
    command = ["train", "--model", f"{path}:build", *OWN, "--out", str(tmp_path)]
    assert main([*command, "--model.file-sha256", checksums.of_file(path)]) == 0
    assert main(command) == 0
    assert len(list((tmp_path / "runs").iterdir())) == 1
    assert "1/1" in capsys.readouterr().err


def test_a_network_that_is_refused_leaves_nothing(tmp_path, capsys):
    path = tmp_path / "net.py"
    path.write_text(
        NET.replace("classes)\n", "1)\n").replace("Linear(64, classes)", "Linear(64, 1)")
    )
    out = tmp_path / "out"
    assert main(["train", "--model", f"{path}:build", *OWN, "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "is (16, 1) for 16 images; expected (16, 10), one logit for each class" in said
    assert not out.exists()


def test_epochs_stand_under_headings(tmp_path, capsys):
    assert main([*TINY, "--out", str(tmp_path)]) == 0
    _, heading, first, second, *_ = capsys.readouterr().err.splitlines()
    assert heading.split()[:3] == ["epoch", "rate", "loss"]
    assert len(heading) == len(first) == len(second)


def test_arms_are_shown_as_they_are_evaluated(tmp_path, capsys):
    assert main([*TINY, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr()
    arms = {row.split()[0] for row in said.out.splitlines()[1:-1]}
    lines = said.err.splitlines()[4:]
    heading = f"evaluating {len(arms)} arms on 60 test, 18 hold-out and 72 training images"
    assert lines[0] == heading
    shown = [line.split() for line in lines[1 : len(arms) + 1]]
    assert {words[1].rstrip(",") for words in shown} == arms
    assert shown[0] == [f"1/{len(arms)}", "sgd"]
    assert lines[len(arms) + 1] == "evaluating 8 variants on 60 test and 18 hold-out images"
    # Those that are equal to an arm have no line.
    rest = [line.split() for line in lines[len(arms) + 2 :]]
    assert all(len(words) == 2 and words[0].endswith("/8") for words in rest)
    assert len(rest) < 8


def test_auto_is_settled_before_the_run_has_its_id(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(faster_precision, "_share", lambda *_: 0.5)
    words = [*TINY, "--precision", "auto", "--out", str(tmp_path)]
    assert main(words) == 0
    assert "precision auto: bfloat16, since a step" in capsys.readouterr().err
    (folder,) = (tmp_path / "runs").iterdir()
    assert RunFolder(folder).config()["precision"] == "bfloat16"
    monkeypatch.setattr(faster_precision, "_share", lambda *_: 2.0)
    assert main(words) == 0
    assert "precision auto: bfloat16, as the run was begun" in capsys.readouterr().err
    assert list((tmp_path / "runs").iterdir()) == [folder]
