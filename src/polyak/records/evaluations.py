"""Where evaluations of a finished run's kept weights lie, on other test images than its own.

out/evaluations/<name>/<run>.safetensors   logits of the run's arms, see `predictions`
out/<study>/evaluations/<name>.csv         the numbers of all runs of a study, as `results` has them
"""

from pathlib import Path


def evaluation_file(out: Path, name: str, run_id: str) -> Path:
    """What a run's arms say about the images of an evaluation.

    Not in the run's own folder, where nothing is written once it has ended.
    """
    return out / "evaluations" / name / f"{run_id}.safetensors"


def evaluation_table(study: Path, name: str) -> Path:
    """The numbers of an evaluation in a study's folder."""
    return study / "evaluations" / f"{name}.csv"


def evaluation_tables(study: Path) -> list[Path]:
    """The numbers of all evaluations of a study, by name."""
    return sorted((study / "evaluations").glob("*.csv"))
