import threading

import pytest
import torch

from polyak.data import DataSet, entries

NAMES = ["train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy"]


@pytest.fixture
def written(tmp_path, image_set):
    train, test = image_set(8, channels=3), image_set(4, channels=3, seed=1)
    entries.write(tmp_path / "entry", DataSet(train=train, test=test))
    return tmp_path / "entry", train, test


def test_what_was_written_is_read(written):
    folder, *parts = written
    assert entries.faults(folder) == []
    whole = entries.read(folder)
    for read, part in zip((whole.train, whole.test), parts, strict=True):
        assert torch.equal(read.images_nchw, part.images_nchw)
        assert torch.equal(read.labels_n, part.labels_n)
        assert read.classes == part.classes
    assert [path.name for path in folder.parent.iterdir()] == ["entry"]


@pytest.mark.parametrize("name", [*NAMES, "manifest.json"])
def test_every_truncated_altered_or_missing_file_is_named(written, name):
    path = written[0] / name
    content = path.read_bytes()
    altered = bytearray(content)
    altered[-10] ^= 4
    for damage in (content[:-1], b"", bytes(altered)):
        path.write_bytes(damage)
        (fault,) = entries.faults(written[0])
        assert name in fault
    path.unlink()
    assert any(name in fault for fault in entries.faults(written[0]))


def test_writing_to_a_mapped_array_leaves_the_file(written):
    folder, train, _ = written
    read = entries.read(folder).train
    read.images_nchw.zero_()
    assert torch.equal(entries.read(folder).train.images_nchw, train.images_nchw)
    assert entries.faults(folder) == []


def test_a_damaged_entry_is_replaced(written):
    folder, train, test = written
    (folder / "test_labels.npy").write_bytes(b"")
    entries.write(folder, DataSet(train=train, test=test))
    assert entries.faults(folder) == []
    assert [path.name for path in folder.parent.iterdir()] == ["entry"]


def test_a_sound_entry_is_left_as_it_is(written):
    folder, train, test = written
    before = (folder / "train_images.npy").stat().st_ino
    entries.write(folder, DataSet(train=train, test=test))
    assert (folder / "train_images.npy").stat().st_ino == before


def test_many_writers_at_once_leave_one_whole_entry(tmp_path, image_set):
    train, test = image_set(64, side=16), image_set(8, side=16)
    failures = []

    def write():
        try:
            for _ in range(5):
                entries.write(tmp_path / "entry", DataSet(train=train, test=test))
                failures.extend(entries.faults(tmp_path / "entry"))
        except Exception as error:
            failures.append(error)

    writers = [threading.Thread(target=write) for _ in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failures == []
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]


def test_a_failed_write_leaves_nothing_behind(tmp_path, image_set, monkeypatch):
    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(entries, "_write_array", fail)
    with pytest.raises(OSError, match="no space left"):
        entries.write(tmp_path / "entry", DataSet(train=image_set(4), test=image_set(4)))
    assert list(tmp_path.iterdir()) == []
