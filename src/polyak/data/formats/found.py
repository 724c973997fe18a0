"""What a reader finds at a place before anything is decoded, and what splits are called.

Every layout is found as a `Found`, and every `Found` is read as a `Reading`; what follows (class
numbers, one size, a test set split off) is the same for all and lies in `data/decoding.py`.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from polyak.data.pictures import Pixels, Raw
from polyak.errors import DataError

T = TypeVar("T")

OWN_FUNCTION = (
    "Or read them with a function of ten lines of your own, `--data.source file.py:load`: "
    "docs/data.md has one for each common format."
)
"""What to do about a format that is not read."""

SPELLINGS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "eval", "evaluation"),
    "validation": ("validation", "valid", "val", "dev"),
}
"""What splits are called in names of files and folders: the words of `datasets`, in any case."""

_EDGE = r"[-._ 0-9]"
_WORDS = {
    split: re.compile(rf"(?:^|.*{_EDGE})({'|'.join(words)})(?:$|{_EDGE}.*)", re.I | re.S)
    for split, words in SPELLINGS.items()
}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What of the configuration decides which files are read, and how."""

    image_column: str | None = None
    label_column: str | None = None

    test_split: bool = False
    """Whether a test set will be split off."""

    validation: bool = True
    """Whether a validation split beside a test split is read."""

    @property
    def columns(self) -> tuple[str | None, str | None]:
        """Image and label column as the user named them."""
        return self.image_column, self.label_column


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images and labels of one split, the images not yet decoded."""

    labels: Pixels
    """One for each image: integers, or text."""

    pictures: Callable[[], Iterable[Raw]]
    """The images, in the order of the labels."""

    place: Callable[[int], str]
    """Where an image lies, for messages."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """All splits of a source, by role: train, and test or holdout where they are there."""

    splits: Mapping[str, Split]

    classes: tuple[str, ...] | None = None
    """Names of the classes 0, 1, …; None: the labels of train are their names."""

    notes: Sequence[str] = ()
    """What was left out or is read otherwise than one may think, a phrase each."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A source that was found but not yet read."""

    kind: str
    """How it is read: part of the fingerprint. Another way of reading needs another kind."""

    read: Callable[[], Reading]
    """Read labels and places; pictures only when they are asked for."""

    files: Mapping[str, Path] = field(default_factory=dict)
    """Every file that the result depends on, by name; empty where that is not known."""

    identity: Callable[[], str] | None = None
    """What identifies it where files do not: a text of another library."""

    columns: bool = False
    """Whether it is a table, so that columns can be named."""


def refuse_test_split(wanted: Wanted, what: str) -> None:
    """Raise a DataError if a test set shall be split off where there always is one."""
    if wanted.test_split:
        raise DataError(
            f"test_split is given, and {what}, of which a part is the test set; expected "
            "test_split None. Leave it out."
        )


def array_split(images: Pixels, labels: Pixels, what: str) -> Split:
    """A split of images that lie decoded in one array.

    Args:
        images: uint8, shape (n, h, w) or (n, h, w, c) with c of 1, 3 or 4.
        labels: Integers, shape (n,) or (n, 1).
        what: The split, for messages.

    Raises:
        DataError: if they are something else.
    """
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    shown = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3, 4))
    if images.dtype != np.uint8 or not shown:
        raise DataError(
            f"{what} images are {images.dtype} {images.shape}; expected uint8 (n, h, w) or "
            f"(n, h, w, 3). {OWN_FUNCTION}"
        )
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        raise DataError(
            f"{what} labels are {labels.dtype} {labels.shape}; expected one integer for each "
            f"image. {OWN_FUNCTION}"
        )
    if len(images) != len(labels):
        raise DataError(f"{what} has {len(images)} images; expected {len(labels)}, as labels.")
    return Split(
        labels=labels,
        pictures=lambda: iter(images),
        place=lambda index: f"{what} image {index}",
    )


def split_named(name: str) -> str | None:
    """train, validation or test for the name of a file or folder; None if it names none or two.

    Example:
        >>> [split_named(name) for name in ("Train", "seg_test", "dev-00001", "trainer")]
        ['train', 'test', 'validation', None]
    """
    return split_and_word(name)[0]


def split_and_word(name: str) -> tuple[str | None, str]:
    """The split that a name names, and how it spells it."""
    matches = {split: words.fullmatch(name) for split, words in _WORDS.items()}
    found = [(split, match[1]) for split, match in matches.items() if match]
    return found[0] if len(found) == 1 else (None, "")


def by_split(names: Iterable[str], *, where: Path) -> dict[str, str]:
    """The one name of each split.

    Raises:
        DataError: if two names are spellings of one split.
    """
    found: dict[str, str] = {}
    for name in sorted(names):
        split = split_named(name)
        if split in found:
            raise DataError(
                f"'{where}' has '{found[split]}' and '{name}', two spellings of {split}; expected "
                "one. Put them together, or take one away."
            )
        if split is not None:
            found[split] = name
    return found


def roles(
    splits: Mapping[str, T], wanted: Wanted, *, what: str, names: Iterable[str] | None = None
) -> dict[str, T]:
    """Splits by what they are for: train, test and, beside a test set, holdout.

    A validation split is the test set where there is no other, as in Tiny-ImageNet.

    Args:
        splits: By train, validation and test.
        wanted: Whether a test set will be split off, and validation is read.
        what: The data set, for messages.
        names: All names that were seen, where they are not those of `splits`.

    Raises:
        DataError: if there is no train, no test set, or one too many.
    """
    seen = f"{what} has the splits {', '.join(splits if names is None else names) or 'none'}"
    if "train" not in splits:
        raise DataError(f"{seen}; expected train and one of {_TESTS}.")
    if wanted.test_split and "test" in splits:
        raise DataError(
            f"test_split is given, and {seen}; expected test_split None where there is a test set. "
            "Leave it out, or give train alone as the source."
        )
    if not wanted.test_split and not splits.keys() & {"test", "validation"}:
        raise DataError(
            f"{seen}; expected train and one of {_TESTS} too. Or give test_split, such as 0.2 "
            "(`--data.test-split 0.2`): that share is set apart."
        )
    found = {"train": splits["train"]}
    if "test" in splits:
        found["test"] = splits["test"]
    elif not wanted.test_split:
        return {**found, "test": splits["validation"]}
    if "validation" in splits and wanted.validation:
        found["holdout"] = splits["validation"]
    return found


_TESTS = ", ".join((*SPELLINGS["test"], *SPELLINGS["validation"]))
