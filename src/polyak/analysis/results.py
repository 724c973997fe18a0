"""From the predictions of a study's runs to one table of numbers.

Every number of a page stands in this table, and the table comes from files alone.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from polyak import metrics
from polyak.files import replacing
from polyak.records.predictions import Predictions
from polyak.records.runs import RunFolder, run_folder
from polyak.records.studies import RowRecord, StudyRecord

Phase = Literal["search", "refit", "transfer", "held", "annealed"]
FOLLOW_UPS: tuple[Phase, ...] = ("held", "annealed")
FLOOR_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One number."""

    row: str
    """Label of the study's row."""

    phase: Phase
    """Models of the search (80 % of the data), of the refit (all of it), probes of those, or what
    follows the choice: the search with a learning rate held, the refit annealed early."""

    target: str
    """"test", or the target of a probe."""

    arm: str
    seed: str
    """A seed, or two joined by "-" for a number about a pair of runs."""

    metric: str
    """accuracy, loss, brier, ece, ece_floor, temperature, ece_scaled, loss_scaled, memorised,
    holdout_accuracy, churn, js, js_paper_code, both_right, both_wrong, flipped,
    differently_wrong. Fractions, nats; nothing in percent."""

    value: float


def study_results(out: Path, study: StudyRecord) -> list[Result]:
    """All numbers of a study, as far as its runs are done.

    Args:
        out: The output folder that holds `runs/`.
        study: Its rows name the runs.
    """
    return [result for row in study.rows for result in _row_results(out, row)]


def values(
    results: Iterable[Result],
    *,
    row: str,
    arm: str,
    metric: str,
    phase: Phase,
    target: str = "test",
) -> dict[str, float]:
    """One metric of one arm, by seed (or pair of seeds)."""
    wanted = (row, arm, metric, phase, target)
    return {
        r.seed: r.value for r in results if (r.row, r.arm, r.metric, r.phase, r.target) == wanted
    }


def write_results(path: Path, results: Iterable[Result]) -> None:
    """Write the table as Parquet, for pandas, polars or DuckDB."""
    # Reading a page's numbers again needs no pyarrow, so only this function does.
    import pyarrow
    import pyarrow.parquet

    # Named types, so that a study without results yet has the same columns.
    schema = pyarrow.schema(
        [
            (field.name, pyarrow.float64() if field.name == "value" else pyarrow.string())
            for field in fields(Result)
        ]
    )
    table = pyarrow.Table.from_pylist([asdict(result) for result in results], schema=schema)
    with replacing(path) as temporary:
        pyarrow.parquet.write_table(table, temporary)


def _row_results(out: Path, row: RowRecord) -> Iterator[Result]:
    phases: tuple[tuple[Phase, Mapping[str, str]], ...] = (
        ("search", row.chosen_search),
        ("refit", row.refit),
        *((phase, row.follow_ups[phase]) for phase in FOLLOW_UPS if phase in row.follow_ups),
    )
    for phase, runs in phases:
        said = {seed: _predictions(run_folder(out, run_id)) for seed, run_id in runs.items()}
        done = {seed: predictions for seed, predictions in said.items() if predictions is not None}
        for seed, predictions in done.items():
            for arm in predictions.arms("test"):
                found = _arm_metrics(row, predictions, arm)
                yield from on_test(found, row=row.label, phase=phase, arm=arm, seed=seed)
        yield from _pairs(row.label, phase, done)
    yield from _probes(out, row)


def _predictions(folder: RunFolder) -> Predictions | None:
    return Predictions(folder.predictions) if folder.ending == "done" else None


def _arm_metrics(row: RowRecord, predictions: Predictions, arm: str) -> dict[str, float]:
    logits_nk, labels_n = predictions.logits_nk("test", arm), predictions.labels_n("test")
    bins = bins_for(len(labels_n))
    draws = torch.Generator().manual_seed(FLOOR_SEED)
    found = {
        "accuracy": metrics.accuracy(logits_nk, labels_n),
        "loss": metrics.cross_entropy(logits_nk, labels_n),
        "brier": metrics.brier(logits_nk, labels_n),
        "ece": metrics.ece(logits_nk, labels_n, bins=bins),
        "ece_floor": metrics.ece_floor(logits_nk, bins=bins, generator=draws),
    }
    if "holdout" in predictions:
        temperature = temperature_for(row, predictions.logits_nk("holdout", arm), predictions)
        scaled_nk = logits_nk.double() / temperature
        found["holdout_accuracy"] = metrics.accuracy(
            predictions.logits_nk("holdout", arm), predictions.labels_n("holdout", "given")
        )
        found["temperature"] = temperature
        found["ece_scaled"] = metrics.ece(scaled_nk, labels_n, bins=bins)
        found["loss_scaled"] = metrics.cross_entropy(scaled_nk, labels_n)
    memorised = _memorised(predictions, arm)
    return found if memorised is None else {**found, "memorised": memorised}


def temperature_for(row: RowRecord, logits_nk: Tensor, run: Predictions) -> float:
    """A temperature for logits of a run's hold-out, by the row's labels and its code."""
    coded = "temperature" in row.paper_code
    fit = metrics.fit_temperature_paper_code if coded else metrics.fit_temperature
    return fit(logits_nk, run.labels_n("holdout", row.holdout_labels))


def on_test(
    found: Mapping[str, float], *, row: str, phase: Phase, arm: str, seed: str
) -> Iterator[Result]:
    """Metrics of an arm on the test images as results."""
    for metric, value in found.items():
        yield Result(
            row=row,
            phase=phase,
            target="test",
            arm=arm,
            seed=seed,
            metric=metric,
            value=value,
        )


def bins_for(samples: int) -> int:
    """Bins of the calibration error: the paper's 100, fewer where each would hold under 20."""
    return max(1, min(100, samples // 20))


def _memorised(predictions: Predictions, arm: str) -> float | None:
    """Share of the wrongly labelled training samples that get their wrong label."""
    given_n, clean_n = (predictions.labels_n("train", kind) for kind in ("given", "clean"))
    wrong_n = given_n != clean_n
    if not wrong_n.any():
        return None
    learnt_n: Tensor = predictions.predicted_n("train", arm)[wrong_n] == given_n[wrong_n]
    return learnt_n.double().mean().item()


def _pairs(label: str, phase: Phase, done: Mapping[str, Predictions]) -> Iterator[Result]:
    for (first, a), (second, b) in combinations(done.items(), 2):
        for arm in a.arms("test"):
            logits = a.logits_nk("test", arm), b.logits_nk("test", arm)
            found = {
                "churn": metrics.churn(*logits),
                "js": metrics.js_divergence(*logits),
                "js_paper_code": metrics.js_paper_code(*logits),
                **asdict(metrics.agreement(*logits, a.labels_n("test"))),
            }
            yield from on_test(found, row=label, phase=phase, arm=arm, seed=f"{first}-{second}")


def _probes(out: Path, row: RowRecord) -> Iterator[Result]:
    seeds = {run_id: seed for seed, run_id in row.refit.items()}
    for target, probe_id in row.transfer.items():
        predictions = _predictions(run_folder(out, probe_id))
        if predictions is None:
            continue
        labels_n = predictions.labels_n("test")
        for name in predictions.arms("test"):
            run_id, arm = name.split(".")
            yield Result(
                row=row.label,
                phase="transfer",
                target=target,
                arm=arm,
                seed=seeds[run_id],
                metric="accuracy",
                value=metrics.accuracy(predictions.logits_nk("test", name), labels_n),
            )
