"""What a run's weights need beside them to be used elsewhere, and what made them: card.json.

Without it classes and normalisation are only known where the data set is.
"""

import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from polyak.errors import FileError
from polyak.records.checked import read_checked, write_checked
from polyak.records.runs import RunFolder
from polyak.records.vocabulary import RUN_AGAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a run's networks take and say, and which code trained them."""

    classes: tuple[str, ...]
    """Names of the classes, in the order of the logits."""

    image_shape: tuple[int, int, int]
    """Channels, height and width."""

    mean: tuple[float, ...]
    """Of each channel, where pixels count from 0 to 1."""

    std: tuple[float, ...]
    """Of each channel, likewise: a network takes (pixel/255 − mean)/std."""

    commit: str | None = None
    """Of the checkout whose code trained; None where it was installed otherwise."""


def write_card(folder: RunFolder, card: Card) -> None:
    """Leave a card in a run's folder."""
    write_checked(folder.card, asdict(card))


def read_card(folder: RunFolder) -> Card | None:
    """The card of a run; None for a run of before there were cards.

    Raises:
        FileError: if it is damaged.
    """
    path = folder.card
    if not path.exists():
        return None
    try:
        values = read_checked(path)
        channels, height, width = values["image_shape"]
        return Card(
            classes=tuple(values["classes"]),
            image_shape=(channels, height, width),
            mean=tuple(values["mean"]),
            std=tuple(values["std"]),
            commit=values["commit"],
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise FileError(
            f"{path} cannot be read ({error}); expected the card of a run. {RUN_AGAIN}"
        ) from error


def commit_of_code() -> str | None:
    """The commit of the checkout that this package lies in, if it lies in one and git is there."""
    source = Path(__file__).resolve().parents[2]
    root = source.parent
    # Elsewhere it would be the commit of whatever folder it was installed in.
    if source.name != "src" or not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
