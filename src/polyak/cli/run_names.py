"""Runs by what a person calls them: a folder, or an id."""

from pathlib import Path

from polyak.errors import FileError, few
from polyak.files import read_json
from polyak.records.runs import RunFolder, run_folder

OUT = Path("out")
"""Where an id is looked up unless another output folder is named."""


def run_named(name: str, out: Path) -> RunFolder:
    """A run by its folder or by its id in the output folder.

    Raises:
        FileError: if there is none.
    """
    for folder in (RunFolder(Path(name)), run_folder(out, name)):
        if (folder.path / "config.json").is_file():
            return folder
    raise FileError(
        f"run is {name!r}; expected the folder of a run, or an id in {out / 'runs'}. "
        f"{_instead(Path(name))}"
    )


def run_folder_of(path: Path) -> Path | None:
    """The folder of a run by its path or id; None for what is none, such as a model's folder."""
    for folder in (path, run_folder(OUT, str(path)).path):
        try:
            record = read_json(folder / "config.json")
        except (OSError, ValueError):
            continue
        # `save_pretrained` leaves a config.json too.
        if isinstance(record, dict) and "kind" in record:
            return folder
    return None


def studies_in(out: Path) -> list[Path]:
    """The folders of an output folder's studies, by name."""
    return sorted(plan.parent for plan in out.glob("*/plan.json"))


def runs_in(folder: Path) -> list[Path]:
    """The folders of the runs of an output folder, or of the one that a study lies in."""
    out = folder.resolve().parent if (folder / "plan.json").is_file() else folder
    return sorted(config.parent for config in (out / "runs").glob("*/config.json"))


def _instead(folder: Path) -> str:
    """Which folders the user may have meant."""
    there = [f"'{path}'" for path in runs_in(folder)] if folder.is_dir() else []
    if there:
        return f"Give one of {few(there)}; `polyak status '{folder}'` says what each is."
    return "`polyak train` prints the folder, and a study's are named in its plan.json."
