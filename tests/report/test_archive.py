"""What is kept of a study agrees with its files, and holds nothing large."""

import csv
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support.small_study import write_again

from polyak.analysis.loaded import load_recorded_study
from polyak.analysis.results import all_runs
from polyak.errors import FileError
from polyak.records.runs import Score, run_folder
from polyak.records.studies import StudyRecord, read_study, write_study
from polyak.report.archive import _source, _without_paths, write_archive


@pytest.fixture(scope="module")
def kept(toy, tmp_path_factory) -> Path:
    out, study = toy
    folder = tmp_path_factory.mktemp("kept")
    write_archive(out, study.name, folder)
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_results_are_those_of_the_page(toy, kept):
    out, study = toy
    found = {tuple(line.values())[:-1]: float(line["value"]) for line in rows(kept / "results.csv")}
    wanted = {
        (r.row, r.phase, r.target, r.arm, r.seed, r.metric): r.value
        for r in load_recorded_study(out, study).results
    }
    assert found == pytest.approx(wanted, nan_ok=True)


def test_curves_hold_every_score_of_every_run_once(toy, kept):
    out, study = toy
    lines = rows(kept / "curves.csv")
    keys = [(line["run"], line["epoch"], line["part"], line["weights"]) for line in lines]
    assert len(set(keys)) == len(keys)
    for run_id in (*study.rows[0].search["0.1"].values(), *study.rows[0].refit.values()):
        folder = run_folder(out, run_id)
        own = [line for line in lines if line["run"] == run_id]
        records = folder.epochs()
        monitored = folder.monitors()
        assert len(own) == sum(1 + len(record.holdout) for record in records) + sum(
            len(record.scores) for record in monitored
        )
        last = records[-1]
        (sgd,) = [x for x in own if x["part"] == "train" and int(x["epoch"]) == last.epoch]
        assert float(sgd["loss"]) == last.train.loss


def test_plan_choices_and_configurations_come_along(toy, kept):
    _, study = toy
    assert read_study(kept) == study
    names = {path.stem for path in (kept / "configs").iterdir()}
    assert names <= {run for row in study.rows for run in all_runs(row)}


def test_paths_of_this_machine_stay_behind():
    config = {
        "data": {"source": "/home/me/pics", "noise": {"file": "/x/labels.pt"}},
        "n": [1, "a/b"],
    }
    shortened = {"data": {"source": "pics", "noise": {"file": "labels.pt"}}, "n": [1, "a/b"]}
    assert _without_paths(config) == shortened


def test_curves_hold_the_scores_that_select_under_bn_safe(toy, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(toy[0], out)
    study = toy[1]
    (run_id, *_) = study.rows[0].search["0.1"].values()
    folder = run_folder(out, run_id)
    recomputed = {"ema_0.5": Score(0.5, 0.25)}
    records = [replace(record, holdout_bn=recomputed) for record in folder.epochs()]
    write_again(folder, epochs=records)
    write_archive(out, study.name, tmp_path / "kept")
    own = [
        (int(line["epoch"]), line["weights"], float(line["accuracy"]), float(line["loss"]))
        for line in rows(tmp_path / "kept" / "curves.csv")
        if (line["run"], line["part"]) == (run_id, "holdout_bn")
    ]
    assert own == [(record.epoch, "ema_0.5", 0.25, 0.5) for record in folder.epochs()]


@pytest.mark.parametrize(
    ("preset", "source", "kept"),
    [
        (None, "../../secret/study.py", "study.py"),
        (None, None, None),
        ("table1", "cifar10=/secret/pics cifar10n=/secret/a.pt", "cifar10=pics cifar10n=a.pt"),
    ],
)
def test_what_defines_a_study_is_kept_without_folders(preset, source, kept):
    given = {"preset": preset, "source": source}
    assert _source(StudyRecord(name="x", title="", command="", rows=(), **given)) == kept


def test_no_kept_file_holds_a_path_of_this_machine(toy, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(toy[0], out)
    study = toy[1]
    command = "polyak study /secret/me/fol.py --data 'x=/secret/my data' --out=/secret/out"
    failed = replace(study.rows[0], failure="/secret/runs/abc is damaged (see '/secret/log').")
    source, rows = "../../secret/fol.py", (failed, *study.rows[1:])
    changed = replace(study, command=command, source=source, rows=rows)
    write_study(out / study.name, changed)
    write_archive(out, study.name, tmp_path / "kept")
    kept = read_study(tmp_path / "kept")
    assert kept.command == "polyak study fol.py --data 'x=my data' --out=out"
    assert kept.source == "fol.py"
    assert kept.rows[0].failure == "abc is damaged (see 'log')."
    files = [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    assert {"plan.json", "choices.json", "index.html"} <= {path.name for path in files}
    assert [path for path in files if b"/secret" in path.read_bytes()] == []
    # What was kept from stays as it was.
    assert read_study(out / study.name) == changed


def test_the_page_shows_its_figures_as_pictures_and_is_small(kept):
    page = (kept / "index.html").read_text()
    shown = re.findall(r'<img src="(figures/[^"]+)"', page)
    assert shown
    assert all((kept / path).is_file() for path in shown)
    assert len(page) < 300_000
    assert "<script" not in page


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(FileError, match="holds no study"):
        write_archive(tmp_path, "none", tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
