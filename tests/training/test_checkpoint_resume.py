"""A run that is stopped anywhere and goes on in a new process ends as if nothing had been."""

import errno
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.resumed_runs import (
    MONITORS,
    Paused,
    assert_same_run,
    in_sessions,
    session,
    with_dropout,
)
from support.texts import text_run, write_texts

from polyak.averaging import load
from polyak.errors import FileError, StateError
from polyak.models import ModelConfig
from polyak.records.vocabulary import Stop
from polyak.training import checkpoint, loop
from polyak.training.checkpoint import Checkpoints
from polyak.training.optim import OptimConfig


@pytest.fixture(scope="module")
def whole(tiny, start, tmp_path_factory):
    """For each kind of run: how to build it, and one that never stopped."""
    resnet = replace(tiny, monitors=MONITORS)
    refit = replace(
        tiny,
        holdout=False,
        averaging=replace(tiny.averaging, every=4),
        stops=(Stop(rule="acc", epoch=2, average="ema_0.9"),),
    )
    builders = {"search": lambda: start(resnet), "refit": lambda: start(refit)}
    lower = replace(resnet, precision="bfloat16")
    builders["bfloat16"] = lambda: start(lower)
    adamw = OptimConfig(name="adamw", lr=1e-3, warmup_epochs=1, clip=1.0, schedule="wsd")
    builders["adamw"] = lambda: start(replace(resnet, optim=adamw))
    vit = ModelConfig(name="vit", width=32, depth=1)
    muon = OptimConfig(name="muon", lr=1e-3, warmup_epochs=1, decayed="matrices")
    builders["muon"] = lambda: start(replace(tiny, model=vit, optim=muon))

    on_text = text_run(write_texts(tmp_path_factory.mktemp("texts")), monitors=("test",))
    builders["text"] = lambda: start(on_text)

    def dropout():
        with pytest.MonkeyPatch.context() as patch:
            build = loop.build
            patch.setattr(loop, "build", lambda *a, **o: with_dropout(build, *a, **o))
            return start(tiny)

    builders["dropout"] = dropout
    found = {}
    for kind, build in builders.items():
        run = build()
        run.train(lambda record: None)
        found[kind] = (build, run)
    return found


RESTS = 3 * (5 + 1)
"""Places to stop in a search: after each of five steps and after each of three epochs."""


@pytest.mark.parametrize(
    "kind", ["search", "refit", "dropout", "bfloat16", "adamw", "muon", "text"]
)
def test_a_run_stopped_at_every_place_in_turn_equals_one_that_never_stopped(whole, kind, tmp_path):
    build, uninterrupted = whole[kind]
    assert_same_run(in_sessions(build, tmp_path, [1] * 40), uninterrupted)


@pytest.mark.parametrize("kind", ["search", "dropout"])
@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(1, RESTS), max_size=3))
def test_a_run_stopped_anywhere_equals_one_that_never_stopped(
    whole, kind, tmp_path_factory, lengths
):
    build, uninterrupted = whole[kind]
    run = in_sessions(build, tmp_path_factory.mktemp("run"), lengths)
    assert_same_run(run, uninterrupted)


def test_dropout_really_draws(whole, monkeypatch):
    """Without its generator's state a run with dropout would end otherwise."""
    build, uninterrupted = whole["dropout"]
    run = build()
    monkeypatch.setattr(run, "_set_torch_generators", lambda: torch.manual_seed(99))
    run.train(lambda record: None)
    last, other = run.trained.last["sgd"], uninterrupted.trained.last["sgd"]
    assert not all(torch.equal(last[key], x) for key, x in other.items())


def paused(build, folder, rests, *, seconds=1e9):
    with pytest.raises(Paused):
        session(build(), folder, rests=rests, seconds=seconds)


def steps(folder):
    return sorted(path for path in folder.glob("at-*"))


def test_two_checkpoints_stay_and_the_kept_weights_that_they_need(whole, tmp_path):
    paused(whole["search"][0], tmp_path, 15, seconds=0)
    assert [path.stem for path in steps(tmp_path)] == ["at-0002-00002", "at-0002-00003"]
    needed = {
        facts["file"]
        for path in steps(tmp_path)
        for facts in load(path).manifest["checkpoint"]["kept"].values()
    }
    assert {path.name for path in tmp_path.glob("kept-*")} == needed
    assert needed
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors"}


def test_kept_weights_come_back_to_the_device_that_the_run_keeps_its_own_on(whole, tmp_path):
    """At the end they are compared with each other, which torch refuses between devices."""
    paused(whole["search"][0], tmp_path, 15)
    (path,) = steps(tmp_path)
    recorded = load(path).manifest["checkpoint"]["kept"]
    meta = torch.device("meta")
    found = Checkpoints(tmp_path)._read_kept(recorded, meta)
    held = [x for kept in found.values() for state in kept.weights.values() for x in state.values()]
    assert {x.device for x in held} == {meta}


