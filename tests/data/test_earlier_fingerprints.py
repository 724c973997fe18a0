"""What earlier versions cached stays what it was: names of entries, and what is decoded to them."""

import hashlib
import json
from pathlib import Path

import pytest

from polyak.data import DataConfig
from polyak.data.sources import decode
from polyak.training.config import RunConfig

HERE = Path(__file__).parents[1]
EARLIER = json.loads((HERE / "fixtures" / "tables" / "earlier.json").read_text())
"""By data set: its fingerprint, and the SHA-256 of what the first version decoded."""


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def colours(first: int) -> bytes:
    return b"P6 2 2 255\n" + bytes((first + i) % 256 for i in range(12))


def write_pets(folder: Path) -> None:
    value = 0
    for split, n in (("train", 3), ("test", 2)):
        for name in ("cat", "cat b", "dog"):
            for i in range(n):
                value += 7
                put(folder / split / name / f"{i}.ppm", colours(value))
    put(folder / "train" / ".DS_Store", b"x")
    (folder / "train" / "empty").mkdir()
    put(folder / "train" / "cat" / "notes.txt", b"hello")
    put(folder / "README.md", b"")


def write_mnist(folder: Path) -> None:
    for stem, shape, content in (
        ("train-images-idx3-ubyte", (4, 2, 2), bytes(range(16))),
        ("train-labels-idx1-ubyte", (4,), bytes([0, 1, 0, 1])),
        ("t10k-images-idx3-ubyte", (2, 2, 2), bytes(range(8))),
        ("t10k-labels-idx1-ubyte", (2,), bytes([0, 1])),
    ):
        header = bytes([0, 0, 8, len(shape)]) + b"".join(d.to_bytes(4, "big") for d in shape)
        put(folder / stem, header + content)


def write_tiny(folder: Path) -> None:
    for i, wnid in enumerate(("n01443537", "n01629819")):
        for j in range(2):
            put(folder / "train" / wnid / "images" / f"{wnid}_{j}.JPEG", colours(50 * i + j))
        put(folder / "val" / "images" / f"val_{i}.JPEG", colours(90 + i))
    lines = "val_0.JPEG\tn01629819\t0\t0\t1\t1\nval_1.JPEG\tn01443537\t0\t0\t1\t1\n"
    put(folder / "val" / "val_annotations.txt", lines.encode())


def config(name: str, folder: Path) -> DataConfig:
    if name in ("digits", "digits-parity"):
        return DataConfig(source=name)
    if name == "tables":
        return DataConfig(source=str(HERE / "fixtures" / "tables"), label_column="label")
    {"pets": write_pets, "mnist": write_mnist, "tiny": write_tiny}[name](folder)
    return DataConfig(source=str(folder))


@pytest.mark.parametrize("name", EARLIER)
def test_fingerprint_and_content_are_those_of_the_first_version(tmp_path, name):
    dataset = decode(config(name, tmp_path))
    content = hashlib.sha256()
    for part in (dataset.train, dataset.test):
        content.update(part.images_nchw.numpy().tobytes() + part.labels_n.numpy().tobytes())
    content.update("|".join(dataset.train.classes).encode())
    assert [dataset.fingerprint, content.hexdigest()] == EARLIER[name]


def test_what_the_first_version_wrote_into_an_index_is_found_again(tmp_path):
    """Key and times of the index: else every source would be hashed again, also read-only ones."""
    from polyak.data.cache import _index_key
    from polyak.data.fingerprints import of_stats
    from polyak.data.sources import find

    write_mnist(tmp_path)
    source = find(DataConfig(source=str(tmp_path)))
    text = json.dumps([False, str(tmp_path.resolve()), None, None])
    assert (
        _index_key(DataConfig(source=str(tmp_path)))
        == hashlib.sha256(text.encode()).hexdigest()[:32]
    )
    stats = [(n, p.stat()) for n, p in sorted(source.files.items())]
    listing = [(n, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for n, s in stats]
    known = hashlib.sha256(json.dumps([1, listing], sort_keys=True).encode()).hexdigest()
    assert of_stats(source.files, reading=source.reading) == known


def test_the_later_settings_of_decoding_are_part_of_a_runs_identity():
    plain = RunConfig(data=DataConfig(fingerprint="0" * 64))
    changes = ({"test_split": 0.2}, {"resize": 32}, {"validation": "ignore"})
    ids = {RunConfig(data=DataConfig(fingerprint="0" * 64, **change)).id for change in changes}
    assert len(ids | {plain.id}) == 4
    assert not {"test_split", "resize", "validation"} & plain.record()["data"].keys()
