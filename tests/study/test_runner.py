import socket
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from polyak.errors import ConfigError, DataError, FileError
from polyak.models import ModelConfig
from polyak.records.locks import HeldError, holding
from polyak.records.runs import EpochRecord, Score, run_folder
from polyak.records.studies import read_study, write_study
from polyak.study.plan import planned
from polyak.study.runner import Progress, run_study
from polyak.training.config import RunConfig
from polyak.training.config_file import read_config


def _epochs(run: RunConfig, best: float) -> list[EpochRecord]:
    """Hold-out scores that peak in epoch 2 for SGD, in 2 and 1 for the averages."""
    by_epoch = (
        {"sgd": (3.0, 0.1), "ema_0.2": (0.5, 0.2), "ema_0.9": (2.0, 0.3)},
        {"sgd": (2.0, best), "ema_0.2": (1.0, 0.4), "ema_0.9": (1.5, 0.9)},
        {"sgd": (1.0, best / 2), "ema_0.2": (1.0, 0.5), "ema_0.9": (1.0, 0.6)},
    )
    return [
        EpochRecord(
            epoch=epoch,
            step=epoch,
            learning_rate=run.optim.lr,
            train=Score(1.0, 0.5),
            seconds=1.0,
            holdout={name: Score(*values) for name, values in scores.items()}
            if run.holdout
            else {},
        )
        for epoch, scores in enumerate(by_epoch, start=1)
    ]


@dataclass
class FakeExecutor:
    """Writes what runs would leave, in no time, and remembers which it was asked for."""

    best: dict = field(default_factory=lambda: {0.05: 0.6, 0.1: 0.8})
    """SGD's best hold-out accuracy by learning rate."""

    diverging: tuple = ()
    """Learning rates that diverge in the search."""

    diverging_refits: tuple = ()
    """Seeds whose refits diverge."""

    failing: tuple = ()
    """Pairs of learning rate and seed whose search run fails."""

    interrupt_after: int | None = None
    """Jobs until Ctrl-C."""

    calls: list = field(default_factory=list)

    @property
    def jobs(self):
        return [job for call in self.calls for job in call]

    def _diverges(self, run):
        if run.holdout:
            return run.optim.lr in self.diverging
        return run.seed in self.diverging_refits

    def __call__(self, jobs, out, on_tick):
        self.calls.append([])
        failures = {}
        for job in jobs:
            if self.interrupt_after is not None and len(self.jobs) >= self.interrupt_after:
                raise KeyboardInterrupt
            self.calls[-1].append(job)
            on_tick({job.id: "running"})
            folder = run_folder(out, job.id)
            if isinstance(job, RunConfig) and self._diverges(job):
                folder.finish("diverged", epoch=1, seconds=0)
            elif isinstance(job, RunConfig) and (job.optim.lr, job.seed) in self.failing:
                failures[job.id] = "a bug"
            else:
                if isinstance(job, RunConfig):
                    folder.write_epochs(_epochs(job, self.best.get(job.optim.lr, 0.5)))
                folder.finish("done", seconds=0)
            on_tick({job.id: "failed" if job.id in failures else "done"})
        return failures


def _run(study, out, executor, *, on_progress=lambda progress: None):
    return run_study(
        study,
        out,
        executor=executor,
        on_progress=on_progress,
        workers=2,
        command=f"polyak study {study.name}",
    )


def test_phases_come_one_after_the_other_with_their_choices(study, tmp_path):
    executor = FakeExecutor()
    outcome = _run(study, tmp_path, executor)
    search, refit, _, transfer = executor.calls
    assert [run.holdout for run in search] == [True] * 4
    assert [(run.holdout, run.optim.lr, run.seed) for run in refit] == [
        (False, 0.1, 0),
        (False, 0.1, 1),
    ]
    assert {(stop.rule, stop.epoch, stop.average) for stop in refit[0].stops} == {
        ("sgd", 2, "sgd"),
        ("acc", 2, "ema_0.9"),
        ("loss", 1, "ema_0.2"),
    }
    assert [probe.backbones for probe in transfer] == [tuple(refit)]
    assert planned(study) == len(executor.jobs) == 7
    assert (outcome.done, outcome.skipped, outcome.diverged, outcome.failures) == (7, 0, 0, {})


