"""Event files hold every epoch once, under the names of the CSV file."""

import shutil

import pytest

from polyak.loggers.curves import read_curves
from polyak.loggers.following import following

pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
pytestmark = pytest.mark.filterwarnings("ignore")  # TensorBoard's own
RUN = "0123456789ab"


def follow(growing):
    with following(growing.out, ["tensorboard"], on_fault=pytest.fail) as follower:
        follower.follow(RUN, "a run")


def read(growing):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(growing.out / "logs" / "tensorboard" / RUN))
    found.Reload()
    return {
        tag: [(event.step, event.value) for event in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def expected(growing):
    curves = read_curves(growing.folder, name="").epochs
    names = next(iter(curves.values()))
    return {
        name: [(epoch, pytest.approx(values[name])) for epoch, values in curves.items()]
        for name in names
    }


def test_events_are_the_runs_curves(growing):
    growing.grow_to(3)
    follow(growing)
    assert read(growing) == expected(growing)


def test_a_growing_run_is_appended_to(growing):
    with following(growing.out, ["tensorboard"], on_fault=pytest.fail) as follower:
        for epochs in (1, 2, 4):
            growing.grow_to(epochs)
            follower.follow(RUN, "a run")
            assert read(growing) == expected(growing)
    growing.end()
    follow(growing)
    assert read(growing) == expected(growing)


@pytest.mark.parametrize("resumed_at", [1, 3, 4])
def test_a_resume_in_another_process_makes_no_epoch_twice(growing, resumed_at):
    growing.grow_to(3)
    follow(growing)
    growing.grow_to(resumed_at)
    follow(growing)
    growing.grow_to(5)
    growing.end()
    follow(growing)
    follow(growing)
    assert read(growing) == expected(growing)


def test_a_process_that_was_killed_between_event_and_note_makes_none_twice(growing):
    growing.grow_to(3)
    follow(growing)
    note = growing.out / "logs" / "tensorboard" / RUN / "written.json"
    note.write_text('{"epoch": 2}')
    follow(growing)
    assert read(growing) == expected(growing)
    note.unlink()
    growing.grow_to(4)
    follow(growing)
    assert read(growing) == expected(growing)
    shutil.rmtree(note.parent)
    follow(growing)
    assert read(growing) == expected(growing)
