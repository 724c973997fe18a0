"""From the predictions of a study's runs to one table of numbers.

Every number of a page stands in this table, and the table comes from files alone.
"""

import csv
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyak import metrics
from polyak.errors import FileError, one_line
from polyak.files import replacing, write_csv
from polyak.records.predictions import Predictions
from polyak.records.studies import RowRecord
from polyak.records.vocabulary import FOLLOW_UPS, Phase

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


class Results:
    """Numbers of one row of a study, found by phase, arm and metric."""

    def __init__(self, numbers: Iterable[Result] = ()) -> None:
        self._all = tuple(numbers)
        self._by_key: dict[tuple[str, str, str, str], dict[str, float]] = {}
        for r in self._all:
            key = (r.phase, r.arm, r.metric, r.target)
            self._by_key.setdefault(key, {})[r.seed] = r.value

    def __iter__(self) -> Iterator[Result]:
        return iter(self._all)

    def by_seed(
        self, *, phase: Phase, arm: str, metric: str, target: str = "test"
    ) -> Mapping[str, float]:
        """One metric of one arm, by seed or pair of seeds; empty where it was not measured."""
        return self._by_key.get((phase, arm, metric, target), {})


def row_results(row: RowRecord, predictions: Mapping[str, Predictions]) -> list[Result]:
    """All numbers of a row's arms, as far as its runs are done.

    Args:
        row: It names the runs.
        predictions: By id, what the arms of finished runs and probes say.
    """
    return [
        *_of_models(row, predictions, predictions, target="test"),
        *_of_probes(row, predictions),
    ]


def evaluation_results(
    row: RowRecord,
    own: Mapping[str, Predictions],
    predictions: Mapping[str, Predictions],
    *,
    target: str,
) -> list[Result]:
    """Numbers of a row's arms on other test images than its own.

    Args:
        row: It names the runs.
        own: By id, what the arms of finished runs said when they ended: temperatures are fitted
            on the runs' own hold-outs.
        predictions: By id, what they say about those images: the part "test".
        target: What the images are called.
    """
    return list(_of_models(row, own, predictions, target=target))


def all_runs(row: RowRecord) -> list[str]:
    """Ids of a row's runs: search, refits, follow-ups, probes."""
    searches = [run_id for runs in row.search.values() for run_id in runs.values()]
    following = [run_id for runs in row.follow_ups.values() for run_id in runs.values()]
    return [*searches, *row.refit.values(), *following, *row.transfer.values()]


def phases_of(row: RowRecord) -> dict[Phase, Mapping[str, str]]:
    """Runs that make models of a row, by phase and seed."""
    found: dict[Phase, Mapping[str, str]] = {"search": row.chosen_search, "refit": row.refit}
    return found | {phase: row.follow_ups[phase] for phase in FOLLOW_UPS if phase in row.follow_ups}


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
    lines = [astuple(result) for result in results]
    columns = zip(*lines, strict=True) if lines else [()] * len(schema)
    arrays = [
        _numbers(column) if field.type == pyarrow.float64() else _texts(column)
        for field, column in zip(schema, columns, strict=True)
    ]
    table = pyarrow.Table.from_arrays(arrays, schema=schema)
    with replacing(path) as temporary:
        # Readers that ask for it (page_checksum_verification=True) see that a file was altered.
        pyarrow.parquet.write_table(table, temporary, write_page_checksum=True)


