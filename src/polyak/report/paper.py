"""The paper's published numbers, found by data set, architecture and arm."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

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


@cache
def published() -> tuple[Published, ...]:
    """All numbers that a table of ours can stand beside."""
    text = files("polyak.report").joinpath("paper_values.csv").read_text(encoding="utf-8")
    return tuple(_published(line) for line in csv.DictReader(text.splitlines()))


def numbers_for(dataset: str, architecture: str) -> tuple[Published, ...]:
    """What the paper has on a data set and architecture; empty if it has nothing."""
    wanted = (_key(dataset), _key(architecture))
    return tuple(p for p in published() if (_key(p.dataset), _key(p.architecture)) == wanted)


def beside(
    numbers: Iterable[Published], *, phase: str, arm: str, metric: str, target: str = "test"
) -> tuple[Published, ...]:
    """The published twins of one number of ours, at most one a version.

    Where a version prints a number twice, its table with the lower number holds.
    """
    wanted = (phase, arm, metric, _key(target))
    found: dict[str, Published] = {}
    for p in sorted(numbers, key=lambda p: p.table):
        if (p.phase, p.arm, p.metric, _key(p.target)) == wanted:
            found.setdefault(p.version, p)
    return tuple(found[version] for version in VERSIONS if version in found)


def _published(line: dict[str, Any]) -> Published:
    std = float(line["std"]) if line["std"] else None
    numbers = {"table": int(line["table"]), "value": float(line["value"]), "std": std}
    return Published(**{**line, **numbers})


def _key(name: str) -> str:
    """A name without what spellings differ in: owner on a hub, case, spaces, hyphens."""
    return "".join(c for c in name.rsplit("/", 1)[-1].casefold() if c.isalnum())
