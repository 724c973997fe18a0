import json

import pytest
from rich.console import Console
from rich.text import Text

from polyak.cli.main import main
from polyak.records.locks import holding


def test_status_shows_every_run_of_every_study(in_process, tmp_path, capsys):
    assert main(["study", "small", "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    assert main(["status", str(tmp_path)]) == 0
    heading, columns, *rows = capsys.readouterr().out.splitlines()
    assert heading == "small (A small study): 2 done"
    # Nothing is at work: no checkpoint and no time left.
    assert columns.split() == ["run", "state", "epoch", "best", "average", "what"]
    assert {row.split()[0] for row in rows} == {p.name for p in (tmp_path / "runs").iterdir()}
    assert "2/2" in rows[0]
    assert "ema_0.9 @" in rows[0]
    assert "digits resnet8 search lr 0.1 seed 0" in rows[0]
    assert "digits resnet8 refit lr 0.1 seed 0" in rows[1]


def test_status_tells_who_works_and_what_is_wrong(in_process, tmp_path, capsys):
    assert main(["study", "small", "--out", str(tmp_path)]) == 0
    one, other = sorted((tmp_path / "runs").iterdir())
    (one / "DONE").unlink()
    (other / "log.jsonl").write_text("{")
    (tmp_path / "hurt").mkdir()
    (tmp_path / "hurt" / "plan.json").write_text("{")
    capsys.readouterr()
    with holding(one):
        pid = json.loads((one / "LOCK").read_text())["pid"]
        assert main(["status", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "hurt: damaged: " in said
    assert "small (A small study): 1 running, 1 damaged" in said
    assert f"process {pid} on " in said
    assert f"line 1 of {other / 'log.jsonl'}" in said.replace("\n", "")


@pytest.mark.parametrize("width", [80, 200])
def test_a_long_error_takes_no_column_from_the_table(
    in_process, tmp_path, capsys, monkeypatch, width
):
    assert main(["study", "small", "--out", str(tmp_path)]) == 0
    one, other = sorted((tmp_path / "runs").iterdir())
    (one / "DONE").unlink()
    text = "ValueError: " + "so many words " * 30
    (one / "FAILED").write_text(f"Traceback\n{text}\n")
    monkeypatch.setattr(
        "polyak.cli.commands.status.Console", lambda **_: Console(force_terminal=True, width=width)
    )
    capsys.readouterr()
    assert main(["status", str(tmp_path)]) == 0
    said = Text.from_ansi(capsys.readouterr().out).plain
    rows = {line.split()[0]: line for line in said.splitlines() if line.strip()}
    for run, state in ((one, "failed"), (other, "done")):
        assert rows[run.name].split()[1:3] == [state, "2/2"]
        assert max(len(rows[run.name]), len(rows["run"])) <= width
    # The error comes below, whole.
    assert " ".join(text.split()) in " ".join(said.split())
    assert said.index(f"{one.name}: ValueError") > max(
        said.index(f"{run.name} ") for run in (one, other)
    )


def test_status_of_a_folder_without_runs_is_code_2(tmp_path, capsys):
    assert main(["status", str(tmp_path)]) == 2
    assert "holds no study and no run" in capsys.readouterr().err


def test_watching_looks_again_until_ctrl_c(in_process, tmp_path, capsys, monkeypatch):
    assert main(["study", "small", "--out", str(tmp_path)]) == 0
    one, _ = sorted((tmp_path / "runs").iterdir())
    capsys.readouterr()
    looks = []

    def sleep(_seconds):
        if looks:
            raise KeyboardInterrupt
        looks.append(1)
        (one / "DONE").unlink()

    monkeypatch.setattr("polyak.cli.commands.status.time.sleep", sleep)
    monkeypatch.setattr(
        "polyak.cli.commands.status.Console",
        lambda **_: Console(force_terminal=True, width=150, height=40),
    )
    assert main(["status", str(tmp_path), "--watch"]) == 0
    said = capsys.readouterr().out
    assert "2 done" in said
    assert "1 done, 1 interrupted" in said
