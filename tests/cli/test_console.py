import io
from dataclasses import replace

import pytest
from rich.console import Console

from polyak.cli.console import (
    HEADINGS,
    StudyDisplay,
    arm_line,
    best_average,
    best_cell,
    decoding_lines,
    epoch_cells,
    evaluation_heading,
    failure_lines,
    in_columns,
    running_cells,
    title,
)
from polyak.records.runs import EpochRecord, Score, run_folder
from polyak.study.runner import Progress
from polyak.training.arms import ArmProgress
from polyak.training.config import ProbeConfig, RunConfig

RUN = RunConfig(epochs=10, batch_size=100)


def _epoch(epoch: int, **holdout: float) -> EpochRecord:
    return EpochRecord(
        epoch=epoch,
        step=5 * epoch,
        learning_rate=0.4,
        train=Score(1.25, 0.5),
        seconds=2.0 * epoch,
        holdout={name: Score(1.0, accuracy) for name, accuracy in holdout.items()},
    )


def test_cells_are_epoch_rate_loss_best_average_speed_and_time_left():
    epochs = [_epoch(1, sgd=0.9, ema=0.5), _epoch(2, sgd=0.9, ema=0.75)]
    # 5 steps of 100 images in 2 s; 8 epochs of 2 s are left.
    assert epoch_cells(epochs, RUN) == ["2/10", "0.4", "1.250", "75.0% ema @2", "250/s", "0:16"]
    assert epoch_cells([], RUN) == ["starting"]


def test_the_best_average_is_the_earliest_and_never_sgd():
    epochs = [_epoch(1, sgd=0.9, a=0.5, b=0.5), _epoch(2, a=0.5, b=0.1)]
    assert best_average(epochs).epoch == 1
    assert best_cell(epochs)[-2:] == "@1"
    for without in ([_epoch(1)], [_epoch(1, sgd=0.9)]):
        assert best_average(without) is None
        assert best_cell(without) == "–"


def test_the_best_average_is_by_the_scores_that_select():
    """Those with recomputed BatchNorm statistics, where a run has them."""
    recomputed = {"sgd": Score(1.0, 0.9), "a": Score(1.0, 0.25), "b": Score(1.0, 0.75)}
    epoch = replace(_epoch(1, sgd=0.9, a=0.5, b=0.125), holdout_bn=recomputed)
    assert best_cell([epoch]) == "75.0% b @1"


def test_long_times_have_hours():
    slow = replace(_epoch(1), seconds=3600.0)
    assert epoch_cells([slow], RUN)[-1] == "9:00:00"


def test_a_run_after_its_last_epoch_is_evaluating():
    epochs = [_epoch(epoch, ema=0.5) for epoch in range(1, 11)]
    assert running_cells(epochs, RUN)[-1] == "evaluating"
    assert running_cells(epochs[:-1], RUN) == epoch_cells(epochs[:-1], RUN)
    assert running_cells([], RUN) == ["starting"]


def test_an_arm_is_shown_with_its_number_and_the_one_that_it_equals():
    images = {"test": 360, "train": 1150, "holdout": 287}
    progress = ArmProgress("arms", "sgd_stopped", 3, 12, images, "images", "sgd")
    assert evaluation_heading(progress) == (
        "evaluating 12 arms on 360 test, 287 hold-out and 1,150 training images"
    )
    assert evaluation_heading(replace(progress, images={"test": 9})).endswith("on 9 test images")
    text = replace(progress, images={"test": 9}, inputs="windows")
    assert evaluation_heading(text).endswith("on 9 test windows")
    assert arm_line(progress) == "     3/12  sgd_stopped, equal to sgd"
    assert arm_line(replace(progress, equal_to=None)) == "     3/12  sgd_stopped"


def test_titles_tell_search_refit_and_probe_apart():
    assert title(RUN) == "digits resnet8 search lr 0.4 seed 0"
    assert "refit" in title(replace(RUN, holdout=False))
    probe = ProbeConfig(data=RUN.data, backbones=(RUN,), arms=("sgd",))
    assert title(probe) == "linear probe on digits"


def test_failures_are_shown_with_folder_last_lines_and_the_command_for_one_alone(tmp_path):
    text = "Traceback\n  one\n  two\n  three\nValueError: four\n"
    lines = failure_lines({"abc": text}, tmp_path, device="cuda")
    folder = tmp_path / "runs" / "abc"
    assert lines[0] == f"failed: {folder}"
    assert lines[-2] == "  ValueError: four"
    assert lines[-1] == (
        f"  alone: polyak train --config {folder}/config.json --out {tmp_path} --device cuda"
    )
    assert len(lines) == 5


