"""The same images in every layout are the same data; what is incomplete or odd is refused."""

import io
import pickle
import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from support import layouts
from support.layouts import LAYOUTS, NAMES, small_sets

from polyak.data import DataConfig, load, prepare
from polyak.data.sources import decode, find
from polyak.errors import DataError, FileError

pytest.importorskip("datasets")

LARGE = "parquet: large bytes and large text"
TEXT_LABELS = ("class folders", "CSV with paths", "save_to_disk", LARGE)


def settings(name: str) -> dict:
    return {"label_column": "label"} if name == LARGE else {}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_same_images_in_every_layout_are_the_same_data(tmp_path, name):
    sets = small_sets()
    source = LAYOUTS[name](tmp_path / "my data [1]", sets)
    dataset = decode(DataConfig(source=str(source), **settings(name)))
    for split, (images, labels) in sets.items():
        part = getattr(dataset, split)
        assert np.array_equal(part.images_nchw.numpy(), images.transpose(0, 3, 1, 2))
        assert part.labels_n.tolist() == labels.tolist()
    assert dataset.train.classes == tuple(NAMES if name in TEXT_LABELS else "012")


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_has_a_fingerprint_and_is_known_again(tmp_path, name, monkeypatch):
    source = LAYOUTS[name](tmp_path / "data", small_sets())
    config = DataConfig(source=str(source), **settings(name))
    first = prepare(config)
    monkeypatch.setattr("polyak.data.sources.decode_reading", None)
    assert prepare(config) == first
    moved = source.rename(source.with_name(f"moved {source.name}"))
    assert prepare(replace(config, source=str(moved))).fingerprint == first.fingerprint


@pytest.mark.parametrize(
    ("writer", "ending"),
    [
        (lambda f, s: layouts.parquet(f, s, layouts.encoded("binary"), layouts.numbers), "parquet"),
        (layouts.tables_of_paths, "csv"),
        (layouts.shards, "tar"),
    ],
)
def test_a_single_file_is_read_with_a_test_set_split_off(tmp_path, writer, ending):
    sets = small_sets(n=18 if ending == "tar" else 9)
    source = layouts.single(writer, ending)(tmp_path, sets)
    with pytest.raises(DataError, match=r"splits train; expected .* give test_split, such as 0\.2"):
        find(DataConfig(source=str(source)))
    dataset = decode(DataConfig(source=str(source), test_split=1 / 3))
    assert len(dataset.test) == 3
    assert len(dataset.train) == 6


def test_cifars_pickles_are_read_in_their_order(tmp_path):
    sets = small_sets(n=10, side=32)
    source = layouts.cifar_pickles(tmp_path / "cifar-10-batches-py", sets)
    dataset = decode(DataConfig(source=str(source)))
    for split, (images, labels) in sets.items():
        part = getattr(dataset, split)
        assert np.array_equal(part.images_nchw.numpy(), images.transpose(0, 3, 1, 2))
        assert part.labels_n.tolist() == labels.tolist()
    assert dataset.train.classes == tuple(NAMES)
    (source / "data_batch_3").unlink()
    with pytest.raises(DataError, match="lacks data_batch_3; expected all of"):
        find(DataConfig(source=str(source)))


def test_no_code_of_a_pickle_is_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return print, ("run",)

    source = layouts.cifar_pickles(tmp_path, small_sets(n=10, side=32))
    (source / "data_batch_1").write_bytes(pickle.dumps({b"data": Harmful()}))
    with pytest.raises(FileError, match=r"data_batch_1.* \(it names builtins\.print\)"):
        decode(DataConfig(source=str(source)))
    (source / "data_batch_1").write_bytes(b"\x80\x02}q\x00(")
    with pytest.raises(FileError, match="data_batch_1"):
        decode(DataConfig(source=str(source)))


def test_arrays_of_objects_in_an_npz_are_refused(tmp_path):
    arrays = {"x_train": np.array([{}]), "y_train": np.array([0])}
    np.savez(tmp_path / "a.npz", **arrays, x_test=arrays["x_train"], y_test=arrays["y_train"])
    with pytest.raises(
        FileError, match=r"array x_train of '.*a\.npz' cannot be read .*docs/data\.md"
    ):
        decode(DataConfig(source=str(tmp_path)))


@pytest.mark.parametrize(
    ("arrays", "phrase"),
    [
        ({"images": 1}, "holds images; expected train_images and train_labels, or x_train"),
        ({"x_train": np.zeros((2, 3, 3)), "y_train": np.arange(2), "x_test": np.zeros((2, 3, 3)),
          "y_test": np.arange(2)}, r"float64 \(2, 3, 3\); expected uint8"),
        ({"x_train": np.zeros((2, 9, 9, 9), np.uint8), "y_train": np.arange(2),
          "x_test": np.zeros((2, 9, 9, 9), np.uint8), "y_test": np.arange(2)}, "expected uint8"),
        ({"x_train": np.zeros((3, 3, 3), np.uint8), "y_train": np.arange(2),
          "x_test": np.zeros((2, 3, 3), np.uint8), "y_test": np.arange(2)}, "3 images; expected 2"),
        ({"x_train": np.zeros((2, 3, 3), np.uint8), "y_train": np.zeros((2, 14), np.uint8),
          "x_test": np.zeros((2, 3, 3), np.uint8), "y_test": np.zeros((2, 14), np.uint8)},
         r"labels are uint8 \(2, 14\); expected one integer"),
    ],
)  # fmt: skip
def test_other_arrays_are_refused_by_name(tmp_path, arrays, phrase):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=phrase):
        decode(DataConfig(source=str(tmp_path)))