def read_results(path: Path) -> list[Result]:
    """Read the table that `write_results` or `write_results_csv` wrote.

    Raises:
        FileError: if it is damaged or another table.
    """
    try:
        lines = _lines(path)
        return [Result(**{**line, "value": float(line["value"])}) for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(
            f"{path} cannot be read ({one_line(error)}); expected a study's table of results. "
            "Write its report again."
        ) from error


def _lines(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    import pyarrow.parquet

    return list(pyarrow.parquet.read_table(path).to_pylist())


# From lists pyarrow makes arrays only after importing pandas, which takes half a second.
def _texts(values: Sequence[str]) -> Any:
    import pyarrow

    encoded = [value.encode() for value in values]
    ends = array("i", accumulate(map(len, encoded), initial=0))
    buffers = pyarrow.py_buffer(ends), pyarrow.py_buffer(b"".join(encoded))
    return pyarrow.StringArray.from_buffers(len(encoded), *buffers)


def _numbers(values: Sequence[float]) -> Any:
    import pyarrow

    buffer = pyarrow.py_buffer(array("d", values))
    return pyarrow.Array.from_buffers(pyarrow.float64(), len(values), [None, buffer])


def write_results_csv(path: Path, results: Iterable[Result]) -> None:
    """Write the table as text."""
    heads = [field.name for field in fields(Result)]
    write_csv(path, heads, (astuple(result) for result in results))


def _of_models(
    row: RowRecord,
    own: Mapping[str, Predictions],
    predictions: Mapping[str, Predictions],
    *,
    target: str,
) -> Iterator[Result]:
    for phase, runs in phases_of(row).items():
        done = {seed: predictions[i] for seed, i in runs.items() if i in own and i in predictions}
        for seed, here in done.items():
            trained = own[runs[seed]]
            for arm in here.arms("test"):
                found = _test_metrics(row, here, trained, arm)
                if here is trained:
                    found |= _training_metrics(trained, arm)
                yield from on_test(
                    found, row=row.label, phase=phase, arm=arm, seed=seed, target=target
                )
        yield from _pairs(row.label, phase, done, target)


def _test_metrics(
    row: RowRecord, predictions: Predictions, own: Predictions, arm: str
) -> dict[str, float]:
    """Of an arm on test images, with the temperature of the run's own hold-out."""
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
    if "train" not in predictions:
        return None
    given_n, clean_n = (predictions.labels_n("train", kind) for kind in ("given", "clean"))
    wrong_n = given_n != clean_n
    if not wrong_n.any():
        return None
    learnt_n: Tensor = predictions.predicted_n("train", arm)[wrong_n] == given_n[wrong_n]
    return learnt_n.double().mean().item()


def _pairs(
    label: str, phase: Phase, done: Mapping[str, Predictions], target: str
) -> Iterator[Result]:
    # An evaluation may have asked some runs about more arms than others.
    by_arm = {
        arm: [seed for seed, said in done.items() if arm in said.arms("test")]
        for arm in sorted({arm for said in done.values() for arm in said.arms("test")})
    }
    for arm, seeds in by_arm.items():
        logits = [done[seed].logits_nk("test", arm) for seed in seeds]
        for (i, j), found in metrics.differences(logits, done[seeds[0]].labels_n("test")):
            scores = {
                "churn": found.churn,
                "js": found.js,
                "js_paper_code": found.js_paper_code,
                **asdict(found.agreement),
            }
            pair = f"{seeds[i]}-{seeds[j]}"
            yield from on_test(scores, row=label, phase=phase, arm=arm, seed=pair, target=target)


def _of_probes(row: RowRecord, predictions: Mapping[str, Predictions]) -> Iterator[Result]:
    seeds = {run_id: seed for seed, run_id in row.refit.items()}
    for target, probe_id in row.transfer.items():
        if probe_id not in predictions:
            continue
        probe = predictions[probe_id]
        labels_n = probe.labels_n("test")
        for name in probe.arms("test"):
            run_id, arm = name.split(".")
            if run_id not in seeds:
                raise FileError(
                    f"probe {probe_id} is of run {run_id}; expected one of the refits of row "
                    f"{row.label!r}. Remove the probe's folder and run the study again."
                )
            yield Result(
                row=row.label,
                phase="transfer",
                target=target,
                arm=arm,
                seed=seeds[run_id],
                metric="accuracy",
                value=metrics.accuracy(probe.logits_nk("test", name), labels_n),
            )
