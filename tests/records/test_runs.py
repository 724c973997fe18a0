import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyak.errors import FileError
from polyak.records import runs
from polyak.records.runs import EpochRecord, MonitorRecord, RunFolder, Score, run_folder

scores = st.builds(Score, loss=st.floats(0, 1e3), accuracy=st.floats(0, 1))
by_name = st.dictionaries(st.sampled_from(["sgd", "ema_0.9", "ema_0.998"]), scores)
epoch_records = st.builds(
    EpochRecord,
    epoch=st.integers(1, 300),
    step=st.integers(1, 10**6),
    learning_rate=st.floats(0, 2),
    train=scores,
    seconds=st.floats(0, 1e6),
    holdout=by_name,
)
monitor_records = st.builds(
    MonitorRecord,
    epoch=st.integers(1, 300),
    monitor=st.sampled_from(["test", "train_wrong"]),
    scores=by_name,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> RunFolder:
    return run_folder(tmp_path_factory.mktemp("out"), "0123456789ab")


@given(st.lists(epoch_records, max_size=4))
def test_epochs_come_back_to_the_last_bit(folder, records):
    folder.write_epochs(records)
    assert folder.epochs() == records


@given(st.lists(monitor_records, max_size=4))
def test_monitors_come_back_to_the_last_bit(folder, records):
    folder.write_monitors(records)
    assert folder.monitors() == records


def test_a_config_comes_back(folder):
    config = {"kind": "train", "lr": 0.1, "decays": [0.9, 0.998], "data": {"source": "digits"}}
    folder.write_config(config)
    assert folder.config() == config


def test_a_run_has_no_ending_until_it_is_finished(tmp_path):
    folder = run_folder(tmp_path, "a")
    assert folder.ending is None
    folder.write_config({})
    folder.write_epochs([])
    assert folder.ending is None
    folder.finish("diverged", epoch=3, seconds=1.5)
    assert folder.ending == "diverged"
    assert folder.facts() == {"ending": "diverged", "epoch": 3, "seconds": 1.5}


def test_a_run_that_never_began_has_no_epochs_and_no_monitors(tmp_path):
    folder = run_folder(tmp_path, "a")
    assert folder.epochs() == []
    assert folder.monitors() == []


def test_every_file_of_a_run_lies_in_its_own_folder(tmp_path):
    folder = run_folder(tmp_path, "a")
    own = tmp_path / "runs" / "a"
    assert folder.path == own
    assert folder.predictions.parent == own
    assert folder.arm("ema_acc").parent == own / "averages"


def _epoch(epoch: int) -> EpochRecord:
    return EpochRecord(
        epoch=epoch, step=epoch, learning_rate=0.1, train=Score(1.0, 0.5), seconds=1.0
    )


def test_a_truncated_line_is_named_by_file_and_number(tmp_path):
    folder = run_folder(tmp_path, "a")
    folder.write_epochs([_epoch(1), _epoch(2)])
    log = folder.path / "log.jsonl"
    log.write_text(log.read_text()[:-20])
    with pytest.raises(
        FileError, match=r"line 2 of .*log\.jsonl .*expected JSON of a record\. Remove"
    ):
        folder.epochs()


@pytest.mark.parametrize(
    "line",
    ["7", "[]", "{}", '{"epoch": 1}', '{"epoch": 1, "monitor": "test", "scores": {"sgd": [1]}}'],
)
@pytest.mark.parametrize("name", ["log.jsonl", "monitor.jsonl"])
def test_json_that_is_no_record_is_named_by_file_and_number(tmp_path, line, name):
    folder = run_folder(tmp_path, "a")
    folder.write_epochs([])
    (folder.path / name).write_text(line + "\n")
    with pytest.raises(FileError, match=rf"line 1 of .*{name} is .*; expected"):
        folder.epochs() if name == "log.jsonl" else folder.monitors()


@pytest.mark.parametrize("text", ["", '{"ending": "do', "[]", "{}", '{"ending": "almost"}'])
def test_a_damaged_end_mark_is_named(tmp_path, text):
    folder = run_folder(tmp_path, "a")
    folder.write_config({})
    (folder.path / "DONE").write_text(text)
    with pytest.raises(FileError, match=r"DONE .*; expected .*Remove the run's folder"):
        folder.ending  # noqa: B018  (reading it is what raises)


def test_a_missing_config_is_named(tmp_path):
    with pytest.raises(FileError, match=r"config\.json cannot be read"):
        run_folder(tmp_path, "a").config()


def test_a_crash_while_writing_leaves_the_old_log(tmp_path, monkeypatch):
    folder = run_folder(tmp_path, "a")
    folder.write_epochs([_epoch(1)])
    written = json.dumps
    calls = []

    def fails_at_the_third(value):
        calls.append(value)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return written(value)

    monkeypatch.setattr(runs.json, "dumps", fails_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        folder.write_epochs([_epoch(e) for e in range(1, 6)])
    assert folder.epochs() == [_epoch(1)]
    assert [path.name for path in folder.path.iterdir()] == ["log.jsonl"]


def test_done_is_written_when_all_folders_are_on_disk(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "runs" / "a")
    folder.arm("sgd").parent.mkdir(parents=True)
    events = []
    monkeypatch.setattr(runs, "sync_folder", lambda path: events.append(path.name))
    monkeypatch.setattr(runs, "write_checked", lambda path, value: events.append(path.name))
    folder.finish("done")
    assert events == ["averages", "a", "runs", "DONE"]


def test_tidying_removes_half_written_files_and_nothing_else(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_config({})
    (tmp_path / "averages").mkdir()
    (tmp_path / ".a-folder").mkdir()
    # As this version leaves them, and as the first did.
    (tmp_path / "averages" / ".polyak-host-7-x7").mkdir()
    for half in (
        tmp_path / ".log.jsonl.x7",
        tmp_path / "averages" / ".sgd.safetensors.x7",
        tmp_path / "averages" / ".polyak-host-7-x7" / "sgd.safetensors",
    ):
        half.write_text("half")
    folder.tidy()
    assert {path.name for path in tmp_path.rglob("*")} == {"config.json", "averages", ".a-folder"}


def test_an_altered_line_of_an_ended_run_is_named_by_file_and_number(tmp_path):
    """One digit here would choose another learning rate."""
    folder = run_folder(tmp_path, "a")
    folder.write_epochs([_epoch(1), _epoch(2), _epoch(3)])
    folder.write_monitors([MonitorRecord(epoch=1, monitor="test", scores={"sgd": Score(1.0, 0.5)})])
    folder.finish("done", seconds=1.0)
    assert folder.epochs() == [_epoch(1), _epoch(2), _epoch(3)]
    assert folder.checked
    for name, read in (("log.jsonl", folder.epochs), ("monitor.jsonl", folder.monitors)):
        path = folder.path / name
        whole = path.read_text()
        lines = whole.splitlines(keepends=True)
        number = len(lines)
        path.write_text("".join(lines[:-1]) + lines[-1].replace("0.5", "0.6"))
        said = rf"line {number} of .*{name} is not as it was written, by its checksum in DONE"
        with pytest.raises(FileError, match=said):
            read()
        path.write_text("".join(lines[:-1]))
        with pytest.raises(FileError, match=said):
            read()
        path.write_text(whole)


@pytest.mark.parametrize("name", ["log.jsonl", "monitor.jsonl", "DONE"])
def test_bytes_that_are_no_text_and_brackets_without_end_are_named(tmp_path, name):
    folder = run_folder(tmp_path, "a")
    for content in (b'{"epoch": \x80}', b"[" * 100_000 + b"]" * 100_000):
        folder.write_epochs([])
        (folder.path / name).write_bytes(content)
        reads = {"DONE": folder.facts, "log.jsonl": folder.epochs, "monitor.jsonl": folder.monitors}
        with pytest.raises(FileError, match=rf"{name}.*Remove the run's folder"):
            reads[name]()
        (folder.path / name).unlink()


@pytest.mark.parametrize("seconds", ["x", None, True, float("inf"), 10**400, [1]])
def test_seconds_that_are_no_number_are_named(tmp_path, seconds):
    folder = run_folder(tmp_path, "a")
    folder.finish("done", seconds=seconds)
    with pytest.raises(FileError, match=r"seconds in .*DONE is .*; expected a number"):
        folder.facts()


@pytest.mark.parametrize("value", ["x", None, True, 10**400, [1], {}])
def test_a_score_or_a_count_that_is_no_number_is_named(tmp_path, value):
    folder = run_folder(tmp_path, "a")
    folder.write_epochs([dataclasses.replace(_epoch(1), train=Score(value, 0.5))])
    with pytest.raises(FileError, match=r"line 1 of .*log\.jsonl"):
        folder.epochs()
    folder.write_epochs([dataclasses.replace(_epoch(1), epoch=value)])
    with pytest.raises(FileError, match=r"line 1 of .*log\.jsonl"):
        folder.epochs()


def test_records_of_before_there_were_checksums_are_read_and_known_as_such(tmp_path):
    folder = run_folder(tmp_path, "a")
    folder.write_epochs([_epoch(1)])
    (folder.path / "DONE").write_text('{"ending": "done", "seconds": 2.5}')
    assert folder.epochs() == [_epoch(1)]
    assert folder.facts() == {"ending": "done", "seconds": 2.5}
    assert not folder.checked


@pytest.mark.parametrize("place", ["checkpoint", "averages", "averages/sgd.safetensors", "FAILED"])
def test_a_symbolic_link_in_a_runs_folder_is_refused_before_anything_is_written(tmp_path, place):
    folder = run_folder(tmp_path, "a")
    (tmp_path / "precious").mkdir()
    link = folder.path / place
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "precious")
    with pytest.raises(FileError, match=rf"{place} is a symbolic link"):
        folder.tidy()


def test_a_runs_folder_that_is_a_link_is_refused(tmp_path):
    folder = run_folder(tmp_path, "a")
    (tmp_path / "elsewhere").mkdir()
    folder.path.parent.mkdir()
    folder.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileError, match="is a symbolic link"):
        folder.tidy()