def test_a_validation_split_is_the_holdout_in_every_kind_of_layout(tmp_path):
    sets = dict(small_sets())
    sets["val"] = small_sets(seed=5)["test"]
    for name in ("class folders", "npz of MedMNIST", "tar shards", "parquet: bytes"):
        source = LAYOUTS[name](tmp_path / name.replace(":", ""), sets)
        dataset = decode(DataConfig(source=str(source)))
        held = dataset.train.images_nchw[-dataset.holdout_images :]
        assert np.array_equal(held.numpy(), sets["val"][0].transpose(0, 3, 1, 2)), name


def test_a_holdout_comes_back_from_the_cache(tmp_path):
    sets = dict(small_sets())
    sets["val"] = small_sets(seed=5)["test"]
    prepared = prepare(DataConfig(source=str(layouts.npz(tmp_path, sets))))
    assert load(prepared).holdout_images == 6
    assert "own validation split, 6 images" in " ".join(load(prepared).notes)


def test_shards_without_pictures_or_labels_are_refused(tmp_path):
    source = layouts.shards(tmp_path, small_sets())
    for name, phrase in (("0009.cls", "without one picture"), ("0009.png", "has no label")):
        shutil.copy(source / "train-000000.tar", source / "kept")
        with tarfile.open(source / "train-000000.tar", "a") as archive:
            member = tarfile.TarInfo(name)
            archive.addfile(member)
        with pytest.raises(DataError, match=phrase):
            decode(DataConfig(source=str(source)))
        (source / "kept").rename(source / "train-000000.tar")
    (source / "train-000000.tar").write_bytes(b"no tar")
    with pytest.raises(FileError, match="damaged tar file"):
        decode(DataConfig(source=str(source)))


@pytest.mark.parametrize("content", [b"{", b"[" * 100_000])
def test_a_label_that_is_no_json_is_named_with_its_sample(tmp_path, content):
    with tarfile.open(layouts.shards(tmp_path, small_sets()) / "train-000000.tar", "w") as archive:
        for name, inside in (("a.png", b"x"), ("a.json", content)):
            member = tarfile.TarInfo(name)
            member.size = len(inside)
            archive.addfile(member, io.BytesIO(inside))
    with pytest.raises(DataError, match=r"sample 'a' of .* has a \.json that is none"):
        decode(DataConfig(source=str(tmp_path)))


def test_unused_classes_are_dropped_and_said(tmp_path):
    dataset = decode(DataConfig(source=str(layouts.saved(tmp_path / "saved", small_sets()))))
    assert "left out: 1 classes that no image has (never)" in dataset.notes


@pytest.mark.parametrize(
    "source", ["C:\\data\\cifar10", "C:/data/cifar10", "data\\cifar10", "\\\\nas\\x"]
)
def test_a_windows_path_is_a_path(source):
    with pytest.raises(DataError, match="expected a folder") as caught:
        find(DataConfig(source=source))
    assert "Did you mean" not in str(caught.value)
    assert source in str(caught.value) or source in str(caught.value).replace("\\\\", "\\")


def test_an_archive_is_to_be_unpacked(tmp_path):
    (tmp_path / "pets.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"a file; expected .* Unpack it first.*docs/data\.md"):
        find(DataConfig(source=str(tmp_path / "pets.zip")))


def test_class_folders_beside_tables_are_said_to_be_left_out(tmp_path):
    sets = small_sets()
    layouts.parquet(tmp_path, sets, layouts.encoded("binary"), layouts.numbers)
    layouts.class_folders(tmp_path, sets)
    notes = decode(DataConfig(source=str(tmp_path))).notes
    assert [note for note in notes if "class folders in 'train'" in note]


def test_a_labelled_set_beside_loose_test_pictures_is_read_with_a_test_split(tmp_path):
    """As competitions give it: test pictures without labels."""
    layouts.class_folders(tmp_path, {"train": small_sets()["train"]})
    layouts.put(tmp_path / "test" / "0.png", layouts.png(small_sets()["test"][0][0]))
    with pytest.raises(DataError, match=r"give test_split, such as 0\.2"):
        find(DataConfig(source=str(tmp_path)))
    dataset = decode(DataConfig(source=str(tmp_path), test_split=1 / 3))
    assert (len(dataset.train), len(dataset.test)) == (6, 3)
    assert "left out: folder 'test', which is no split of class folders" in dataset.notes


def test_the_only_column_beside_paths_is_the_label_whatever_it_is_called(tmp_path):
    source = layouts.tables_of_paths(tmp_path, small_sets())
    for table in source.glob("*.csv"):
        table.write_text(table.read_text().replace("file,label", "name,breed"))
    assert decode(DataConfig(source=str(source))).train.classes == tuple(NAMES)


def test_paths_of_a_table_may_be_those_of_windows(tmp_path):
    source = layouts.tables_of_paths(tmp_path, small_sets())
    for table in source.glob("*.csv"):
        table.write_text(table.read_text().replace("/", "\\"))
    assert len(decode(DataConfig(source=str(source))).train) == 9


def test_a_picture_that_a_table_names_is_part_of_the_fingerprint(tmp_path):
    source = layouts.tables_of_paths(tmp_path, small_sets())
    before = find(DataConfig(source=str(source))).identity()
    (source / "pictures" / "train" / "3.png").write_bytes(layouts.png(small_sets()["test"][0][0]))
    assert find(DataConfig(source=str(source))).identity() != before
