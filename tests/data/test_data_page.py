"""Every function of docs/data.md is executed on small files of its format."""

import csv
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from polyak.data import DataConfig
from polyak.data.sources import decode

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"```python (\w+)\n(.*?)```", PAGE, flags=re.DOTALL))
DRAWN = np.random.default_rng(0)


def drawn(*shape: int) -> np.ndarray:
    return DRAWN.integers(0, 256, shape, dtype=np.uint8)


def mnist_csv(monkeypatch):
    for part, n in (("train", 10), ("test", 2)):
        head = ",".join(["label", *map(str, range(784))])
        rows = np.concatenate([np.arange(n, dtype=np.uint8)[:, None], drawn(n, 784)], axis=1)
        np.savetxt(f"mnist_{part}.csv", rows, fmt="%d", delimiter=",", header=head, comments="")
    return (10, 1, 28, 28), list(range(10))


def cifar_bin(monkeypatch):
    folder = Path("cifar-10-batches-bin")
    folder.mkdir()
    for name, labels in (("data_batch_1", [0, 1]), ("data_batch_2", [1]), ("test_batch", [0])):
        rows = np.concatenate([np.array(labels, np.uint8)[:, None], drawn(len(labels), 3072)], 1)
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    (folder / "batches.meta.txt").write_text("airplane\nautomobile\n")
    return (3, 3, 32, 32), [0, 1, 1]


def float_arrays(monkeypatch):
    np.savez("arrays.npz", images=drawn(8, 5, 5, 3) / 255, labels=np.arange(8) % 2)
    return (6, 3, 5, 5), None


def names_without_endings(monkeypatch):
    Path("train").mkdir()
    with open("labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("id", "breed"), *((f"a{i}", "xy"[i % 2]) for i in range(8))])
    for i in range(8):
        Image.fromarray(drawn(40, 50 + i, 3)).save(f"train/a{i}.jpg")
    return (6, 3, 32, 32), None


def sixteen_bits(monkeypatch):
    for i in range(8):
        path = Path("scans", "ab"[i % 2], f"{i}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn(4, 4).astype(np.uint16) * 200).save(path)
    return (6, 1, 4, 4), None


def stl10(monkeypatch):
    folder = Path("stl10_binary")
    folder.mkdir()
    for part, labels in (("train", [1, 2, 1]), ("test", [2])):
        (folder / f"{part}_X.bin").write_bytes(drawn(len(labels), 3, 96, 96).tobytes())
        (folder / f"{part}_y.bin").write_bytes(bytes(labels))
    (folder / "class_names.txt").write_text("airplane\nbird\n")
    return (3, 3, 96, 96), [0, 1, 0]


def svhn(monkeypatch):
    from scipy.io import savemat

    for part, n in (("train", 10), ("test", 2)):
        labels = np.arange(1, n + 1, dtype=np.uint8)[:, None]
        savemat(f"{part}_32x32.mat", {"X": drawn(32, 32, 3, n), "y": labels})
    return (10, 3, 32, 32), [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]


def pairs(monkeypatch):
    class Pairs(list):
        classes = ("a", "b")

    mine = ModuleType("my_project")
    mine.train_set = Pairs((Image.fromarray(drawn(9, 9, 3)), i % 2) for i in range(4))
    mine.test_set = Pairs((Image.fromarray(drawn(9, 9, 3)), i % 2) for i in range(2))
    monkeypatch.setitem(sys.modules, "my_project", mine)
    return (4, 3, 32, 32), [0, 1, 0, 1]


WRITERS = {
    writer.__name__: writer
    for writer in (mnist_csv, cifar_bin, float_arrays, names_without_endings, sixteen_bits, stl10)
} | {"svhn": svhn, "pairs": pairs}


def test_each_block_of_the_page_has_files_here_and_none_is_long():
    assert BLOCKS.keys() == WRITERS.keys()
    assert max(len(code.splitlines()) for code in BLOCKS.values()) <= 20


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", WRITERS)
def test_a_function_of_the_page_reads_its_format(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    shape, labels = WRITERS[name](monkeypatch)
    Path(f"{name}.py").write_text(BLOCKS[name])
    test_split = 0.25 if labels is None else None
    dataset = decode(DataConfig(source=f"{name}.py:load", test_split=test_split))
    assert tuple(dataset.train.images_nchw.shape) == shape
    assert labels in (None, dataset.train.labels_n.tolist())
