"""The paper's published numbers, found by data set, architecture and arm."""

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import ceil
from typing import Any, Literal

from polyak.report.numbers import number

Version = Literal["submitted", "camera-ready"]
VERSIONS: tuple[Version, ...] = ("submitted", "camera-ready")


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One number of the paper."""

    version: Version
    """The submitted paper or the camera-ready one."""

    table: int
    dataset: str
    """What the models were trained on."""

    architecture: str
    phase: str
    """"search" for models of 80 % of the training data, "refit" for all, "transfer"."""

    target: str
    """"test", or the data set that features were transferred to."""

    model: str
    """As the paper calls it."""

    arm: str
    """As we call it; empty for other people's methods."""

    metric: str
    value: float
    """Accuracy, churn and ECE in percent, as printed; loss in nats."""

    std: float | None
    """Standard deviation over three runs, ddof 0; None where none was published."""

    note: str

    @property
    def quoted(self) -> bool:
        """Whether the paper only repeats it: another paper's number, or one of another table."""
        return self.note.startswith("quoted")


@cache
def published() -> tuple[Published, ...]:
    """All numbers that a table of ours can stand beside."""
    text = files("polyak.report.paper").joinpath("paper_values.csv").read_text(encoding="utf-8")
    return tuple(_published(line) for line in csv.DictReader(text.splitlines()))


def numbers_for(dataset: str, architecture: str) -> tuple[Published, ...]:
    """What the paper has on a data set and architecture; empty if it has nothing."""
    return _by_subject().get((key(dataset), key(architecture)), ())


@cache
def _by_subject() -> dict[tuple[str, str], tuple[Published, ...]]:
    """All numbers, by the keys of data set and architecture: a page asks for every cell."""
    found: dict[tuple[str, str], list[Published]] = {}
    for p in published():
        found.setdefault((key(p.dataset), key(p.architecture)), []).append(p)
    return {subject: tuple(numbers) for subject, numbers in found.items()}


def beside(
    numbers: Iterable[Published],
    *,
    phase: str,
    arm: str,
    metric: str,
    target: str = "test",
    table: int | None = None,
) -> tuple[Published, ...]:
    """The published twins of one number of ours, at most one a version.

    Where a version prints a number twice, its table with the lower number holds, unless the
    number is asked from a `table`.
    """
    wanted = (phase, arm, metric, key(target))
    found: dict[str, Published] = {}
    for p in sorted(numbers, key=lambda p: p.table):
        here = table in (None, p.table)
        if here and (p.phase, p.arm, p.metric, key(p.target)) == wanted:
            found.setdefault(p.version, p)
    return tuple(found[version] for version in VERSIONS if version in found)


def notes_on(number: Published) -> tuple[str, ...]:
    """What a reader must know of a published number: whose it is, and where the paper errs."""
    found = [note["text"] for note in _facts()["notes"] if _concerns(note["where"], number)]
    return ((f"{number.note[0].upper()}{number.note[1:]}.",) if number.note else ()) + tuple(found)


def note_everywhere() -> str:
    """What concerns every average of the paper."""
    text: str = _facts()["everywhere"]
    return text


def protocol(dataset: str) -> dict[str, int]:
    """Epochs, training images and seeds of the paper on a data set; empty if it has none.

    Example:
        >>> protocol("zh-plus/tiny-imagenet")["epochs"], protocol("digits")
        (150, {})
    """
    facts = _facts()["protocol"]
    found = {
        what: count
        for what in ("epochs", "training_images")
        for name, count in facts[what].items()
        if key(name) == key(dataset)
    }
    return {**found, "seeds": facts["seeds"]} if found else {}


def timescales(*, holdout: bool) -> dict[str, float]:
    """Timescales of weight decay in a run of the paper's ResNets, by data set.

        λ·η·S / (2·(1 − μ)),   S steps of a linear rise to η and a cosine to 0

    Args:
        holdout: In the search, where a hold-out is kept apart, or in the refit.

    Example:
        >>> {name: round(found, 1) for name, found in timescales(holdout=True).items()}
        {'CIFAR-10': 12.5, 'CIFAR-100': 37.6, 'CIFAR-10N(Worse)': 25.0, 'CIFAR-100N': 25.0, \
'TinyImageNet': 37.5}
    """
    optimiser = _facts()["optimiser"]
    found = {}
    for dataset, rate in optimiser["learning_rate"].items():
        size = protocol(dataset)
        images = size["training_images"] * (1 - optimiser["holdout"] * holdout)
        steps = size["epochs"] * ceil(images / optimiser["batch_size"])
        total = rate * steps / 2
        found[dataset] = optimiser["weight_decay"] * total / (1 - optimiser["momentum"])
    return found


@cache
def key(name: str) -> str:
    """A name without what spellings differ in: owner on a hub, case, spaces, hyphens."""
    bare = "".join(c for c in name.rsplit("/", 1)[-1].casefold() if c.isalnum())
    # The paper trains on no other labels of CIFAR-10N than the worse ones.
    return "cifar10nworse" if bare == "cifar10n" else bare


@cache
def _facts() -> dict[str, Any]:
    text = files("polyak.report.paper").joinpath("paper_notes.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def _concerns(where: dict[str, list[Any]], number: Published) -> bool:
    return all(getattr(number, field) in allowed for field, allowed in where.items())


def _published(line: dict[str, Any]) -> Published:
    std = float(line["std"]) if line["std"] else None
    numbers = {"table": int(line["table"]), "value": float(line["value"]), "std": std}
    return Published(**{**line, **numbers})


@dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    """One number of the paper, or two that agree."""

    text: str
    version: str
    """"submitted", "camera-ready" or "both"."""

    source: str
    """Table and origin."""

    quoted: bool
    notes: tuple[str, ...]
    """What to know of it, as sentences."""


def merge_versions(twins: Sequence[Published]) -> tuple[Printed, ...]:
    """Published numbers as printed; one entry where both versions agree."""
    found = [_one(p) for p in twins]
    if len(found) == 2 and len({_shown(p.value, p.metric) for p in twins}) == 1:
        fuller = max(found, key=lambda entry: len(entry.text))
        return (
            Printed(
                text=fuller.text,
                version="both",
                source="; ".join(dict.fromkeys(entry.source for entry in found)),
                quoted=any(entry.quoted for entry in found),
                notes=tuple(dict.fromkeys(note for entry in found for note in entry.notes)),
            ),
        )
    return tuple(found)


def _one(p: Published) -> Printed:
    spread = "" if p.std is None else f" ± {_shown(p.std, p.metric)}"
    return Printed(
        text=_shown(p.value, p.metric) + spread,
        version=p.version,
        source=f"table {p.table}" + (f": {p.note}" if p.note else ""),
        quoted=p.quoted,
        notes=notes_on(p),
    )


def _shown(value: float, metric: str) -> str:
    return number(value, 3 if metric.startswith("js") else 2)
