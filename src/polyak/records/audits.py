"""The folder of a label audit: what weights say about training images, and what follows.

predictions.safetensors   logits of arms on training and hold-out images, see `predictions`
labels.csv                all training labels, the most doubtful first
scores.csv                how well each score finds wrong labels, where they are known
index.html                the page
"""

from dataclasses import dataclass
from pathlib import Path

from polyak.records.runs import RunFolder


@dataclass(frozen=True, slots=True)
class AuditFolder:
    """The files of one audit."""

    path: Path

    @property
    def predictions(self) -> Path:
        """Logits of the run's arms on its training images."""
        return self.path / "predictions.safetensors"

    @property
    def labels(self) -> Path:
        """The ranking."""
        return self.path / "labels.csv"

    @property
    def scores(self) -> Path:
        """AUROC and precision of each score."""
        return self.path / "scores.csv"

    @property
    def page(self) -> Path:
        """The page of images."""
        return self.path / "index.html"


def audit_folder(run: RunFolder) -> AuditFolder:
    """The folder of a run's audit: `audits/<id>` beside `runs/`.

    Not in the run's own folder, where nothing is written once it has ended.
    """
    path = run.path.resolve()
    return AuditFolder(path.parent.parent / "audits" / path.name)
