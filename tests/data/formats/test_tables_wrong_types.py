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
