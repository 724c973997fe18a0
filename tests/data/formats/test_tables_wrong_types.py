"""Tables whose columns hold something else than images and labels."""

import pytest

from polyak.data import DataConfig, prepare
from polyak.errors import DataError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

PNG = b"\x89PNG\r\n\x1a\n"
CASES = {
    "labels that are text": {"image": [PNG] * 2, "label": ["a", "b"]},
    "labels that are fractions": {"image": [PNG] * 2, "label": [0.5, 1.0]},
    "labels that are lists": {"image": [PNG] * 2, "label": [[0], [1]]},
    "images that are numbers": {"image": [1, 2], "label": [0, 1]},
    "images that are text": {"image": ["a", "b"], "label": [0, 1]},
    "images that do not decode": {"image": [b"no image"] * 2, "label": [0, 1]},
    "images cut short": {"image": [PNG] * 2, "label": [0, 1]},
    "images that are missing": {"image": [None, None], "label": [0, 1]},
    "no rows": {"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())},
    "no columns": {},
}


@pytest.mark.parametrize("case", CASES)
def test_a_table_of_other_types_is_refused_and_leaves_no_cache(tmp_path, monkeypatch, case):
    cache = tmp_path / "cache"
    monkeypatch.setenv("POLYAK_CACHE", str(cache))
    folder = tmp_path / "source"
    folder.mkdir()
    for split in ("train", "test"):
        parquet.write_table(pa.table(CASES[case]), folder / f"{split}.parquet")
    with pytest.raises(DataError):
        prepare(DataConfig(source=str(folder)))
    assert not list(cache.glob("data/*"))


def test_a_table_that_is_no_parquet_is_refused(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    with pytest.raises(DataError, match="the parquet source cannot be read"):
        prepare(DataConfig(source=str(tmp_path)))


def named(tmp_path, columns: dict, **settings) -> str:
    """What is said of a table with these columns."""
    for split in ("train", "test"):
        parquet.write_table(pa.table(columns), tmp_path / f"{split}.parquet")
    with pytest.raises(DataError) as caught:
        prepare(DataConfig(source=str(tmp_path), **settings))
    return str(caught.value)


@pytest.mark.parametrize("label_column", [None, "label"])
@pytest.mark.parametrize("image_column", [None, "image"])
@pytest.mark.parametrize("case", [*CASES, "labels that are dates"])
def test_no_message_offers_what_it_refuses(tmp_path, case, image_column, label_column):
    columns = CASES.get(case, {"image": [PNG] * 2, "label": pa.array([0, 1], pa.date32())})
    said = named(tmp_path, columns, image_column=image_column, label_column=label_column)
    for name, given in (("image", image_column), ("label", label_column)):
        assert f"Did you mean '{given}'" not in said or given is None
        refused = f"{name}_column is '{given}'; expected one of"
        assert refused not in said or name not in said.partition(refused)[2].split(".")[0]


def test_a_named_column_of_another_type_is_refused_for_its_type(tmp_path):
    columns = {"image": [1.5, 2.5], "label": [0, 1]}
    said = named(tmp_path, columns, image_column="image")
    assert "image_column is 'image', a column of type double; expected encoded images" in said


def test_labels_that_are_fractions_are_named_by_their_row(tmp_path):
    said = named(tmp_path, {"image": [PNG] * 2, "label": [1.0, 0.5]}, label_column="label")
    assert "column 'label' holds 0.5 at train image 1 (row 1 of '" in said
    assert "expected whole numbers" in said


@pytest.mark.parametrize(
    ("pixels", "phrase"),
    [
        ([[0.1, 0.9], [0.5, 1.0]], "0.1 to 1.0; expected whole numbers from 0 to 255"),
        ([[0, 300], [1, 2]], "0 to 300; expected whole numbers from 0 to 255"),
        ([[0, 1], [2]], "of unequal lengths"),
        ([0, 1, 2], r"shape (3,)"),
    ],
)
def test_lists_that_are_no_pixels_are_refused_by_row(tmp_path, pixels, phrase):
    said = named(tmp_path, {"image": [pixels] * 2, "label": [0, 1]})
    assert "train image 0 (row 0 of '" in said
    assert phrase in said
    assert "docs/data.md" in said


def test_a_picture_that_a_table_names_and_nobody_has_is_named_by_row(tmp_path):
    (tmp_path / "0.png").write_bytes(PNG)
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("file,label\n0.png,a\nlost.png,b\n")
    with pytest.raises(DataError, match=r"image 1 \(row 1 of '.*train\.csv'.* file 'lost\.png'"):
        prepare(DataConfig(source=str(tmp_path)))


def test_a_test_table_without_labels_is_refused_by_column(tmp_path):
    (tmp_path / "0.png").write_bytes(PNG)
    (tmp_path / "train.csv").write_text("file,label\n0.png,a\n0.png,b\n")
    (tmp_path / "test.csv").write_text("file\n0.png\n")
    with pytest.raises(DataError, match=r"in any row of test.*give the file of train as"):
        prepare(DataConfig(source=str(tmp_path)))
