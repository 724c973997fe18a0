"""The authors' own curves behind the paper's figure 2: CIFAR-100N, ResNet-34.

Copied from spreadsheets of their public repository (`SOURCE`): accuracy in percent by epoch.
"""

import csv
from functools import cache
from importlib.resources import files

from polyak.report.figures import style
from polyak.report.figures.chart import Series
from polyak.report.numbers import number
from polyak.report.paper.published import key, protocol

SOURCE = "the public repository Morales97/decentralized-DL, commit aa56150"
_DATASET = "CIFAR-100N"
_COLUMNS = {
    "sgd": ("test", "sgd_test_acc_percent"),
    "ema": ("test", "ema_test_acc_percent"),
    "rate": ("lr", "learning_rate"),
}


def drawn_for(dataset: str) -> bool:
    """Whether the authors' curves are of this data set."""
    return key(dataset) == key(_DATASET)


@cache
def curve(name: str) -> tuple[tuple[float, float], ...]:
    """Epoch and value; sgd, ema or rate."""
    file, column = _COLUMNS[name]
    text = (
        files("polyak.report.paper").joinpath("authors", f"figure2_{file}.csv").read_text("utf-8")
    )
    lines = csv.DictReader(text.splitlines())
    return tuple((float(line["epoch"]), float(line[column])) for line in lines if line[column])


def test_series(epochs: int) -> tuple[Series, ...]:
    """Their test accuracy, to be drawn behind ours.

    Args:
        epochs: Of our runs. In shorter runs their epochs are moved to the same share of the run.
    """
    drawn = (("ema", "EMA", style.AUTHORS_EMA), ("sgd", "SGD", style.AUTHORS_SGD))
    return tuple(
        _series(name, f"authors’ {label}{_moved(epochs)}", epochs, look)
        for name, label, look in drawn
    )


def rate_series(epochs: int) -> Series:
    """Their learning rate."""
    label = f"authors’ learning rate{_moved(epochs)}"
    return _series("rate", label, epochs, style.AUTHORS_SGD)


def facts() -> str:
    """What their curves say, in a sentence: facts of a drawing, no results."""
    ema, sgd = curve("ema"), curve("sgd")
    epoch, peak = max(ema, key=lambda point: point[1])
    return (
        f"Behind ours are the authors’ own curves, from {SOURCE}: their average peaks at "
        f"{number(peak, 1)} near epoch {epoch:.0f} and ends at {number(ema[-1][1], 1)}, their SGD "
        f"ends at {number(sgd[-1][1], 1)}. The peak was found on test images."
    )


def _series(name: str, label: str, epochs: int, look: style.Style) -> Series:
    x, y = zip(*curve(name), strict=True)
    share = epochs / protocol(_DATASET)["epochs"]
    return Series(label=label, x=tuple(round(share * e, 3) for e in x), y=y, style=look)


def _moved(epochs: int) -> str:
    theirs = protocol(_DATASET)["epochs"]
    return "" if epochs == theirs else f" ({theirs} epochs, squeezed)"
