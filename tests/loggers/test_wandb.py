"""What would be sent to Weights & Biases, offline: every epoch once, under the CSV file's names."""

import json
import struct
import time

import pytest

from polyak.loggers.curves import read_curves
from polyak.loggers.following import following

pytest.importorskip("wandb", reason="needs the extra wandb")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]  # W&B's own; its service
RUN = "0123456789ab"


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def follow(growing):
    with following(growing.out, ["wandb"], on_fault=pytest.fail) as follower:
        follower.follow(RUN, "a run")


def records(path):
    """The records of a .wandb file: LevelDB's log format behind seven bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        piece = data[at + 7 : at + 7 + size]
        whole = whole + piece if kind in (3, 4) else piece
        at += 7 + size
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(whole)


def whole(path):
    """The records of a file, once their service has written the last."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = list(records(path))
        if found and found[-1].WhichOneof("record_type") == "exit":
            return found
        time.sleep(0.05)
    raise AssertionError(f"{path} is not finished")


def sent(growing):
    """Step and values of each line of the history, over all sittings."""
    found = []
    for path in sorted((growing.out / "logs" / "wandb" / "wandb").glob("offline-run-*/*.wandb")):
        for record in whole(path):
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                values = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}
                values = {key: x for key, x in values.items() if not key.startswith("_")}
                found.append((record.history.step.num, values))
    return sorted(found, key=lambda line: line[0])


def expected(growing):
    curves = read_curves(growing.folder, name="").epochs
    return [(e, pytest.approx({"epoch": e, **values})) for e, values in curves.items()]


def test_the_history_is_the_runs_curves_also_over_sittings(growing):
    growing.grow_to(2)
    follow(growing)
    assert sent(growing) == expected(growing)
    growing.grow_to(1)
    follow(growing)
    growing.grow_to(4)
    growing.end()
    follow(growing)
    follow(growing)
    assert [line[0] for line in sent(growing)] == [1, 2, 3, 4]
    assert sent(growing) == expected(growing)


def test_it_is_a_run_of_its_id_and_settings(growing):
    growing.grow_to(1)
    follow(growing)
    [path] = (growing.out / "logs" / "wandb" / "wandb").glob("offline-run-*/*.wandb")
    [run] = [r.run for r in whole(path) if r.WhichOneof("record_type") == "run"][:1]
    assert (run.run_id, run.display_name, run.project) == (RUN, "a run", "polyak")
    settings = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert settings["seed"] == 3