@pytest.mark.parametrize(
    ("damage", "both"), [("cut", False), ("flipped", False), ("empty", True)], ids=str
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(whole, tmp_path, damage, both):
    build, uninterrupted = whole["search"]
    paused(build, tmp_path, 9, seconds=0)
    before, newest = steps(tmp_path)
    for path in (newest, before) if both else (newest,):
        spoil(path, damage)
    with pytest.warns(RuntimeWarning) as caught:
        run = session(build(), tmp_path, seconds=0)
    named = [str(warning.message) for warning in caught]
    assert len(named) == 1 + both
    assert newest.name in named[0]
    assert "is damaged" in named[0] or "is empty" in named[0]
    assert_same_run(run, uninterrupted)


def spoil(path, damage):
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-1] ^= 1
    path.write_bytes({"cut": content[:-10], "flipped": content, "empty": b""}[damage])


def test_damaged_kept_weights_are_named_and_never_used(whole, tmp_path):
    build, uninterrupted = whole["search"]
    paused(build, tmp_path, 9, seconds=0)
    (kept,) = tmp_path.glob("kept-*")
    spoil(kept, "flipped")
    with pytest.warns(RuntimeWarning, match=kept.name):
        run = session(build(), tmp_path, seconds=0)
    assert_same_run(run, uninterrupted)


@pytest.mark.parametrize(
    ("fact", "value"),
    [("torch", "2.6.0"), ("threads", 64), ("processor", "another"), ("layout", "plain")],
)
def test_a_checkpoint_from_elsewhere_is_refused_with_what_to_do(
    whole, tmp_path, monkeypatch, fact, value
):
    build, _ = whole["refit"]
    here = loop.environment
    with monkeypatch.context() as patch:
        patch.setattr(
            loop, "environment", lambda *args, **options: {**here(*args, **options), fact: value}
        )
        paused(build, tmp_path, 3)
    with pytest.raises(StateError) as caught:
        session(build(), tmp_path)
    assert f"{fact} {value!r} (here " in str(caught.value)
    assert f"remove {tmp_path} to begin" in str(caught.value)
    assert len(steps(tmp_path)) == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_takes_no_more_leaves_the_checkpoint_before(whole, tmp_path, monkeypatch, code):
    build, uninterrupted = whole["search"]
    paused(build, tmp_path, 8)
    before = steps(tmp_path)

    def full(path, *_args, **_options):
        raise OSError(code, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("polyak.tensor_files.save_file", full)
        with pytest.raises(FileError, match=r"cannot be written \(No space left.*goes on"):
            session(build(), tmp_path, rests=2)
    assert steps(tmp_path) == before
    assert not list(tmp_path.glob(".*"))
    assert_same_run(session(build(), tmp_path), uninterrupted)


def test_files_that_are_no_checkpoints_of_the_run_stay_where_checkpoints_go(whole, tmp_path):
    """The folder may be a place that somebody keeps weights in."""
    precious = tmp_path / "precious.safetensors"
    precious.write_text("mine")
    paused(whole["search"][0], tmp_path, 15, seconds=0)
    assert len(steps(tmp_path)) == 2
    assert precious.read_text() == "mine"


def test_a_checkpoint_that_does_not_read_back_removes_none(whole, tmp_path, monkeypatch):
    build, _ = whole["search"]
    paused(build, tmp_path, 9, seconds=0)
    before = steps(tmp_path)

    def damaged(path):
        raise FileError(f"{path} is damaged")

    run = build()
    checkpoints = Checkpoints(tmp_path)
    checkpoints.resume(run)
    run.batch += 1
    monkeypatch.setattr(checkpoint, "load", damaged)
    with pytest.raises(FileError, match="is damaged"):
        checkpoints.write(run)
    assert set(before) < set(steps(tmp_path))


def test_a_checkpoint_is_due_by_time_and_by_what_one_costs(whole, tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    checkpoints = Checkpoints(tmp_path, seconds=60)
    now[0] = 159.9
    assert not checkpoints.due()
    now[0] = 160.0
    assert checkpoints.due()
    run = whole["search"][0]()

    def slow(_run, _path):
        now[0] += 2.0

    monkeypatch.setattr(checkpoints, "_write", slow)
    checkpoints.write(run)
    now[0] += 199.9
    assert not checkpoints.due()
    now[0] += 0.1
    assert checkpoints.due()