def test_plan_and_choices_are_written(study, tmp_path):
    executor = FakeExecutor()
    _run(study, tmp_path, executor)
    record = read_study(tmp_path / "small")
    assert (record.name, record.title, record.workers) == ("small", "A small study", 2)
    assert record.command == "polyak study small"
    assert record.seconds > 0
    (row,) = record.rows
    assert row.averages == ("ema_0.2", "ema_0.9")
    assert row.paper_averages == ("ema_0.968", "ema_0.998")
    assert row.chosen_learning_rate == 0.1
    assert row.failure is None
    search, refit, _, transfer = executor.calls
    ids = {run.id for run in search}
    assert {i for by_seed in row.search.values() for i in by_seed.values()} == ids
    assert row.chosen_search == {str(r.seed): r.id for r in search if r.optim.lr == 0.1}
    assert row.refit == {str(run.seed): run.id for run in refit}
    assert row.transfer == {"digits-parity": transfer[0].id}
    assert [stop.rule for stop in row.stops["0"]] == ["sgd", "acc", "loss"]


def test_the_plan_is_there_while_the_search_is_still_running(study, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        _run(study, tmp_path, FakeExecutor(interrupt_after=1))
    (row,) = read_study(tmp_path / "small").rows
    assert sum(len(by_seed) for by_seed in row.search.values()) == 4
    assert row.chosen_learning_rate is None
    assert row.failure is None
    # The probe.
    assert row.following == 1


def test_a_finished_study_runs_nothing_again(study, tmp_path):
    _run(study, tmp_path, FakeExecutor())
    before = read_study(tmp_path / "small")
    folder = run_folder(tmp_path, next(tmp_path.glob("runs/*")).name)
    left = [folder.path / f".polyak-{socket.gethostname()}-{2**30}-x7", folder.checkpoints]
    for path in left:
        path.mkdir()
    again = FakeExecutor()
    outcome = _run(study, tmp_path, again)
    assert again.jobs == []
    assert (outcome.done, outcome.skipped) == (0, 7)
    assert not [path for path in left if path.exists()]
    after = read_study(tmp_path / "small")
    assert replace(after, seconds=0.0) == replace(before, seconds=0.0)
    assert after.seconds > before.seconds


@pytest.mark.parametrize("after", range(7))
def test_an_interrupted_study_goes_on_without_repeating_a_run(study, tmp_path, after):
    stopped = FakeExecutor(interrupt_after=after)
    with pytest.raises(KeyboardInterrupt):
        _run(study, tmp_path, stopped)
    seconds = read_study(tmp_path / "small").seconds
    assert seconds > 0
    rest = FakeExecutor()
    _run(study, tmp_path, rest)
    done = [job.id for job in (*stopped.jobs, *rest.jobs)]
    assert len(done) == len(set(done)) == 7
    other = tmp_path / "other"
    _run(study, other, FakeExecutor())
    one, whole = (read_study(out / "small") for out in (tmp_path, other))
    assert one.seconds > seconds
    assert replace(one, seconds=0.0) == replace(whole, seconds=0.0)


@pytest.mark.parametrize("name", ["plan.json", "choices.json"])
def test_a_damaged_plan_is_written_anew(study, tmp_path, name):
    _run(study, tmp_path, FakeExecutor())
    whole = read_study(tmp_path / "small")
    (tmp_path / "small" / name).write_text('{"rows": ')
    _run(study, tmp_path, FakeExecutor())
    assert read_study(tmp_path / "small").rows == whole.rows


def test_a_study_that_another_process_is_at_is_left_to_it(study, tmp_path):
    _run(study, tmp_path, FakeExecutor(interrupt_after=9))
    before = _content(tmp_path)
    with holding(tmp_path / "small"):
        held = _content(tmp_path)
        with pytest.raises(HeldError, match="small is held by process"):
            _run(study, tmp_path, FakeExecutor())
        assert _content(tmp_path) == held
    assert _content(tmp_path) == before


def _content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_no_lock_stays_whatever_happens(study, tmp_path):
    for executor in (FakeExecutor(interrupt_after=2), FakeExecutor()):
        with suppress(KeyboardInterrupt):
            _run(study, tmp_path, executor)
        assert not list(tmp_path.rglob("LOCK"))


def test_a_failure_that_cannot_be_written_down_is_told_anyway(study, tmp_path, monkeypatch):
    def full(_folder, _text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("polyak.records.runs.RunFolder.fail", full)
    outcome = _run(study, tmp_path, FakeExecutor(failing=((0.1, 1),)))
    assert list(outcome.failures.values()) == ["a bug"]
    assert outcome.done == 6


def test_runs_are_shared_between_studies_by_their_id(study, row, tmp_path):
    _run(study, tmp_path, FakeExecutor())
    wider = replace(row, label="wider", learning_rates=(0.05, 0.1, 0.2))
    executor = FakeExecutor()
    outcome = _run(replace(study, name="other", rows=(wider,)), tmp_path, executor)
    assert [run.optim.lr for run in executor.jobs] == [0.2, 0.2]
    assert (outcome.done, outcome.skipped) == (2, 7)
    first, second = (read_study(tmp_path / name).rows[0] for name in ("small", "other"))
    assert first.refit == second.refit


def test_rows_that_share_runs_do_them_once(study, row, tmp_path):
    executor = FakeExecutor()
    _run(replace(study, rows=(row, replace(row, label="again"))), tmp_path, executor)
    ids = [job.id for job in executor.jobs]
    assert len(ids) == len(set(ids)) == 7


def test_one_failing_run_stops_no_other_and_is_listed(study, tmp_path):
    executor = FakeExecutor(failing=((0.1, 1),))
    outcome = _run(study, tmp_path, executor)
    (failed,) = [job for job in executor.calls[0] if (job.optim.lr, job.seed) == (0.1, 1)]
    assert outcome.failures == {failed.id: "a bug"}
    assert outcome.done == 6
    # Its folder says what went wrong, and what to repeat.
    folder = run_folder(tmp_path, failed.id)
    assert folder.failure == "a bug"
    assert read_config(folder.path / "config.json") == failed
    # Its learning rate is out, so the other one goes on.
    assert read_study(tmp_path / "small").rows[0].chosen_learning_rate == 0.05
    mended = FakeExecutor()
    outcome = _run(study, tmp_path, mended)
    assert outcome.failures == {}
    assert mended.jobs[0] == failed
    assert read_study(tmp_path / "small").rows[0].chosen_learning_rate == 0.1


def test_a_rate_that_diverges_is_out_and_the_study_goes_on(study, tmp_path):
    executor = FakeExecutor(diverging=(0.1,))
    outcome = _run(study, tmp_path, executor)
    assert (outcome.done, outcome.diverged, outcome.failures) == (5, 2, {})
    assert read_study(tmp_path / "small").rows[0].chosen_learning_rate == 0.05
    again = FakeExecutor()
    assert _run(study, tmp_path, again).skipped == 7
    assert again.jobs == []


def test_if_every_rate_diverges_the_row_says_so_and_what_to_do(study, row, tmp_path):
    sound = replace(row, label="sound", learning_rates=(0.2,))
    executor = FakeExecutor(diverging=(0.05, 0.1))
    outcome = _run(replace(study, rows=(row, sound)), tmp_path, executor)
    first, second = read_study(tmp_path / "small").rows
    assert "every learning rate of [0.05, 0.1]" in first.failure
    assert "Search smaller learning rates" in first.failure
    assert (first.chosen_learning_rate, first.stops, first.refit, first.transfer) == (
        None,
        {},
        {},
        {},
    )
    assert first.chosen_search == {}
    assert outcome.row_failures == {"small digits": first.failure}
    # The other row is carried through.
    assert second.failure is None
    assert len(second.refit) == 2
    assert second.transfer


@pytest.mark.parametrize("epochs", [None, (), (1,), (1, 2), (1, 3), (1, 2, 2)])
def test_a_finished_run_without_all_its_records_is_refused_and_the_choices_stay(
    study, tmp_path, epochs
):
    executor = FakeExecutor()
    _run(study, tmp_path, executor)
    before = {p: p.read_bytes() for p in (tmp_path / "small").iterdir()}
    folder = run_folder(tmp_path, executor.calls[0][0].id)
    records = folder.epochs()
    folder.log.unlink()
    if epochs is not None:
        folder.write_epochs([records[epoch - 1] for epoch in epochs])
    again = FakeExecutor()
    how = r"(is missing|has \d records|cannot be read|is not as it was written)"
    expected = rf"log\.jsonl {how}.*; expected .* Remove the run's folder"
    with pytest.raises(FileError, match=expected):
        _run(study, tmp_path, again)
    assert again.jobs == []
    assert {p: p.read_bytes() for p in (tmp_path / "small").iterdir()} == before


def test_if_every_rate_fails_the_advice_is_not_to_search_smaller_ones(study, tmp_path):
    failing = tuple((rate, seed) for rate in (0.05, 0.1) for seed in (0, 1))
    outcome = _run(study, tmp_path, FakeExecutor(failing=failing))
    reason = outcome.row_failures["small digits"]
    assert "has a run that failed; " in reason
    assert "smaller" not in reason


def test_a_refit_that_fails_keeps_its_row_from_being_probed(study, tmp_path):
    class RefitFails(FakeExecutor):
        def __call__(self, jobs, out, on_tick):
            if jobs and not getattr(jobs[0], "holdout", True):
                self.calls.append(list(jobs))
                return {jobs[0].id: "out of memory"}
            return super().__call__(jobs, out, on_tick)

    executor = RefitFails()
    outcome = _run(study, tmp_path, executor)
    assert list(outcome.failures.values()) == ["out of memory"]
    assert executor.calls[2] == []
    (row,) = read_study(tmp_path / "small").rows
    assert row.transfer == {}
    assert len(row.refit) == 2


def test_a_row_whose_refits_diverged_has_no_result_at_the_second_session_too(study, tmp_path):
    first = _run(study, tmp_path, FakeExecutor(diverging_refits=(0, 1)))
    again = FakeExecutor()
    second = _run(study, tmp_path, again)
    assert again.jobs == []
    assert first.row_failures == second.row_failures
    assert first.failures == second.failures == {}
    assert first.row_failures["small digits"] == (
        "the refit of seed 0 is diverged, seed 1 is diverged and the linear probe on "
        "digits-parity is not run; expected all to end. Search smaller learning rates."
    )


def test_one_lost_refit_of_two_is_told_by_its_seed(study, row, tmp_path):
    study = replace(study, rows=(replace(row, transfer=()),))
    outcome = _run(study, tmp_path, FakeExecutor(diverging_refits=(1,)))
    assert outcome.row_failures["small digits"].startswith("the refit of seed 1 is diverged; ")


def test_a_probe_that_did_not_end_is_lacking(study, tmp_path):
    class ProbeFails(FakeExecutor):
        def __call__(self, jobs, out, on_tick):
            if jobs and not isinstance(jobs[0], RunConfig):
                return {jobs[0].id: "out of memory"}
            return super().__call__(jobs, out, on_tick)

    outcome = _run(study, tmp_path, ProbeFails())
    assert outcome.row_failures == {
        "small digits": "the linear probe on digits-parity is not done; expected all to end. "
        "Give the same command again."
    }
    assert _run(study, tmp_path, FakeExecutor()).row_failures == {}


def test_rows_that_want_no_refits_lack_none(study, row, tmp_path):
    study = replace(study, rows=(replace(row, refits=False, transfer=()),))
    assert _run(study, tmp_path, FakeExecutor(diverging=(0.1,))).row_failures == {}


def test_progress_names_the_phase_and_every_run(study, tmp_path):
    seen: list[Progress] = []
    _run(study, tmp_path, FakeExecutor(), on_progress=seen.append)
    assert list(dict.fromkeys(progress.phase for progress in seen)) == [
        "search",
        "refit",
        "transfer",
    ]
    assert all(progress.states.keys() <= progress.jobs.keys() for progress in seen)


@pytest.mark.parametrize(
    ("change", "error"),
    [({"learning_rates": ()}, ConfigError), ({"transfer": None}, DataError)],
)
def test_a_study_that_cannot_be_is_refused_before_anything_is_run(
    study, row, tmp_path, change, error
):
    if change == {"transfer": None}:
        change = {"transfer": (replace(row.transfer[0], source="digit-parity"),)}
    executor = FakeExecutor()
    with pytest.raises(error):
        _run(replace(study, rows=(replace(row, **change),)), tmp_path, executor)
    assert executor.calls == []
    assert list(tmp_path.iterdir()) == []


NETS = """
from torch import nn

def pair(classes, channels):
    return nn.Sequential(nn.Flatten(), nn.LSTM(64, classes))

def sure(classes, channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes), nn.Softmax(1))

def flat(classes, channels):
    return nn.Sequential(nn.Conv2d(channels, classes, 8), nn.Flatten())
"""


@pytest.mark.parametrize(
    ("function", "message"),
    [("pair", "is a tuple; expected a tensor"), ("flat", "no linear layer as its head")],
)
def test_a_network_that_cannot_go_through_all_phases_is_refused_before_anything_is_run(
    study, row, tmp_path, function, message
):
    executor = FakeExecutor()
    with pytest.raises(ConfigError, match=message):
        _run(with_network(study, row, tmp_path, function), tmp_path / "out", executor)
    assert executor.calls == []
    assert not (tmp_path / "out").exists()


def test_a_doubtful_network_is_told_once_for_the_study(study, row, tmp_path):
    study = with_network(study, replace(row, transfer=()), tmp_path, "sure")
    with pytest.warns(RuntimeWarning, match="seems to end in softmax") as told:
        _run(study, tmp_path, FakeExecutor())
    assert len(told) == 1
    _run(study, tmp_path, FakeExecutor())


def with_network(study, row, folder, function):
    (folder / "nets.py").write_text(NETS)
    model = ModelConfig(name=f"{folder / 'nets.py'}:{function}")
    return replace(study, rows=(replace(row, config=replace(row.config, model=model)),))


def test_two_studies_of_one_name_do_not_replace_each_other(study, row, tmp_path):
    """Neither ours nor those that earlier versions recorded, without where they were defined."""
    other = replace(study, rows=(replace(row, seeds=(7,)),))
    folder, out = tmp_path / "a", tmp_path / "a" / "out"
    ours = replace(study, source=str(folder / "ours.py"))
    _run(ours, out, FakeExecutor())
    before = (out / "small" / "plan.json").read_bytes()
    assert str(tmp_path) not in before.decode()
    executor = FakeExecutor()
    for path in ("a/theirs.py", "b/ours.py"):
        there = rf"of .*{Path(path).name} would replace the one of \.\./ours\.py in {out / 'small'}"
        with pytest.raises(ConfigError, match=there):
            _run(replace(other, source=str(tmp_path / path)), out, executor)
    assert executor.calls == []
    assert (out / "small" / "plan.json").read_bytes() == before
    # The same runs from a file that was moved, and other runs from the same file, are its own.
    _run(replace(study, source="/moved/ours.py"), out, FakeExecutor())
    _run(replace(other, source="/moved/ours.py"), out, FakeExecutor())


@pytest.mark.parametrize(
    ("command", "source", "other"),
    [
        ("polyak study ours.py --out x", "/a/ours.py", "/a/theirs.py"),
        ("polyak study table1 --data a=b", "a=b", "a=c"),
        ("polyak study table1 --scale tiny", None, "cifar10=c"),
    ],
)
def test_an_earlier_record_says_by_its_command_where_it_was_defined(
    study, row, tmp_path, command, source, other
):
    _run(study, tmp_path, FakeExecutor())
    write_study(tmp_path / "small", replace(read_study(tmp_path / "small"), command=command))
    changed = replace(study, rows=(replace(row, seeds=(7,)),))
    with pytest.raises(ConfigError, match="expected a name for each"):
        _run(replace(changed, source=other), tmp_path, FakeExecutor())
    _run(replace(changed, source=source), tmp_path, FakeExecutor())
