"""Folders of pictures: what is read is what lies there, or it is refused by name."""

import os
import shutil
import tempfile
from collections import Counter
from itertools import count
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from support.decoded import decoded

from polyak.data import DataConfig
from polyak.data.formats.folders import find as find_folders
from polyak.data.formats.found import Wanted
from polyak.data.sources import decode, find
from polyak.errors import DataError


def colour(value: int) -> bytes:
    """A picture of 2×2 pixels that no other value gives."""
    return b"P6 2 2 255\n" + bytes((value // 251, value % 251, 7)) * 4


def put(path: Path, content: bytes = b"") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def pets(folder: Path, splits=("train", "test"), classes=("cat", "dog"), n=2) -> Path:
    values = count()
    for split in splits:
        for name in classes:
            for i in range(n):
                put(folder / split / name / f"{i}.ppm", colour(next(values)))
    return folder


def held(images) -> Counter:
    """The pictures of a set as (class, colour)."""
    pixels = images.images_nchw[:, :2, 0, 0].tolist()
    names = [images.classes[label] for label in images.labels_n.tolist()]
    return Counter(zip(names, (251 * a + b for a, b in pixels), strict=True))


LITTER = [".ipynb_checkpoints", "__MACOSX", "@eaDir", ".git"]
NAMES = ["cat", "dog", "a::b", "train", ".hidden", "__private", "x [1]", "Ü#?%*", "0", "10"]
FILES = [
    "0.ppm",
    "1.PPM",
    "x::y.ppm",
    "no ending",
    ".2.ppm",
    "__3.ppm",
    "._4.ppm",
    "5.weird",
    "6 .ppm",
]
JUNK = [".DS_Store", "._0.png", "Thumbs.db", "notes.txt", "metadata.csv", "labels.json"]
ODD = [
    "picture in a folder inside",
    "class of folders alone",
    "picture beside",
    "link to nothing",
    "circle",
]
"""What is refused by name; everything else is read or, without being a picture, left out."""

class_plans = st.fixed_dictionaries(
    {
        "name": st.sampled_from(NAMES),
        "files": st.lists(st.sampled_from(FILES), min_size=2, max_size=4, unique=True),
        "junk": st.lists(st.sampled_from(JUNK), max_size=2, unique=True),
        "linked": st.booleans(),
        "linked_files": st.booleans(),
        "litter": st.sampled_from([None, *LITTER]),
        "deep_junk": st.booleans(),
    }
)
plans = st.fixed_dictionaries(
    {
        "spelling": st.sampled_from([("train", "test"), ("Train", "TESTING"), ("training", "eval"),
                                     ("seg_train", "seg_test"), ("train", "val")]),
        "classes": st.lists(class_plans, min_size=2, max_size=4, unique_by=lambda c: c["name"]),
        "litter": st.sampled_from([None, *LITTER]),
        "empty": st.booleans(),
        "odd": st.sampled_from([None, None, None, *ODD]),
        "splits": st.booleans(),
    }
)  # fmt: skip


def build_class(folder: Path, plan: dict, elsewhere: Path, values) -> None:
    target = elsewhere / f"pool {next(values)}" if plan["linked"] else folder
    for name in plan["files"]:
        value = next(values)
        if plan["linked_files"]:
            put(elsewhere / f"file {value}", colour(value))
            target.mkdir(parents=True, exist_ok=True)
            (target / name).symlink_to(elsewhere / f"file {value}")
        else:
            put(target / name, colour(value))
    for name in plan["junk"]:
        put(target / name, b"\0\5\x16\7 no picture")
    if plan["litter"]:
        put(target / plan["litter"] / "0-checkpoint.ppm", colour(next(values)))
    if plan["deep_junk"]:
        put(target / "notes" / "a.txt", b"text")
    if plan["linked"]:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(target, target_is_directory=True)


def build(root: Path, plan: dict) -> dict[str, Path]:
    """Write what the plan says; the folders of the splits."""
    values = count()
    source, elsewhere = root / "source", root / "elsewhere"
    roles = ("train", "test") if plan["splits"] else ("train",)
    homes = {
        role: source / name if plan["splits"] else source
        for role, name in zip(roles, plan["spelling"], strict=False)
    }
    for home in homes.values():
        for each in plan["classes"]:
            build_class(home / each["name"], each, elsewhere, values)
        if plan["litter"]:
            put(home / plan["litter"] / "9.ppm", colour(next(values)))
        if plan["empty"]:
            (home / "nothing in it").mkdir()
        put(home / "README.md", b"text")
    # A folder `train` that holds pictures and folders of pictures is a split with strays.
    first = next(c["name"] for c in plan["classes"] if c["name"] != "train")
    train = homes["train"]
    if plan["odd"] == "picture in a folder inside":
        put(train / first / "siamese" / "0.ppm", colour(next(values)))
    if plan["odd"] == "class of folders alone":
        put(train / "zebra" / "siamese" / "0.ppm", colour(next(values)))
    if plan["odd"] == "picture beside":
        put(train / "stray.ppm", colour(next(values)))
    if plan["odd"] == "link to nothing":
        (train / first / "lost.ppm").symlink_to(root / "nowhere")
    if plan["odd"] == "circle":
        (train / first / "again").symlink_to(train, target_is_directory=True)
    return homes


def lying_in(home: Path) -> Counter:
    """The slow twin: every picture below a folder as (top folder, colour), by another walk."""
    found = Counter()
    for folder, _, names in os.walk(home, followlinks=True):
        parts = Path(folder).relative_to(home).parts
        if set(parts) & set(LITTER):
            continue
        for name in names:
            content = (Path(folder) / name).read_bytes()
            if content.startswith(b"P6"):
                value = 251 * content[11] + content[12]
                found[parts[0] if parts else "(beside)", value] += 1
    return found


# What fails is small already; making it smaller takes minutes.
@settings(phases=[Phase.explicit, Phase.generate])
@given(plan=plans)
@example(
    plan={
        "spelling": ("train", "test"), "litter": None, "empty": True, "odd": None, "splits": True,
        "classes": [
            {"name": name, "files": ["0.ppm", "no ending"], "junk": ["metadata.csv"],
             "linked": name == "cat", "linked_files": False, "litter": None, "deep_junk": False}
            for name in ("cat", "a::b")
        ],
    }
)  # fmt: skip
def test_what_is_read_is_what_lies_there_or_it_is_refused_by_name(plan):
    with tempfile.TemporaryDirectory() as root:
        homes = build(Path(root), plan)
        # Of two images of a class, this share leaves one to train on.
        test_split = None if plan["splits"] else 0.25
        config = DataConfig(source=f"{root}/source", test_split=test_split)
        # A picture in the root beside class folders without splits is said, not refused.
        said = plan["odd"] == "picture beside" and not plan["splits"]
        if plan["odd"] and not said:
            word = {"picture in a folder inside": "siamese",
                    "class of folders alone": "siamese", "picture beside": "stray.ppm",
                    "link to nothing": "lost.ppm", "circle": "again"}[plan["odd"]]  # fmt: skip
            with pytest.raises(DataError, match=word):
                decode(config)
            return
        dataset = decode(config)
        if plan["splits"]:
            assert held(dataset.train) == lying_in(homes["train"])
            assert held(dataset.test) == lying_in(homes["test"])
        else:
            there = {key: n for key, n in lying_in(homes["train"]).items() if key[0] != "(beside)"}
            assert held(dataset.train) + held(dataset.test) == Counter(there)
        notes = " ".join(dataset.notes)
        assert not said or "stray.ppm" in notes
        assert not plan["empty"] or "nothing in it" in notes


def test_every_file_of_class_folders_is_part_of_the_fingerprint(class_folder):
    assert set(find(DataConfig(source=str(class_folder))).files) == {
        *(f"train/{name}/{i}.png" for name in ("cat", "dog") for i in range(3)),
        *(f"test/{name}/{i}.png" for name in ("cat", "dog") for i in range(2)),
    }


def test_class_folders_without_a_test_part_are_refused(class_folder):
    shutil.rmtree(class_folder / "test")
    with pytest.raises(DataError, match=r"splits train; expected .* Or give test_split, such as"):
        find(DataConfig(source=str(class_folder)))


def test_a_folder_without_class_folders_is_none_of_its_kind(tmp_path):
    put(tmp_path / "train.csv")
    put(tmp_path / "images" / "0.ppm", colour(1))
    assert find_folders(tmp_path, Wanted()) is None


def test_a_stratified_test_set_is_split_off_with_a_seed(tmp_path):
    folder = tmp_path / "pets"
    values = count()
    for name, n in (("cat", 10), ("dog", 20)):
        for i in range(n):
            put(folder / name / f"{i}.ppm", colour(next(values)))
    train, test = decoded(folder, test_split=0.2)
    assert test.labels_n.bincount().tolist() == [2, 4]
    assert (held(train) + held(test)).total() == len(held(train) | held(test)) == 30
    same, _ = decoded(folder, test_split=0.2)
    other, _ = decoded(folder, test_split=0.2, test_split_seed=1)
    assert torch.equal(same.images_nchw, train.images_nchw)
    assert held(other) != held(train)
    prints = {
        find(DataConfig(source=str(folder), test_split=share, test_split_seed=seed)).identity()
        for share, seed in ((0.2, 0), (0.2, 1), (0.3, 0))
    }
    assert len(prints) == 3


def test_a_test_split_beside_a_test_set_or_too_small_is_refused(tmp_path):
    pets(tmp_path / "a")
    with pytest.raises(DataError, match=r"test_split is given, and .* has the splits test, train"):
        find(DataConfig(source=str(tmp_path / "a"), test_split=0.2))
    pets(tmp_path / "b", splits=(".",))
    with pytest.raises(DataError, match=r"test_split is 0\.01, 0 of 4 images"):
        decoded(tmp_path / "b", test_split=0.01)


def test_a_validation_split_is_the_holdout_and_can_be_ignored(tmp_path):
    folder = pets(tmp_path / "pets", splits=("train", "dev", "test"))
    dataset = decode(DataConfig(source=str(folder)))
    assert (len(dataset.train), dataset.holdout_images, len(dataset.test)) == (8, 4, 4)
    assert held(dataset.train.take(torch.arange(4, 8))) == lying_in(folder / "dev")
    ignoring = decode(DataConfig(source=str(folder), validation="ignore"))
    assert (len(ignoring.train), ignoring.holdout_images) == (4, 0)
    assert held(ignoring.train) == lying_in(folder / "train")
    assert any("'dev', as asked" in note for note in ignoring.notes)
    with_test = decode(DataConfig(source=str(folder), validation="ignore"))
    shutil.rmtree(folder / "dev")
    assert decode(DataConfig(source=str(folder))).fingerprint == with_test.fingerprint


def test_two_spellings_of_a_split_are_refused(tmp_path):
    pets(tmp_path, splits=("train", "Train", "test"))
    with pytest.raises(DataError, match="'Train' and 'train', two spellings of train"):
        find(DataConfig(source=str(tmp_path)))


def test_a_class_that_only_a_link_holds_is_read(tmp_path):
    """The reproducer of a public report: one class folder of three is a link."""
    pets(tmp_path / "real", classes=("bird", "cat", "dog"))
    for split in ("train", "test"):
        (tmp_path / "ds" / split).mkdir(parents=True)
        for name in ("bird", "dog"):
            shutil.copytree(tmp_path / "real" / split / name, tmp_path / "ds" / split / name)
        (tmp_path / "ds" / split / "cat").symlink_to(tmp_path / "real" / split / "cat")
    train, _ = decoded(tmp_path / "ds")
    assert train.classes == ("bird", "cat", "dog")
    assert train.labels_n.bincount().tolist() == [2, 2, 2]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_file_and_links_to_themselves_are_refused(tmp_path):
    pets(tmp_path)
    os.mkfifo(tmp_path / "train" / "cat" / "pipe.ppm")
    with pytest.raises(DataError, match=r"pipe\.ppm' is neither a file nor a folder"):
        find(DataConfig(source=str(tmp_path)))
    (tmp_path / "train" / "cat" / "pipe.ppm").unlink()
    (tmp_path / "train" / "cat" / "loop.ppm").symlink_to("loop.ppm")
    with pytest.raises(DataError, match=r"loop\.ppm' is a link to 'loop\.ppm', where nothing is"):
        find(DataConfig(source=str(tmp_path)))


def test_a_folder_that_holds_a_data_set_is_named(tmp_path):
    pets(tmp_path / "archive" / "pets")
    with pytest.raises(DataError, match=r"But '.*/archive/pets' holds one: give that"):
        find(DataConfig(source=str(tmp_path / "archive")))
