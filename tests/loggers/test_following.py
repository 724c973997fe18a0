"""Following a run by its files: nothing twice, nothing left out, and never in the run's way."""

import csv
import sys

import pytest

from polyak.errors import ConfigError
from polyak.loggers.curves import read_curves
from polyak.loggers.following import LOGGERS, Follower, following

RUN = "0123456789ab"


class Heard:
    """A logger that appends, as some do."""

    def __init__(self):
        self.lines, self.ended, self.closed, self.calls = [], False, False, 0

    def write(self, curves, *, ended):
        self.calls += 1
        known = {epoch for epoch, _ in self.lines}
        self.lines += [item for item in curves.epochs.items() if item[0] not in known]
        self.ended = ended

    def close(self):
        self.closed = True


class Broken(Heard):
    def write(self, curves, *, ended):
        raise RuntimeError("no route to host")


def table(out):
    with (out / "logs" / "csv" / f"{RUN}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def follow(out, growing, names, faults):
    with following(out, names, on_fault=lambda *fault: faults.append(fault)) as follower:
        follower.follow(RUN, "a run")
    return follower


def test_each_epoch_is_handed_on_as_it_comes(growing, faults):
    heard = Heard()
    follower = Follower(growing.out, {"heard": heard}, lambda *fault: faults.append(fault))
    follower.follow(RUN, "a run")
    assert heard.lines == []
    for epochs in (1, 2, 3):
        growing.grow_to(epochs)
        follower.follow(RUN, "a run")
        assert [epoch for epoch, _ in heard.lines] == list(range(1, epochs + 1))
    assert not heard.ended
    growing.end()
    follower.close()
    assert heard.ended
    assert heard.closed


def test_nothing_is_read_again_where_nothing_changed(growing):
    heard = Heard()
    follower = Follower(growing.out, {"heard": heard}, pytest.fail)
    growing.grow_to(2)
    for _ in range(5):
        follower.follow(RUN, "a run")
    assert heard.calls == 1


def test_a_csv_has_a_line_an_epoch_and_a_column_a_curve(growing, faults):
    growing.grow_to(3)
    follow(growing.out, growing, ["csv"], faults)
    lines = table(growing.out)
    expected = read_curves(growing.folder, name="").epochs
    assert [int(line["epoch"]) for line in lines] == [1, 2, 3]
    for line in lines:
        values = {name: float(value) for name, value in line.items() if name != "epoch"}
        assert values == expected[int(line["epoch"])]
    assert faults == []


def test_a_resumed_run_has_no_epoch_twice(growing, faults):
    growing.grow_to(3)
    follow(growing.out, growing, ["csv"], faults)
    # The checkpoint was an epoch older than the log.
    growing.grow_to(2)
    follow(growing.out, growing, ["csv"], faults)
    growing.grow_to(5)
    growing.end()
    follow(growing.out, growing, ["csv"], faults)
    assert [int(line["epoch"]) for line in table(growing.out)] == [1, 2, 3, 4, 5]


def test_a_logger_that_fails_is_left_out_and_the_others_go_on(growing, faults):
    broken, heard = Broken(), Heard()
    loggers = {"broken": broken, "heard": heard}
    follower = Follower(growing.out, loggers, lambda *fault: faults.append(fault))
    for epochs in (1, 2):
        growing.grow_to(epochs)
        follower.follow(RUN, "a run")
    assert [(name, str(error)) for name, error in faults] == [("broken", "no route to host")]
    assert broken.closed
    assert len(heard.lines) == 2


def test_a_damaged_log_is_left_to_who_reads_results(growing, faults):
    growing.grow_to(2)
    growing.folder.log.write_text("{")
    follow(growing.out, growing, ["csv"], faults)
    assert faults == []
    assert not (growing.out / "logs" / "csv").exists()


def interrupted(growing):
    with following(growing.out, ["csv"], on_fault=pytest.fail) as follower:
        follower.follow(RUN, "a run")
        growing.grow_to(2)
        raise KeyboardInterrupt


def test_curves_are_brought_up_to_date_when_the_block_raises(growing):
    with pytest.raises(KeyboardInterrupt):
        interrupted(growing)
    assert len(table(growing.out)) == 2


def test_without_loggers_nothing_is_written(growing):
    growing.grow_to(2)
    follow(growing.out, growing, [], [])
    assert not (growing.out / "logs").exists()


def test_an_unknown_logger_is_refused_with_the_nearest(tmp_path):
    with (
        pytest.raises(ConfigError, match="Did you mean 'tensorboard'"),
        following(tmp_path, ["tensorbord"], on_fault=pytest.fail),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "module"), [("wandb", "wandb"), ("tensorboard", "torch.utils.tensorboard")]
)
def test_a_logger_that_is_not_installed_is_refused_by_its_extra(growing, monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    with (
        pytest.raises(ConfigError, match=rf'pip install "polyak\[{name}\]"'),
        following(growing.out, ["csv", name], on_fault=pytest.fail),
    ):
        pass
    assert {*LOGGERS} == {"csv", "tensorboard", "wandb"}
