"""polyak audit RUN: training labels that are probably wrong."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.console import Console
from torch import Tensor

from polyak.analysis.audit import AuditRow, ScoreResult, audit_rows, score_results
from polyak.cli.json_output import print_json
from polyak.cli.run_names import run_named
from polyak.data import Partition, load, partition, prepare
from polyak.data.config import name_of
from polyak.errors import ConfigError, unknown
from polyak.records.audits import AuditFolder, audit_folder
from polyak.records.predictions import Predictions, holds
from polyak.records.runs import RunFolder
from polyak.records.vocabulary import (
    BASELINE,
    EMA_ACC_BN,
    EMA_LOSS_BN,
    SGD_AT_EMA,
    SGD_STOPPED,
)
from polyak.report.audit import Audited, audit_sentences, write_audit
from polyak.training.config import RunConfig
from polyak.training.config_file import read_run_config
from polyak.training.jobs import usable_device
from polyak.training.later_predictions import write_training_predictions
from polyak.training.logits import arm_weights, kept_arms

COMPARED = (EMA_ACC_BN, EMA_LOSS_BN, SGD_AT_EMA, SGD_STOPPED, BASELINE)
"""Arms whose scores are compared, where a run has them."""


@dataclass(frozen=True)
class AuditCommand:
    """List the training labels of a finished run that are probably wrong, with their images."""

    run_name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """A run's folder, such as out/runs/0123456789ab, or its id in the output folder."""

    average: str = EMA_ACC_BN
    """The kept weights that rank the labels: a name in the run's averages/."""

    top: int = 100
    """Number of images on the page; the table holds all labels."""

    out: Path = Path("out")
    """Output folder in which an id is looked up."""

    device: str = "cpu"
    """Where to compute: cpu, cuda."""

    json: bool = False
    """One JSON object on stdout instead, see docs/json.md."""

    def run(self) -> int:
        """Exit code 0."""
        if self.top < 0:
            raise ConfigError(f"top is {self.top!r}; expected >= 0.")
        device = usable_device(self.device)
        folder = run_named(self.run_name, self.out)
        kept, config = kept_arms(folder), read_run_config(folder.path / "config.json")
        if config.data.is_text:
            raise ConfigError(
                f"run {config.id} is of text, whose next bytes are what they are; expected one of "
                "labelled images. Audit such a run."
            )
        if self.average not in kept:
            raise ConfigError(unknown("average", self.average, kept))
        data_config = prepare(config.data)
        data = partition(load(data_config), data_config, holdout=config.holdout)
        arms = [arm for arm in kept if arm in (*COMPARED, self.average)]
        audit = audit_folder(folder)
        predictions = _predictions(audit, folder, config, data, arms, device)
        rows = audit_rows(predictions, average=self.average)
        results = score_results(predictions, average=self.average)
        about = _about(folder, config, data, self.average)
        write_audit(audit, about, rows, results, _images(rows[: self.top], data))
        if self.json:
            shown = _values(audit, about, rows[: self.top], results)
            print_json("polyak-audit", {**shown, "samples": len(rows)})
            return 0
        for sentence in audit_sentences(about, rows, results, shown=min(self.top, len(rows))):
            print(sentence)
        print(f"labels: {audit.labels.resolve()}")
        print(f"page: {audit.page.resolve()}")
        return 0


def _predictions(
    audit: AuditFolder,
    folder: RunFolder,
    config: RunConfig,
    data: Partition,
    arms: Sequence[str],
    device: torch.device,
) -> Predictions:
    """What the arms say, read from the audit's folder where it is there already."""
    if holds(audit.predictions, "train", arms):
        return Predictions(audit.predictions)
    console = Console(stderr=True, soft_wrap=True)
    write_training_predictions(
        audit.predictions,
        folder,
        config=config,
        data=data,
        arms=arms,
        device=device,
        on_arm=lambda arm: console.print(f"evaluating {arm}"),
    )
    return Predictions(audit.predictions)


def _about(folder: RunFolder, config: RunConfig, data: Partition, average: str) -> Audited:
    _, manifest = arm_weights(folder, average)
    noise = config.data.noise
    labels = {"none": "", "file": f", labels {noise.key}"}.get(
        noise.kind, f", {noise.kind} label noise at rate {noise.rate:g}"
    )
    return Audited(
        run=folder.path.resolve().name,
        data=f"{name_of(config.data.source)}{labels}",
        model=f"{config.model.name}, {'search' if config.holdout else 'refit'}",
        classes=data.classes,
        average=average,
        source=str(manifest.get("source", average)),
        epoch=int(manifest.get("epoch", config.epochs)),
        epochs=config.epochs,
    )


def _values(
    audit: AuditFolder,
    about: Audited,
    rows: Sequence[AuditRow],
    results: Sequence[ScoreResult],
) -> dict[str, object]:
    return {
        **asdict(about),
        "labels": audit.labels.resolve(),
        "page": audit.page.resolve(),
        "doubtful": [asdict(row) for row in rows],
        "scores": [
            {
                **asdict(result),
                "precision": [{"first": n, "wrong": share} for n, share in result.precision],
            }
            for result in results
        ],
    }


def _images(rows: Sequence[AuditRow], data: Partition) -> Tensor:
    """The rows' images, in their order."""
    parts = {"train": data.train_images_nchw}
    places = {int(index): ("train", n) for n, index in enumerate(data.train_index_n)}
    if data.holdout_images_nchw is not None:
        assert data.holdout_index_n is not None
        parts["holdout"] = data.holdout_images_nchw
        places |= {int(index): ("holdout", n) for n, index in enumerate(data.holdout_index_n)}
    found = [parts[part][n] for part, n in (places[row.index] for row in rows)]
    return torch.stack(found) if found else data.train_images_nchw[:0]
