"""What `polyak inspect` says of things that hold no weights: logits, and folders of runs."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from polyak.cli.run_names import runs_in
from polyak.errors import FileError, few
from polyak.records.predictions import Predictions
from polyak.records.runs import RunFolder

PARTS = ("test", "holdout", "train")


def parts_of(path: Path) -> list[dict[str, Any]]:
    """The parts of a file of predictions, as JSON values; empty for any other file.

    Raises:
        FileError: if it is damaged.
    """
    if not path.is_file():
        return []
    try:
        said = Predictions(path)
    except FileError:
        # No safetensors, or none that is whole: whoever reads weights says so.
        return []
    found = []
    for part in (part for part in PARTS if said.arms(part)):
        arms = said.arms(part)
        values = said.logits_nk(part, arms[0])
        classes = values.shape[1] if values.ndim == 2 else None
        found.append({"name": part, "samples": len(values), "classes": classes, "arms": arms})
    return found


def parts_lines(path: Path, parts: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The same as text."""
    yield f"{'file':<12} {path}"
    yield f"{'holds':<12} predictions, no weights: what a run's arms said about images"
    for part in parts:
        kind = "classes" if part["classes"] is None else f"logits of {part['classes']} classes"
        yield ""
        yield f"{part['name']}: {kind}, {part['samples']:,} images"
        yield f"  arms: {', '.join(part['arms'])}"


def check_is_no_output_folder(path: Path) -> None:
    """Refuse a run's, a study's or an output folder by the files in it that hold weights.

    Raises:
        FileError: that names them.
    """
    if not path.is_dir():
        return
    weights = sorted(RunFolder(path).arm("any").parent.glob("*.safetensors"))
    if weights and (path / "config.json").is_file():
        files = few([f"'{file}'" for file in weights])
        raise FileError(
            f"{path} is the folder of a run; expected a file of weights. Give one of {files}."
        )
    runs = [f"'{run}'" for run in runs_in(path)]
    if runs:
        raise FileError(
            f"{path} holds runs; expected a file of weights. Those of a run lie in its averages/; "
            f"runs are {few(runs)}."
        )
