"""From the predictions of a study's runs to one table of numbers.

Every number of a page stands in this table, and the table comes from files alone.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, astuple, dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from polyak import metrics
from polyak.files import replacing, write_csv
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
    """"test", the target of a probe, or the name of an evaluation."""

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
    return [
        result for row in study.rows for result in (*_row_results(out, row), *_probes(out, row))
    ]


def evaluation_results(
    out: Path, row: RowRecord, said: Mapping[str, Predictions], *, target: str
) -> list[Result]:
    """Numbers of a row's arms on other test images than its own.

    Temperatures are those of the runs' own hold-outs.

    Args:
        out: The output folder that holds `runs/`.
        row: It names the runs.
        said: By run id, what its arms say about those images: the part "test".
        target: What the images are called.
    """
    return list(_row_results(out, row, elsewhere=said, target=target))


def phases_of(row: RowRecord) -> dict[Phase, Mapping[str, str]]:
    """Runs that make models of a row, by phase and seed."""
    followed = {phase: row.follow_ups[phase] for phase in FOLLOW_UPS if phase in row.follow_ups}
    return {"search": row.chosen_search, "refit": row.refit, **followed}


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


def write_results_csv(path: Path, results: Iterable[Result]) -> None:
    """Write the table as text."""
    heads = [field.name for field in fields(Result)]
    write_csv(path, heads, (astuple(result) for result in results))


def _row_results(
    out: Path,
    row: RowRecord,
    *,
    elsewhere: Mapping[str, Predictions] | None = None,
    target: str = "test",
) -> Iterator[Result]:
    for phase, runs in phases_of(row).items():
        done: dict[str, Predictions] = {}
        for seed, run_id in runs.items():
            own = _predictions(run_folder(out, run_id))
            said = own if elsewhere is None else elsewhere.get(run_id)
            if own is None or said is None:
                continue
            done[seed] = said
            for arm in said.arms("test"):
                found = _test_metrics(row, said, own, arm)
                if said is own:
                    found |= _training_metrics(own, arm)
                yield from on_test(
                    found, row=row.label, phase=phase, arm=arm, seed=seed, target=target
                )
        yield from _pairs(row.label, phase, done, target)


def _predictions(folder: RunFolder) -> Predictions | None:
    return Predictions(folder.predictions) if folder.ending == "done" else None


def _test_metrics(
    row: RowRecord, said: Predictions, own: Predictions, arm: str
) -> dict[str, float]:
    """Of an arm on test images, with the temperature of the run's own hold-out."""
    logits_nk, labels_n = said.logits_nk("test", arm), said.labels_n("test")
    bins = bins_for(len(labels_n))
    draws = torch.Generator().manual_seed(FLOOR_SEED)
    found = {
        "accuracy": metrics.accuracy(logits_nk, labels_n),
        "loss": metrics.cross_entropy(logits_nk, labels_n),
        "brier": metrics.brier(logits_nk, labels_n),
        "ece": metrics.ece(logits_nk, labels_n, bins=bins),
        "ece_floor": metrics.ece_floor(logits_nk, bins=bins, generator=draws),
    }
    if "holdout" in own:
        temperature = temperature_for(row, own.logits_nk("holdout", arm), own)
        scaled_nk = logits_nk.double() / temperature
        found["temperature"] = temperature
        found["ece_scaled"] = metrics.ece(scaled_nk, labels_n, bins=bins)
        found["loss_scaled"] = metrics.cross_entropy(scaled_nk, labels_n)
    return found


def _training_metrics(own: Predictions, arm: str) -> dict[str, float]:
    """Of an arm on the images that its run trained on or held out."""
    found = {}
    if "holdout" in own:
        found["holdout_accuracy"] = metrics.accuracy(
            own.logits_nk("holdout", arm), own.labels_n("holdout", "given")
        )
    memorised = _memorised(own, arm)
    return found if memorised is None else {**found, "memorised": memorised}


def temperature_for(row: RowRecord, logits_nk: Tensor, run: Predictions) -> float:
    """A temperature for logits of a run's hold-out, by the row's labels and its code."""
    coded = "temperature" in row.paper_code
    fit = metrics.fit_temperature_paper_code if coded else metrics.fit_temperature
    return fit(logits_nk, run.labels_n("holdout", row.holdout_labels))


def on_test(
    found: Mapping[str, float],
    *,
    row: str,
    phase: Phase,
    arm: str,
    seed: str,
    target: str = "test",
) -> Iterator[Result]:
    """Metrics of an arm on test images as results."""
    for metric, value in found.items():
        yield Result(
            row=row,
            phase=phase,
            target=target,
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


def _pairs(
    label: str, phase: Phase, done: Mapping[str, Predictions], target: str
) -> Iterator[Result]:
    for (first, a), (second, b) in combinations(done.items(), 2):
        # An evaluation may have asked some runs about more arms than others.
        for arm in sorted({*a.arms("test")} & {*b.arms("test")}):
            logits = a.logits_nk("test", arm), b.logits_nk("test", arm)
            found = {
                "churn": metrics.churn(*logits),
                "js": metrics.js_divergence(*logits),
                "js_paper_code": metrics.js_paper_code(*logits),
                **asdict(metrics.agreement(*logits, a.labels_n("test"))),
            }
            pair = f"{first}-{second}"
            yield from on_test(found, row=label, phase=phase, arm=arm, seed=pair, target=target)


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
