import os
from dataclasses import replace

import pytest

from polyak.data import DataSet, fingerprints


@pytest.fixture
def files(tmp_path):
    paths = {name: tmp_path / name for name in ("a", "b")}
    for name, path in paths.items():
        path.write_text(name)
    return paths


def test_the_place_of_files_does_not_matter_but_name_and_content_do(files, tmp_path):
    before = fingerprints.of_files(files, kind="idx")
    moved = tmp_path / "moved"
    files["a"].rename(moved)
    assert fingerprints.of_files({**files, "a": moved}, kind="idx") == before
    assert fingerprints.of_files({"c": moved, "b": files["b"]}, kind="idx") != before
    moved.write_text("A")
    assert fingerprints.of_files({**files, "a": moved}, kind="idx") != before


def test_the_way_of_reading_matters(files):
    prints = {
        fingerprints.of_files(files, kind="idx"),
        fingerprints.of_files(files, kind="parquet"),
        fingerprints.of_files(files, kind="parquet", columns=("img", None)),
        fingerprints.of_files(files, kind="parquet", columns=(None, "img")),
    }
    assert len(prints) == 4


@pytest.mark.parametrize("part", ["images", "labels", "classes"])
def test_every_part_of_decoded_data_matters(image_set, part):
    train, test = image_set(8), image_set(4)
    before = fingerprints.of_arrays(DataSet(train=train, test=test))
    assert fingerprints.of_arrays(DataSet(train=image_set(8), test=image_set(4))) == before
    if part == "classes":
        test = replace(test, classes=("a", "b", "c", "d"))
    elif part == "labels":
        test.labels_n[0] = 1
    else:
        test.images_nchw[0, 0, 0, 0] ^= 1
    assert fingerprints.of_arrays(DataSet(train=train, test=test)) != before


def test_a_changed_file_has_other_stats_even_with_its_old_time_and_size(files):
    before = fingerprints.of_stats(files)
    assert fingerprints.of_stats(files) == before
    times = files["a"].stat().st_atime_ns, files["a"].stat().st_mtime_ns
    files["a"].write_text("x")
    os.utime(files["a"], ns=times)
    assert fingerprints.of_stats(files) != before
