"""How far a logger that appends has come with a run, and what to say where a logger is missing."""

from pathlib import Path

from polyak.errors import ConfigError
from polyak.files import read_json, write_json

NAME = "written.json"


def written(folder: Path) -> int | None:
    """The last epoch that was wholly written to a folder; None where nothing says so."""
    try:
        last = read_json(folder / NAME)["epoch"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return last if isinstance(last, int) else None


def mark_written(folder: Path, epoch: int) -> None:
    """Record that all epochs up to this one are written; call it after they are."""
    write_json(folder / NAME, {"epoch": epoch})


def missing_extra(name: str) -> ConfigError:
    """What to raise where the package's extra is not installed."""
    return ConfigError(
        f"log is '{name}', which is not installed; expected the package's extra of that name. "
        f'Run `pip install "polyak[{name}]"`.'
    )
