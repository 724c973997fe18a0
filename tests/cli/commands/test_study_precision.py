"""What a study is computed in, from the command line to the page."""

from polyak.analysis.loaded import load_recorded_study
from polyak.cli.main import main
from polyak.records.runs import run_folder
from polyak.records.studies import read_study
from polyak.report.facts import settings
from polyak.training import faster_precision


def test_a_precision_that_is_chosen_is_recorded_shown_and_kept(
    in_process, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(faster_precision, "_share", lambda *_: 0.5)
    words = ["--precision", "auto"]
    assert main(["study", "small", *words, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "failed 0" in said.out
    reason = "precision auto: bfloat16, since a step in bfloat16 takes 0.50 of one in float32"
    assert reason in said.err
    study = read_study(tmp_path / "small")
    assert study.command == f"polyak study small {' '.join(words)} --out {tmp_path}"
    (row,) = study.rows
    for run_id in (*row.chosen_search.values(), *row.refit.values()):
        assert run_folder(tmp_path, run_id).config()["precision"] == "bfloat16"
    [loaded] = load_recorded_study(tmp_path, study).rows
    assert dict(settings(loaded))["computed in"].startswith("bfloat16; weights")
    # A machine on which it does not pay goes on with what was begun.
    monkeypatch.setattr(faster_precision, "_share", None)
    assert main(["study", "small", *words, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "precision auto: bfloat16, as the run was begun" in said.err
    assert "done 0" in said.out
