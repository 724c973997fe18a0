"""Folders of pictures with a folder for each class, within a folder for each split or without.

Each picture is of the class whose folder it lies in; what lies elsewhere is refused or said.
"""

from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from polyak.data.formats.found import Found, Reading, Split, Wanted, by_split, roles, split_named
from polyak.data.formats.walk import LITTER, Tree, is_picture, listed, walk
from polyak.errors import DataError, few

# The endings that the `imagefolder` of `datasets` looked at, with which earlier versions read.
_EARLIER_ENDINGS = frozenset(
    (".apng", ".blp", ".bmp", ".bufr", ".bw", ".cur", ".dcx", ".dds", ".dib", ".emf",
     ".eps", ".fit", ".fits", ".flc", ".fli", ".ftc", ".ftu", ".gbr", ".gif", ".grib",
     ".icb", ".icns", ".ico", ".iim", ".im", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc",
     ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".mpeg", ".mpg", ".msp", ".pbm", ".pcd",
     ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".ps", ".psd", ".pxr", ".ras", ".rgb", ".rgba",
     ".sgi", ".tga", ".tif", ".tiff", ".vda", ".vst", ".webp", ".wmf", ".xbm", ".xpm",)
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ClassFolders:
    """The pictures of one split by path, and what else lies there."""

    pictures: dict[str, Path]
    """By class/name, in the order of these paths."""

    classes: tuple[str, ...]
    """Names of the folders that hold pictures."""

    left_out: tuple[str, ...]
    """What is not read, a phrase each."""

    as_earlier: bool
    """Whether earlier versions read the same pictures with the same labels."""


def find(path: Path, wanted: Wanted) -> Found | None:
    """Class folders in `path`, or in folders of it that are named like splits."""
    if not path.is_dir():
        return None
    folders = [p for p in listed(path) if p.is_dir() and p.name.lower() not in LITTER]
    split_folders = [p for p in folders if split_named(p.name) and _holds_classes(p)]
    if any(split_named(p.name) == "train" for p in split_folders):
        named = by_split((p.name for p in split_folders), where=path)
        used = roles(named, wanted, what=f"folder '{path}'")
        trees = {role: walk(path / name) for role, name in used.items()}
        others = [p.name for p in folders if p.name not in named.values()]
        notes = [f"folder '{name}', which is no split of class folders" for name in others]
        unread = set(named.values()) - set(used.values())
        return _found(trees, [*notes, *(f"folder '{name}', as asked" for name in unread)])
    classes = [p for p in folders if _has_pictures(p)]
    if len(classes) < 2 or all(split_named(p.name) for p in classes):
        return None
    roles({"train": path}, wanted, what=f"folder '{path}', which has class folders only,")
    kept = {p.name for p in folders}
    others = [p.name for p in listed(path) if p.name not in kept]
    notes = [f"'{name}', which is no folder of pictures" for name in others]
    # Those without a picture of their own too: it may be that theirs lie deeper.
    return _found({"train": _joined(path, {p.name: walk(p) for p in folders})}, notes)


def splits_in(path: Path) -> list[str]:
    """Names of the folders in `path` that are splits of class folders, where it holds more."""
    return [
        p.name for p in listed(path) if p.is_dir() and split_named(p.name) and _holds_classes(p)
    ]


def class_folders(tree: Tree) -> ClassFolders:
    """Every picture of a tree that has a folder for each class.

    Raises:
        DataError: that names a picture beside the class folders, or in a folder inside one.
    """
    pictures: dict[str, Path] = {}
    beside: list[str] = []
    deeper: list[str] = []
    left_out: Counter[str] = Counter()
    for name, path in tree.files.items():
        parents = name.split("/")[:-1]
        litter = next((part for part in parents if part.lower() in LITTER), None)
        if litter:
            left_out[f"in folders '{litter}'"] += 1
        elif not is_picture(path):
            left_out["that are no pictures"] += 1
        else:
            group = (beside, None, deeper)[min(len(parents), 2)]
            if group is None:
                pictures[name] = path
            else:
                group.append(name)
    _refuse_others(tree, beside, deeper)
    classes = tuple(sorted({name.split("/")[0] for name in pictures}))
    empty = [
        f for f in tree.folders if "/" not in f and f.lower() not in LITTER and f not in classes
    ]
    phrases = [f"{count} files {what}" for what, count in sorted(left_out.items())]
    if empty:
        phrases.append(f"{len(empty)} folders without a picture ({few(empty)})")
    return ClassFolders(
        pictures=pictures,
        classes=classes,
        left_out=tuple(phrases),
        as_earlier=not [f for f in tree.linked if f]
        and set(pictures) == {name for name in tree.files if _read_earlier(name)},
    )


def _found(trees: dict[str, Tree], notes: list[str]) -> Found:
    parts = {role: class_folders(tree) for role, tree in trees.items()}
    notes = [f"left out: {note}" for note in notes]
    notes += [f"left out of {role}: {p}" for role, part in parts.items() for p in part.left_out]
    return Found(
        # Where earlier versions read something else, what they cached is not this.
        kind="imagefolder" if all(p.as_earlier for p in parts.values()) else "class folders",
        files={f"{role}/{n}": p for role, tree in trees.items() for n, p in tree.files.items()},
        read=partial(_read, parts, notes),
    )


def _joined(root: Path, trees: dict[str, Tree]) -> Tree:
    """One tree of those of some of its folders, without what lies beside these."""
    return Tree(
        root=root,
        files={f"{name}/{n}": p for name, tree in trees.items() for n, p in tree.files.items()},
        folders=(*trees, *(f"{name}/{f}" for name, tree in trees.items() for f in tree.folders)),
        linked=tuple(name for name, tree in trees.items() if tree.linked),
    )


def _read(parts: dict[str, ClassFolders], notes: list[str]) -> Reading:
    classes = tuple(sorted({name for part in parts.values() for name in part.classes}))
    label_of = {name: label for label, name in enumerate(classes)}
    return Reading(
        splits={
            role: picture_files(
                list(part.pictures.values()),
                [label_of[name.split("/")[0]] for name in part.pictures],
                role,
            )
            for role, part in parts.items()
        },
        classes=classes,
        notes=notes,
    )


def picture_files(paths: list[Path], labels: list[int], what: str) -> Split:
    """A split of picture files with the numbers of their classes."""
    return Split(
        labels=np.array(labels, np.int64),
        pictures=lambda: iter(paths),
        place=lambda index: f"{what} image {index} ('{paths[index]}')",
    )


def _read_earlier(name: str) -> bool:
    *parents, file = name.split("/")
    hidden = file.startswith(".") or any(part.startswith((".", "__")) for part in parents)
    ending = Path(file).suffix.lower()
    return ending in _EARLIER_ENDINGS and not hidden and "::" not in name


def _refuse_others(tree: Tree, beside: list[str], deeper: list[str]) -> None:
    if beside:
        raise DataError(
            f"folder '{tree.root}' has pictures beside its class folders ({few(beside)}; "
            f"{len(beside)} in all); expected each picture in the folder of its class. Move them "
            "there or take them away."
        )
    if deeper:
        inner = sorted({name.rpartition("/")[0] for name in deeper})
        raise DataError(
            f"folder '{tree.root}' has pictures in folders inside class folders ({few(inner)}; "
            f"{len(deeper)} in all); expected each picture in the folder of its class itself. Move "
            "them up, or make those folders classes of their own."
        )


def _holds_classes(folder: Path) -> bool:
    """Whether it is a split rather than a class: trains are pictured too."""
    below = [p for p in listed(folder) if p.is_dir() and p.name.lower() not in LITTER]
    return bool(below) and (not _has_pictures(folder) or any(_has_pictures(p) for p in below))


def _has_pictures(folder: Path) -> bool:
    return any(path.is_file() and is_picture(path) for path in listed(folder))
