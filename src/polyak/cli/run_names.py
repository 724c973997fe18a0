"""Runs by what a person calls them: a folder, or an id."""

from pathlib import Path

from polyak.errors import FileError
from polyak.records.runs import RunFolder, run_folder


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
        "`polyak train` prints the folder, and a study's are named in its plan.json."
    )
