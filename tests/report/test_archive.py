"""What is kept of a study agrees with its files, and holds nothing large."""

import csv
import re
from pathlib import Path

import pytest

from polyak.analysis.results import study_results
from polyak.errors import FileError
from polyak.records.runs import run_folder
from polyak.records.studies import read_study
from polyak.report import facts
from polyak.report.archive import _without_paths, write_archive


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
        for r in study_results(out, study)
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
    assert names <= {run for row in study.rows for run in facts.all_runs(row)}


def test_paths_of_this_machine_stay_behind():
    config = {
        "data": {"source": "/home/me/pics", "noise": {"file": "/x/labels.pt"}},
        "n": [1, "a/b"],
    }
    shortened = {"data": {"source": "pics", "noise": {"file": "labels.pt"}}, "n": [1, "a/b"]}
    assert _without_paths(config) == shortened


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
