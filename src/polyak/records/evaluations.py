"""Where evaluations of a finished run's kept weights lie, and what they say beside the run.

out/evaluations/<name>/<run>.safetensors   logits of the run's arms on other test images than its
                                           own, see `predictions`
out/evaluations/controls/<run>.safetensors   SGD with recomputed statistics on the run's own images
out/<study>/evaluations/<name>.csv         the numbers of all runs of a study, as `results` has them
"""

from pathlib import Path

from polyak.records.predictions import Predictions
from polyak.records.runs import run_folder


def evaluation_file(out: Path, name: str, run_id: str) -> Path:
    """What a run's arms say about the images of an evaluation.

    Not in the run's own folder, where nothing is written once it has ended.
    """
    return out / "evaluations" / name / f"{run_id}.safetensors"


def controls_file(out: Path, run_id: str) -> Path:
    """What SGD with recomputed statistics says about a run's own images, asked after its end."""
    return evaluation_file(out, "controls", run_id)


def predictions_of(out: Path, run_id: str) -> Predictions:
    """What a finished run's arms said, its controls too where they were asked later.

    Raises:
        FileError: if a file is damaged, or the two are about other images.
    """
    later = controls_file(out, run_id)
    own = run_folder(out, run_id).predictions
    return Predictions(own, later if later.exists() else None)


def evaluation_table(study: Path, name: str) -> Path:
    """The numbers of an evaluation in a study's folder."""
    return study / "evaluations" / f"{name}.csv"


def evaluation_tables(study: Path) -> list[Path]:
    """The numbers of all evaluations of a study, by name."""
    return sorted((study / "evaluations").glob("*.csv"))