@pytest.mark.parametrize("ending", ["done", "diverged"])
def test_a_finished_run_is_one_line_once(tmp_path, ending):
    stream = io.StringIO()
    display = StudyDisplay(tmp_path, Console(file=stream, width=200))
    folder = run_folder(tmp_path, RUN.id)
    folder.write_epochs([_epoch(1, ema=0.5)])
    jobs = {RUN.id: RUN}
    with display.showing():
        display(Progress("search", {RUN.id: "running"}, jobs))
        assert stream.getvalue() == ""
        folder.finish(ending, seconds=7.2)
        for _ in range(2):
            display(Progress("search", {RUN.id: "done"}, jobs))
    heading, line = stream.getvalue().splitlines()
    assert heading.startswith("phase, run, how it ended, epoch, rate, loss, best average so far")
    assert line.startswith(f"search 1/1  {title(RUN)}  {ending} in 7 s  1/10")


def test_a_failed_run_is_called_so(tmp_path):
    stream = io.StringIO()
    display = StudyDisplay(tmp_path, Console(file=stream, width=200))
    display(Progress("refit", {RUN.id: "failed", "other": "waiting"}, {RUN.id: RUN}))
    assert stream.getvalue().splitlines()[1:] == [f"refit 1/2  {title(RUN)}  failed"]


def test_a_terminal_shows_running_runs_with_their_cells(tmp_path):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=160)
    display = StudyDisplay(tmp_path, console)
    run_folder(tmp_path, RUN.id).write_epochs([_epoch(2, ema=0.5)])
    probe = ProbeConfig(data=RUN.data, backbones=(RUN,), arms=("sgd",))
    with display.showing():
        states = {RUN.id: "running", probe.id: "running", "c": "waiting"}
        display(Progress("search", states, {RUN.id: RUN, probe.id: probe}))
        console.print(display._table(Progress("search", states, {RUN.id: RUN, probe.id: probe})))
    shown = stream.getvalue()
    assert "search: 2 running, 1 waiting" in shown
    assert "2/10" in shown
    assert "linear probe on digits" in shown


def test_cells_stand_under_their_headings():
    heading = in_columns(HEADINGS)
    line = in_columns(epoch_cells([_epoch(2, ema=0.75)], RUN))
    assert len(heading) == len(line)
    for name, cell in zip(HEADINGS, epoch_cells([_epoch(2, ema=0.75)], RUN), strict=True):
        assert heading.index(name) + len(name) == line.index(cell) + len(cell)


def test_the_whole_study_has_a_share_done_and_a_time_left(tmp_path, monkeypatch):
    """Two of eight runs were there; then one ends in ten seconds, and one is half done."""
    now = [0.0]
    monkeypatch.setattr("polyak.cli.console.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    display = StudyDisplay(tmp_path, Console(file=stream, width=300), planned=8)
    other = replace(RUN, seed=1)
    jobs = {job.id: job for job in (RUN, other)}
    display(Progress("search", {RUN.id: "running", other.id: "waiting"}, jobs, 2))
    run_folder(tmp_path, RUN.id).finish("done", seconds=10)
    run_folder(tmp_path, other.id).write_epochs([_epoch(e) for e in range(1, 6)])
    now[0] = 15.0
    display(Progress("search", {RUN.id: "done", other.id: "running"}, jobs, 2))
    # 1.5 of 8 runs took 15 s; 4.5 are left.
    assert stream.getvalue().endswith("(44% of 8 runs, about 0:45 left)\n")
    terminal = Console(file=stream, force_terminal=True, width=100)
    terminal.print(display._shown(Progress("search", {other.id: "running"}, jobs, 3)))
    assert "44% of 8 runs, about 0:45 left" in stream.getvalue()


def test_how_many_images_are_decoded_is_said_at_intervals(monkeypatch):
    times = iter([0.0, 5.5, 6.0, 11.0])
    monkeypatch.setattr("polyak.cli.console.time.monotonic", lambda: next(times))
    console = Console(record=True, width=80, file=io.StringIO())
    say = decoding_lines(console)
    for done in (1, 1000, 2000, 3000):
        say(done, 3000)
    lines = console.export_text().splitlines()
    assert lines == ["decoded 1,000 of 3,000 images", "decoded 3,000 of 3,000 images"]
