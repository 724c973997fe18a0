"""The same small data set written in every layout in which data lies, one function each."""

import csv
import io
import json
import pickle
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

Sets = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""By split: RGB images (n, h, w, 3) and labels, each of 0, 1 and 2 at least once."""

NAMES = ["ant", "bee", "cow"]


def png(image: np.ndarray) -> bytes:
    Image.fromarray(image).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def parquet(folder: Path, sets: Sets, column: Callable, label: Callable) -> Path:
    """Tables with a column of images and one of labels, made by functions of the arrays."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    for split, (images, labels) in sets.items():
        table = pa.table({"image": column(pa, images), "label": label(pa, labels)})
        pq.write_table(table, folder / f"{split}.parquet")
    return folder


def encoded(kind: str) -> Callable:
    return lambda pa, images: pa.array([png(i) for i in images], getattr(pa, kind)())


def numbers(pa, labels):
    return pa.array(labels.tolist())


def as_kind(kind: str) -> Callable:
    return lambda pa, labels: pa.array(labels.tolist(), pa.int64()).cast(getattr(pa, kind)())


def large_texts(pa, labels):
    return pa.array([NAMES[label] for label in labels], pa.large_string())


def lists(pa, images):
    return pa.array(images.tolist())


def channels_first(pa, images):
    return pa.array(images.transpose(0, 3, 1, 2).tolist())


def one_element_lists(pa, labels):
    return pa.array([[label] for label in labels.tolist()])


def class_folders(folder: Path, sets: Sets) -> Path:
    for split, (images, labels) in sets.items():
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            # Read in the order of paths; so that all layouts agree, by class and then number.
            put(folder / split / NAMES[label] / f"{i:03}.png", png(image))
    return folder


def tables_of_paths(folder: Path, sets: Sets) -> Path:
    for split, (images, labels) in sets.items():
        rows = [("file", "label")]
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            put(folder / "pictures" / split / f"{i}.png", png(image))
            rows.append((f"pictures/{split}/{i}.png", NAMES[label]))
        with (folder / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    return folder


def metadata(folder: Path, sets: Sets) -> Path:
    for split, (images, labels) in sets.items():
        lines = []
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            put(folder / split / f"{i}.png", png(image))
            lines.append(json.dumps({"file_name": f"{i}.png", "label": int(label)}))
        put(folder / split / "metadata.jsonl", "\n".join(lines).encode())
    return folder


def saved(folder: Path, sets: Sets) -> Path:
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=[*NAMES, "never"])}
    )
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    made = {
        split: datasets.Dataset.from_dict(
            {"image": [Image.fromarray(i) for i in images], "label": labels.tolist()},
            features=features,
        )
        for split, (images, labels) in sets.items()
    }
    datasets.DatasetDict(made).save_to_disk(str(folder))
    if shown:
        datasets.enable_progress_bars()
    return folder


def array_3d(folder: Path, sets: Sets) -> Path:
    import datasets

    shape = next(iter(sets.values()))[0].shape[1:]
    features = datasets.Features(
        {"image": datasets.Array3D(shape, "uint8"), "label": datasets.Value("int64")}
    )
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    for split, (images, labels) in sets.items():
        rows = {"image": list(images), "label": labels.tolist()}
        folder.mkdir(parents=True, exist_ok=True)
        made = datasets.Dataset.from_dict(rows, features=features)
        made.to_parquet(folder / f"{split}.parquet")
    if shown:
        datasets.enable_progress_bars()
    return folder


def npz(folder: Path, sets: Sets) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for split, (images, labels) in sets.items():
        arrays |= {f"{split}_images": images, f"{split}_labels": labels[:, None].astype(np.uint8)}
    np.savez(folder / "mnist.npz", **arrays)
    return folder / "mnist.npz"


def keras_npz(folder: Path, sets: Sets) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for split, (images, labels) in sets.items():
        arrays |= {f"x_{split}": images, f"y_{split}": labels}
    np.savez_compressed(folder / "some.npz", **arrays)
    return folder


def shards(folder: Path, sets: Sets) -> Path:
    for split, (images, labels) in sets.items():
        folder.mkdir(parents=True, exist_ok=True)
        for shard, part in enumerate(np.array_split(np.arange(len(labels)), 2)):
            with tarfile.open(folder / f"{split}-{shard:06}.tar", "w") as archive:
                for i in part:
                    for ending, content in (("png", png(images[i])), ("cls", b"%d" % labels[i])):
                        member = tarfile.TarInfo(f"{i:04}.{ending}")
                        member.size = len(content)
                        archive.addfile(member, io.BytesIO(content))
    return folder


def single(writer: Callable[[Path, Sets], Path], ending: str) -> Callable[[Path, Sets], Path]:
    """Only the training file of a layout."""

    def write(folder: Path, sets: Sets) -> Path:
        return next(writer(folder, {"train": sets["train"]}).rglob(f"*.{ending}"))

    return write


PARQUET_COLUMNS = {
    "bytes": (encoded("binary"), numbers),
    "large bytes and large text": (encoded("large_binary"), large_texts),
    "nested lists of pixels": (lists, numbers),
    "nested lists, channels first": (channels_first, numbers),
    "whole floats": (encoded("binary"), as_kind("float64")),
    "one-element lists": (encoded("binary"), one_element_lists),
    "small integers": (encoded("binary"), as_kind("uint8")),
}
LAYOUTS: dict[str, Callable[[Path, Sets], Path]] = {
    "class folders": class_folders,
    "CSV with paths": tables_of_paths,
    "metadata.jsonl in folders of splits": metadata,
    "save_to_disk": saved,
    "Array3D": array_3d,
    "npz of MedMNIST": npz,
    "npz of Keras": keras_npz,
    "tar shards": shards,
    **{
        f"parquet: {name}": (lambda f, s, c=columns: parquet(f, s, *c))
        for name, columns in PARQUET_COLUMNS.items()
    },
}


def cifar_pickles(folder: Path, sets: Sets) -> Path:
    """CIFAR-10's files in small, as Python 2 wrote them: keys and names are byte strings."""

    def dump(name: str, content: object) -> None:
        put(folder / name, pickle.dumps(content, protocol=2))

    images, labels = sets["train"]
    for i, part in enumerate(np.array_split(np.arange(len(labels)), 5), 1):
        dump(f"data_batch_{i}", _batch(images[part], labels[part]))
    dump("test_batch", _batch(*sets["test"]))
    dump("batches.meta", {b"label_names": [name.encode() for name in NAMES]})
    return folder


def _batch(images: np.ndarray, labels: np.ndarray) -> dict[bytes, object]:
    return {
        b"data": images.transpose(0, 3, 1, 2).reshape(len(images), -1),
        b"labels": labels.tolist(),
    }


def small_sets(n: int = 9, side: int = 6, seed: int = 0) -> Sets:
    """Random images whose labels rise, as class folders order them."""
    drawn = np.random.default_rng(seed)
    return {
        split: (
            drawn.integers(0, 256, (size, side, side, 3), dtype=np.uint8),
            np.sort(np.arange(size) % 3),
        )
        for split, size in (("train", n), ("test", 6))
    }
