import errno
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

import polyak
from polyak.cli.commands.study import Where
from polyak.cli.main import main
from polyak.cli.options.machines import Machines
from polyak.errors import DataError
from polyak.files import write_json
from polyak.records.locks import holding
from polyak.records.runs import run_folder
from polyak.records.studies import read_study
from polyak.report.sections.claims import write_ledger
from polyak.study.paper.presets import PAPER_STUDIES
from polyak.study.paper.scales import SCALES

COMMANDS = (
    [],
    ["demo"],
    ["study"],
    ["status"],
    ["train"],
    ["report"],
    ["list"],
    ["data"],
    ["data", "prepare"],
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself_on_stdout(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    said = capsys.readouterr()
    assert "usage: polyak" in said.out
    assert said.err == ""


def test_the_help_of_train_shows_every_part_of_a_run(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    out = capsys.readouterr().out
    for flag in ("--data.source", "--model.name", "--optim.lr", "--averaging.decays", "--epochs"):
        assert flag in out


@pytest.mark.parametrize(
    "arguments", [["stduy", "demo"], [], ["train", "--epochs", "many"], ["list", "x"]]
)
def test_a_command_line_that_cannot_be_read_is_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err


def test_the_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"polyak {polyak.__version__}\n"


def test_list_shows_studies_with_runs_and_cost_and_the_models(capsys):
    assert main(["list"]) == 0
    said = capsys.readouterr()
    assert "demo" in said.out
    assert "runs, under three minutes" in said.out
    assert "resnet18" in said.out
    assert said.err == ""


def test_a_study_without_a_name_is_code_2_with_the_choices(capsys):
    assert main(["study"]) == 2
    assert "expected one of demo, table1" in capsys.readouterr().err


def test_a_study_file_is_written_read_and_listed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["study", "--init", "mine.py"]) == 0
    assert main(["study", "mine.py", "--dry-run"]) == 0
    assert "9 runs in all" in capsys.readouterr().out
    assert main(["study", "mine.py", "--scale", "tiny"]) == 2
    assert "expected none for 'mine.py'" in capsys.readouterr().err


def test_an_unknown_study_is_code_2_with_the_nearest_on_stderr(capsys):
    assert main(["study", "dmeo"]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("polyak: study is 'dmeo'; expected one of demo")
    assert "Did you mean 'demo'?" in said.err
    assert said.out == ""


def test_a_dry_run_lists_the_runs_and_leaves_nothing(in_process, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["study", "small", "--dry-run"]) == 0
    run, last = capsys.readouterr().out.splitlines()
    name, words = run.split("  ")
    assert words == "small digits: digits resnet8 search lr 0.1 seed 0"
    assert last == "2 runs in all, refits, follow-ups and probes included; moments"
    assert list(tmp_path.iterdir()) == []
    # The ids are those of the runs that come.
    assert main(["study", "small", "--out", "out"]) == 0
    assert name in {folder.name for folder in (tmp_path / "out" / "runs").iterdir()}


def test_list_shows_every_preset_at_every_scale_with_runs_and_cost(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in PAPER_STUDIES:
        at = next(i for i, line in enumerate(lines) if line.startswith(f"  {name} "))
        for scale, line in zip(SCALES, lines[at + 1 :], strict=False):
            assert re.match(
                rf"    {scale} +\d+ runs, about .* on (one core|two cores), .* on one GPU$", line
            )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table1"], "expected one of paper (about"),
        (["table1", "--scale", "tinny"], "scale is 'tinny'"),
        (["table1", "--scale", "tiny", "--data", "cifar=x"], "Did you mean 'cifar10'?"),
        (["table1", "--scale", "tiny", "--data", "cifar10"], "expected NAME=SOURCE"),
        (["demo", "--scale", "tiny"], "expected none for study 'demo'"),
        (["tabel1", "--scale", "tiny"], "Did you mean 'table1'?"),
    ],
)
def test_scales_and_places_that_cannot_be_are_code_2(arguments, message, capsys):
    assert main(["study", *arguments]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.out == ""


def test_a_dry_run_without_the_data_says_which_to_give(tmp_path, capsys, monkeypatch):
    """The hub is out of reach, and two places were given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("polyak.data.formats.tables._library", _no_hub)
    given = ["--data", "cifar10=digits", "--data", "tiny-imagenet=digits"]
    command = ["study", "table1", "--scale", "tiny", *given]
    assert main([*command, "--dry-run"]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert sum(line.startswith("data missing") for line in lines) == 8
    assert sum(re.match("[0-9a-f]{12}  digits for ", line) is not None for line in lines) == 4
    assert said.err.count("--data cifar100=FOLDER") == 1
    # In earnest nothing begins.
    assert main(command) == 2
    said = capsys.readouterr()
    assert "--data cifar100=FOLDER" in said.err
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []


def _no_hub():
    raise DataError("the hub cannot be reached.")


def test_the_scale_and_what_was_put_in_are_in_the_record(
    in_process, small, tmp_path, capsys, monkeypatch
):
    """So that the page says what to type again."""
    named = replace(small, name="table1-tiny")
    monkeypatch.setattr(
        "polyak.cli.commands.study.preset", lambda name, scale, places, controls: named
    )
    given = ["--scale", "tiny", "--data", "cifar10=my data"]
    assert main(["study", "table1", *given, "--out", str(tmp_path)]) == 0
    record = read_study(tmp_path / "table1-tiny")
    words = ["polyak", "study", "table1", *given, "--out", str(tmp_path)]
    assert record.command == shlex.join(words)
    assert capsys.readouterr().out.splitlines()[1].endswith("table1-tiny/page")


def test_what_to_type_again_names_what_is_not_the_default():
    where = Where(out=Path("my out"), machines=Machines(device="cuda", executor="ray"))
    assert where.words() == ["--out", "my out", "--device", "cuda", "--executor", "ray"]
    assert Where().words() == []


def test_a_name_beside_init_is_refused(tmp_path, refused):
    said = refused("study", "mine.py", "--init", tmp_path / "mine2.py")
    assert "name is 'mine.py' and init is" in said
    assert list(tmp_path.iterdir()) == []


def test_a_study_is_carried_through_and_counted_on_stdout(in_process, tmp_path, capsys):
    command = ["study", "small", "--out", str(tmp_path)]
    assert main(command) == 0
    said = capsys.readouterr()
    done, report = said.out.splitlines()
    assert done.startswith("done 2  skipped 0  diverged 0  failed 0  in ")
    assert report == f"report: {(tmp_path / 'small' / 'page').resolve()}"
    assert "search 1/1  digits resnet8 search lr 0.1 seed 0  done in" in said.err
    # The same command again does nothing.
    assert main(command) == 0
    assert capsys.readouterr().out.startswith("done 0  skipped 2")


def test_a_failed_run_is_code_1_and_can_be_repeated_alone(
    in_process, tmp_path, capsys, monkeypatch
):
    def fails(*_args, **_kwargs):
        raise ZeroDivisionError("the bug")

    with monkeypatch.context() as patch:
        patch.setattr("polyak.training.jobs._train", fails)
        assert main(["study", "small", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "failed 1" in said.out
    assert f"failed: {tmp_path}" in said.err
    assert "the bug" in said.err
    (folder,) = (tmp_path / "runs").iterdir()
    assert run_folder(tmp_path, folder.name).failure == "Traceback: of a test\nthe bug"
    (command,) = re.findall(r"  alone: polyak (.*)", said.err)
    assert main(shlex.split(command)) == 0
    assert capsys.readouterr().out.endswith(f"run: {folder.resolve()}\n")
    assert run_folder(tmp_path, folder.name).ending == "done"
    assert run_folder(tmp_path, folder.name).failure is None
    # The study takes it as it is.
    assert main(["study", "small", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("done 1  skipped 1")


def test_a_configuration_from_a_file_and_settings_are_code_2(in_process, tmp_path, capsys):
    assert main(["train", "--config", str(tmp_path / "absent.json")]) == 2
    assert "absent.json cannot be read" in capsys.readouterr().err
    assert main(["train", "--config", str(tmp_path / "absent.json"), "--epochs", "3"]) == 2
    assert "expected one or the other" in capsys.readouterr().err


def test_a_second_process_on_a_study_is_code_2_and_loses_nothing(in_process, tmp_path, capsys):
    (tmp_path / "small").mkdir()
    with holding(tmp_path / "small"):
        assert main(["study", "small", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert f"{tmp_path / 'small'} is held by process {os.getpid()}" in said.err
    assert "Wait for it, or stop it" in said.err
    assert not (tmp_path / "runs").exists()
    assert main(["study", "small", "--out", str(tmp_path)]) == 0


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("what", ["plan.json", "choices.json", "page"])
def test_a_disk_that_takes_no_more_is_code_2_and_the_same_command_goes_on(
    in_process, tmp_path, capsys, monkeypatch, code, what
):
    def full(*arguments, **_options):
        if what == "page" or Path(arguments[0]).name == what:
            raise OSError(code, os.strerror(code), str(tmp_path / what))
        write_json(*arguments)

    with monkeypatch.context() as patch:
        written = "polyak.report.page.write_report" if what == "page" else "polyak.records.checked"
        patch.setattr(written if what == "page" else f"{written}.write_json", full)
        assert main(["study", "small", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert re.search(
        rf"polyak: {tmp_path / what} cannot be .*written \({os.strerror(code)}\)", said
    )
    assert "it goes on where it was" in said
    assert main(["study", "small", "--out", str(tmp_path)]) == 0
    assert "failed 0" in capsys.readouterr().out


def test_another_fault_of_the_system_keeps_its_traceback(in_process, tmp_path, monkeypatch):
    def fault(*_args):
        raise OSError(errno.EINVAL, "a bug")

    monkeypatch.setattr("polyak.report.page.write_report", fault)
    with pytest.raises(OSError, match="a bug"):
        main(["study", "small", "--out", str(tmp_path)])


def test_a_row_all_of_whose_rates_diverge_is_code_1_and_says_what_to_do(
    in_process, small, tmp_path, capsys, monkeypatch
):
    from polyak.study.paper import presets

    absurd = replace(small, rows=(replace(small.rows[0], learning_rates=(1e30,)),))
    monkeypatch.setitem(presets.PRESETS, "small", lambda: absurd)
    assert main(["study", "small", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "diverged 1  failed 0" in said.out
    assert "no result for small digits: every learning rate of [1e+30]" in said.err
    assert "Search smaller learning rates" in said.err


def test_ctrl_c_is_code_130_and_says_that_the_same_command_goes_on(
    in_process, tmp_path, capsys, monkeypatch
):
    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("polyak.training.jobs._train", interrupted)
        assert main(["study", "small", "--out", str(tmp_path)]) == 130
    said = capsys.readouterr()
    assert "the same command goes on where it was" in said.err
    assert said.out == ""
    assert main(["study", "small", "--out", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "0"], "workers is 0; expected >= 1"),
        (["--workers", "-2"], "workers is -2; expected >= 1"),
        (["--device", "cdua"], "device is 'cdua', which cannot be used"),
        (["--address", "auto"], "expected none of them with executor 'local'"),
        (["--gpus-per-run", "0.5"], "expected none of them with executor 'local'"),
        (["--executor", "ray", "--workers", "2"], "the cluster decides"),
        (["--executor", "ray", "--cpus-per-run", "0"], "cpus_per_run is 0.0; expected > 0"),
        (["--executor", "ray", "--device", "cuda"], "expected cuda with a share > 0"),
        (["--executor", "ray", "--gpus-per-run", "1"], "expected cuda with a share > 0"),
    ],
)
def test_settings_that_cannot_be_are_code_2_before_anything_runs(
    in_process, tmp_path, capsys, options, message
):
    assert main(["study", "small", "--out", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("device", "workers", "expected"),
    [("cpu", None, 16), ("cuda", None, 1), ("cuda:1", None, 1), ("cuda", 3, 3)],
)
def test_a_card_has_one_run_at_a_time_unless_told_and_a_cpu_one_for_each_core(
    monkeypatch, device, workers, expected
):
    monkeypatch.setattr("polyak.cli.options.machines.usable_device", lambda name: None)
    monkeypatch.setattr("polyak.cli.options.machines.available_cores", lambda: 16)
    with Machines(device=device, workers=workers).ready() as (_executor, found):
        assert found == expected


def test_data_prepare_says_what_the_data_is(capsys):
    command = ["data", "prepare", "--source", "digits"]
    assert main(command) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "digits: 1437 training and 360 test images of 1×8×8, 10 classes"
    name, fingerprint = said[1].split(": ")
    assert name == "fingerprint"
    assert len(fingerprint) == 64
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines() == said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--source", "dgits"], "Did you mean 'digits'?"),
        (["--test-split", "1.5", "--resize", "-1"], "test_split is 1.5; expected 0 < test_split"),
        (["--test-split", "1.5", "--resize", "-1"], "resize is -1"),
        (["--noise.kind", "symmetric", "--noise.rate", "0.4"], "drawn noise is a run's"),
        (["--noise.kind", "symmetric"], "noise.rate is 0.0; expected 0 < rate <= 1 where kind is"),
    ],
)
def test_data_that_cannot_be_is_code_2(capsys, options, message):
    assert main(["data", "prepare", *options]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.out == ""


def test_data_prepare_says_what_was_found_and_what_was_left_out(tmp_path, capsys):
    value = count(1)
    for name, n in (("cat", 3), ("dog", 5)):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(n):
            content = b"P6 2 2 255\n" + bytes([next(value)]) * 12
            (tmp_path / "pets" / name / f"{i}.ppm").write_bytes(content)
    (tmp_path / "pets" / "cat" / "notes.txt").write_text("x")
    (tmp_path / "pets" / "README.md").write_text("x")
    command = ["data", "prepare", "--source", str(tmp_path / "pets"), "--test-split", "0.25"]
    for _ in range(2):
        assert main([*command, "--resize", "4"]) == 0
        said = capsys.readouterr().out.splitlines()
        assert said[0] == "pets: 6 training and 2 test images of 3×4×4, 2 classes"
        assert said[2:] == [
            "train: cat 2, dog 4",
            "test: 2 classes × 1 images",
            "left out: 'README.md', which is no folder of pictures",
            "left out of train: 1 files that are no pictures",
            "8 images of 1 sizes are resized to 4×4 (shorter-side-crop)",
            "2 of 8 images were set apart as the test set (test_split)",
        ]


def test_a_run_of_pictures_of_several_sizes_without_a_test_set(tmp_path, capsys, monkeypatch):
    """From folders as people have them to numbers, in one command."""
    monkeypatch.chdir(tmp_path)
    for i in range(24):
        place = tmp_path / "pets" / ("cat", "dog")[i % 2] / f"{i}.ppm"
        place.parent.mkdir(parents=True, exist_ok=True)
        w, h = 12 + i % 3, 12
        place.write_bytes(b"P6 %d %d 255\n" % (w, h) + bytes((i * 10 % 256,)) * (w * h * 3))
    data = "--data.source pets --data.test-split 0.25 --data.resize 12"
    size = "--model.name resnet8 --model.width 4 --epochs 1 --optim.warmup-epochs 0.5"
    assert main(["train", *data.split(), *size.split(), "--averaging.every", "1"]) == 0
    assert "ema_" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--train-limit", "--test-limit", "--holdout", "--crop-padding"])
def test_data_prepare_does_not_take_what_it_would_ignore(capsys, option):
    with pytest.raises(SystemExit) as ended:
        main(["data", "prepare", option, "1"])
    assert ended.value.code == 2
    assert option in capsys.readouterr().err


def test_report_of_a_folder_without_a_study_is_code_2(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no study" in capsys.readouterr().err


def test_report_finds_a_study_also_from_inside_its_folder(tmp_path, capsys, monkeypatch):
    asked = []

    def write(out: Path, name: str, *, study: tuple[Path, str]) -> Path:
        assert study == (out, name)
        asked.append(study)
        write_ledger(out / name, [])
        return out / name / "page"

    monkeypatch.setattr("polyak.cli.commands.report.load_study", lambda out, name: (out, name))
    monkeypatch.setattr("polyak.cli.commands.report.write_report", write)
    (tmp_path / "small").mkdir()
    monkeypatch.chdir(tmp_path / "small")
    for folder in (".", str(tmp_path / "small"), "../small/"):
        assert main(["report", folder]) == 0
    assert asked == [(tmp_path.resolve(), "small")] * 3
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("report: ")
    assert said[1].startswith("claims: 0 reproduced")


@pytest.mark.skipif(not hasattr(signal, "SIGTERM"), reason="needs signals")
def test_sigterm_is_code_143(tmp_path):
    """Told in the middle of a run, the command ends as by Ctrl-C."""
    source = str(Path(polyak.__file__).resolve().parents[1])
    options = "--data.source digits --model.width 4 --epochs 2000 --out out"
    program = "from polyak.cli.main import entry; entry()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "train", *options.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": source},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    started = time.monotonic()
    while not list(tmp_path.glob("out/runs/*/log.jsonl")):
        assert process.poll() is None
        assert time.monotonic() - started < 60
        time.sleep(0.05)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "the same command goes on" in err
    assert not list(tmp_path.glob("out/runs/*/.*"))
    assert not list(tmp_path.glob("out/runs/*/LOCK"))
    assert list(tmp_path.glob("out/runs/*/checkpoint/at-*"))
