"""polyak predict RUN IMAGES…: what a run's network says about pictures of the user.

Shape suffixes: n images, c channels, h height, w width, k classes.
"""

import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TextIO

import torch
import tyro
from torch import Tensor

from polyak.cli.json_output import print_json
from polyak.cli.run_names import OUT, run_named
from polyak.data.config import ResizeHow
from polyak.errors import ConfigError, DataError, few, unknown
from polyak.files import replacing
from polyak.records.vocabulary import EMA_ACC_BN
from polyak.runs import PictureReader, Run, load, picture_files

CHUNK = 2048
"""Pictures that are in memory at a time: whole batches of an evaluation."""


@dataclass(frozen=True)
class PredictCommand:
    """Say the class of pictures, with the probability of each class, as CSV.

    Probabilities are the softmax of the logits, without a temperature.
    """

    run_name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """A run's folder, such as out/runs/0123456789ab, or its id in out/."""

    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Picture files, and folders of them."""

    arm: str = EMA_ACC_BN
    """Which weights: a name in the run's averages/."""

    resize: ResizeHow | None = None
    """What to do with pictures of another size than the run's. shorter-side-crop: scale the
    shorter side, cut the middle out. squash: scale both sides. None: as the run's own images were
    resized; where they were not, such a picture is refused."""

    out: Path | None = None
    """The CSV file to write, instead of stdout."""

    device: str = "cpu"
    """Where to compute: cpu, cuda."""

    json: bool = False
    """One JSON object on stdout instead, see docs/json.md."""

    def run(self) -> int:
        """Exit code 0."""
        run = load(run_named(self.run_name, OUT).path)
        if run.config.data.is_text:
            raise ConfigError(
                f"run {run.id} is of text; expected one of images. `polyak.runs.load(…).predict` "
                "takes windows of bytes."
            )
        if self.arm not in run.arms:
            raise ConfigError(unknown("arm", self.arm, run.arms))
        if self.out is not None and self.out.is_dir():
            raise ConfigError(f"out is '{self.out}', a folder; expected a file. Name a new one.")
        files = picture_files(self.images)
        if not files:
            raise ConfigError("0 images are given; expected at least one file or folder.")
        p_nk = self._probabilities(run, files)
        if self.out is not None:
            with replacing(self.out) as temporary, temporary.open("w", newline="") as file:
                _write_csv(file, run.classes, files, p_nk)
        if self.json:
            print_json("polyak-predict", self._values(run, files, p_nk))
        elif self.out is not None:
            print(f"{len(files)} images by {self.arm} -> {self.out.resolve()}")
        else:
            _write_csv(sys.stdout, run.classes, files, p_nk)
        return 0

    def _probabilities(self, run: Run, files: Sequence[Path]) -> Tensor:
        network = run.network(self.arm, device=self.device)
        logits = [run.predict(network, x_nchw) for x_nchw in self._chunks(run, files)]
        return torch.cat(logits).softmax(dim=1)

    def _chunks(self, run: Run, files: Sequence[Path]) -> Iterator[Tensor]:
        """The pictures as tensors, unless one of them cannot be used.

        Raises:
            DataError: that says why of the first, and names the others.
        """
        own = run.config.data
        how = self.resize or (None if own.resize is None else own.resize_how)
        reader = PictureReader(run.card.image_shape, how)
        faults: dict[Path, DataError] = {}
        for first in range(0, len(files), CHUNK):
            pictures = []
            for path in files[first : first + CHUNK]:
                try:
                    pictures.append(reader.read(path))
                except DataError as error:
                    faults[path] = error
            if not faults:
                yield torch.stack(pictures)
        if faults:
            whose, *others = faults
            more = few([f"'{path}'" for path in others])
            raise DataError(f"{faults[whose]}" + (f" Nor can be used: {more}." if others else ""))
        for note in reader.notes():
            print(f"note: {note}", file=sys.stderr)

    def _values(self, run: Run, files: Sequence[Path], p_nk: Tensor) -> dict[str, object]:
        return {
            "run": run.id,
            "arm": self.arm,
            "classes": run.classes,
            "images": [
                {
                    "path": path,
                    "class": run.classes[int(p_k.argmax())],
                    "probabilities": p_k.tolist(),
                }
                for path, p_k in zip(files, p_nk, strict=True)
            ],
            "out": None if self.out is None else self.out.resolve(),
        }


def _write_csv(file: TextIO, classes: Sequence[str], files: Sequence[Path], p_nk: Tensor) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["path", "class", *(f"p_{name}" for name in classes)])
    for path, p_k in zip(files, p_nk, strict=True):
        # Nine digits are all that float32 has.
        writer.writerow([path, _said(classes, p_k), *(f"{p:.9g}" for p in p_k.tolist())])


def _said(classes: Sequence[str], p_k: Tensor) -> str:
    return classes[int(p_k.argmax())]
