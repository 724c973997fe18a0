"""What a page reads: each file of a run once, and none after the study is loaded."""

import ast
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import polyak.report
from polyak.analysis import loaded
from polyak.analysis.results import all_runs
from polyak.cli.main import main
from polyak.records import evaluations
from polyak.records.predictions import Predictions
from polyak.records.runs import run_folder
from polyak.records.studies import write_study
from polyak.report.archive import write_archive
from polyak.report.page import write_report

_OPENED: list[Counter[str]] = []


def _note(event, args):
    if event == "open" and _OPENED and isinstance(args[0], str):
        _OPENED[-1][args[0]] += 1


sys.addaudithook(_note)  # cannot be taken away again; it does nothing while nobody counts


@contextmanager
def counted_opens():
    """How often each file is opened by Python in the block."""
    counter: Counter[str] = Counter()
    _OPENED.append(counter)
    try:
        yield counter
    finally:
        _OPENED.remove(counter)


def keep(out, name):
    write_archive(out, name, out / "kept")


def report_and_keep(out, name):
    assert main(["report", str(out / name), "--keep", str(out / "kept")]) == 0


@pytest.fixture(scope="module")
def many_sided(written_by_hand, tmp_path_factory):
    """A study with everything that looks at a log: rates, stops, follow-ups, a variation."""
    out = tmp_path_factory.mktemp("read")
    row = written_by_hand.row(out, "toy row")
    held = {
        seed: written_by_hand.run(out, f"held{seed}", seed=int(seed), holdout=True)
        for seed in row.refit
    }
    base = replace(
        row,
        dataset="CIFAR-100",
        architecture="ResNet-18",
        follow_ups={"held": held, "annealed": row.refit},
        variants=True,
    )
    other = written_by_hand.row(out, "toy row, warmer", against="toy row")
    return out, base, other


@pytest.mark.parametrize(
    ("write", "preset"),
    [
        (write_report, "figure1"),
        (write_report, "app-b"),
        (write_report, "app-e2"),
        (keep, "app-a"),
        (report_and_keep, "app-a"),
    ],
)
def test_a_page_reads_each_log_and_each_file_of_predictions_once(
    toy, many_sided, monkeypatch, preset, write
):
    out, *rows = many_sided
    record = replace(toy[1], name="mine", rows=tuple(rows), preset=preset, scale="tiny")
    write_study(out / "mine", record)
    read: Counter[Path] = Counter()

    class Counted(Predictions):
        def __init__(self, path: Path, later: Path | None = None) -> None:
            read[path] += 1
            super().__init__(path, later)

    monkeypatch.setattr(loaded, "Predictions", Counted)
    monkeypatch.setattr(evaluations, "Predictions", Counted)
    monkeypatch.setattr("polyak.report.page.write_svg", lambda chart, path: None)
    with counted_opens() as opened:
        write(out, "mine")
    runs = {run_folder(out, run_id) for row in rows for run_id in all_runs(row)}
    for name in ("log.jsonl", "monitor.jsonl", "config.json"):
        here = {str(run.path / name) for run in runs if (run.path / name).exists()}
        assert len(here) >= 12
        assert {path: opened[path] for path in here} == dict.fromkeys(here, 1)
    assert set(read.values()) == {1}
    assert {path.parent.name for path in read} >= {
        run_id for row in rows for run_id in (*row.refit.values(), *row.transfer.values())
    }


REPORT = Path(polyak.report.__file__).parent
FILES = sorted(REPORT.rglob("*.py"))
DOORS = {"write_report", "write_archive"}
READERS = {"run_folder", "RunFolder", "Predictions", "read_timings", "read_study"}
"""What opens a run's or a study's files."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPORT)))
def test_no_function_takes_an_output_folder_but_the_doors(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    taking = {
        function.name
        for function in functions
        for argument in (*function.args.args, *function.args.kwonlyargs)
        if argument.arg in ("out", "out_folder", "output")
    }
    assert taking <= DOORS
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert not imported & READERS
