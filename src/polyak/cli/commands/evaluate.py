"""polyak evaluate STUDY: kept weights on other test images."""

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.console import Console

from polyak.analysis.results import Result, evaluation_results, phases_of, write_results_csv
from polyak.cli.json_output import print_json
from polyak.cli.run_names import run_named
from polyak.data import DataConfig, Partition, load, partition, prepare
from polyak.data.config import name_of
from polyak.errors import ConfigError, StateError, unknown
from polyak.records.evaluations import (
    controls_file,
    evaluation_file,
    evaluation_table,
    predictions_of,
)
from polyak.records.predictions import Predictions, holds
from polyak.records.runs import RunFolder, run_folder
from polyak.records.studies import RowRecord, read_study
from polyak.records.vocabulary import Switch
from polyak.report.names import ordered
from polyak.report.sections.evaluation import evaluation_lines
from polyak.training.config import RunConfig
from polyak.training.config_file import read_run_config
from polyak.training.jobs import usable_device
from polyak.training.later_predictions import write_controls, write_test_predictions
from polyak.training.logits import controls_of, kept_arms


@dataclass(frozen=True)
class EvaluateCommand:
    """Evaluate the kept weights of a study or a run on other test images; nothing is trained.

    Without --source on the run's own data set: all of its test images where the run used some.
    What is there already is not computed again. With --controls alone on the images that the runs
    were evaluated on, for the study's page.
    """

    what: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """A study's folder, such as out/demo, or a run's, or a run's id in the output folder."""

    source: str | None = None
    """Another data set of the same classes, whose test images are taken; named as for `train`."""

    image_column: str | None = None
    """Column that holds its images, for tables."""

    label_column: str | None = None
    """Column that holds its labels, for tables."""

    test_limit: int | None = None
    """Number of test images, a fixed stratified draw. None: all."""

    arms: tuple[str, ...] = ()
    """Which weights, such as sgd ema_acc_bn, of the runs that kept them. None: all."""

    controls: bool = False
    """Give SGD's kept weights recomputed BatchNorm statistics, in runs that were made before they
    got some (SGD + BN), so that the study's page, written again, compares averages with them."""

    batchnorm_augmentation: Switch | None = None
    """Recompute all BatchNorm statistics that are recomputed ("+ BN") once more, from training
    images that are cropped and flipped (on) or as they are (off). None: as the runs have it."""

    out: Path = Path("out")
    """Output folder in which an id is looked up."""

    device: str = "cpu"
    """Where to compute: cpu, cuda."""

    json: bool = False
    """One JSON object on stdout instead, see docs/json.md; the tables go to stderr."""

    def run(self) -> int:
        """Exit code 0."""
        if not self.json:
            self._evaluate_rows()
            return 0
        with redirect_stdout(sys.stderr):
            found = self._evaluate_rows()
        print_json("polyak-evaluate", {"evaluations": found})
        return 0

    def _evaluate_rows(self) -> list[dict[str, object]]:
        """Row by row, with the numbers as JSON values at the end."""
        if self.source is None and (self.image_column or self.label_column):
            raise ConfigError(
                "a column is given without --source; expected both or neither. A run's own "
                "data set has its columns in the run's config.json."
            )
        device = usable_device(self.device)
        out, study, rows = self._rows()
        runs = {row.label: list(_ended(out, row)) for row in rows}
        _check_arms(self.arms, (run for ended in runs.values() for run in ended))
        if not any(runs.values()):
            raise StateError(
                f"no run of {self.what!r} has ended; expected one. Weights are written when a run "
                "ends: `polyak status` says how far they are."
            )
        for run in {run.path: run for ended in runs.values() for run in ended}.values():
            self._ask_controls(out, run, device)
        ended_rows = [row for row in rows if runs[row.label]]
        if self._controls_alone:
            found = [
                result
                for row in ended_rows
                for result in _own_results(row, {r.path.name: r for r in runs[row.label]}, out)
            ]
            print(f"page with them: polyak report {study or 'STUDY'}")
            return [{"name": "test", "table": None, "results": [asdict(x) for x in found]}]
        tables: dict[str, list[Result]] = {}
        for row in ended_rows:
            name, predictions = self._evaluate(out, runs[row.label], device)
            own = {run.path.name: self._own(out, name, run) for run in runs[row.label]}
            results = evaluation_results(row, own, predictions, target=name)
            tables.setdefault(name, []).extend(results)
            kind = _kind(runs[row.label][0])
            print(f"on the {_samples(predictions):,} test {kind} of {name}")
            print("\n".join(evaluation_lines(row.label, results, judged=row.judged)))
        for name, results in tables.items():
            if study is not None:
                write_results_csv(evaluation_table(study, name), results)
                print(f"numbers: {evaluation_table(study, name).resolve()}")
        return [
            {
                "name": name,
                "table": study and evaluation_table(study, name).resolve(),
                "results": [asdict(result) for result in results],
            }
            for name, results in tables.items()
        ]

    @property
    def _controls_alone(self) -> bool:
        """Whether nothing but SGD + BN on the runs' own images is asked for."""
        others = (self.source, self.test_limit, self.batchnorm_augmentation)
        return self.controls and all(option is None for option in others)

    def _rows(self) -> tuple[Path, Path | None, tuple[RowRecord, ...]]:
        """The output folder, the study's folder if it is one, and whose weights to evaluate."""
        folder = Path(self.what).resolve()
        if (folder / "plan.json").is_file():
            return folder.parent, folder, read_study(folder).rows
        run = run_named(self.what, self.out)
        out = run.path.resolve().parent.parent
        return out, None, (_alone(run.path.name, read_run_config(run.path / "config.json")),)

    def _evaluate(
        self, out: Path, ended: list[RunFolder], device: torch.device
    ) -> tuple[str, dict[str, Predictions]]:
        """What to call the images, and what the runs of a row say of them, by run id."""
        console = Console(stderr=True, soft_wrap=True)
        predictions = {}
        for run in ended:
            config = read_run_config(run.path / "config.json")
            wanted = self._wanted(config.data)
            name = self._name(wanted)
            path = evaluation_file(out, name, run.path.name)
            there = [*kept_arms(run), *_asked_controls(out, run)]
            arms = sorted(arm for arm in there if arm in self.arms or not self.arms)
            if not holds(path, "test", arms):
                write_test_predictions(
                    path,
                    run,
                    config=config,
                    data=_own_data(config),
                    evaluated_on=partition(load(wanted), wanted, holdout=False),
                    arms=arms,
                    device=device,
                    augmentation=self.batchnorm_augmentation,
                    on_arm=partial(_show, console, run.path.name),
                )
            predictions[run.path.name] = Predictions(path)
        return name, predictions

    def _ask_controls(self, out: Path, run: RunFolder, device: torch.device) -> None:
        """Ask SGD + BN about a run's own images, where the run lacks it and it is wanted."""
        missing = controls_of(run) if self.controls or self.arms else []
        wanted = [arm for arm in missing if arm in self.arms or not self.arms]
        path = controls_file(out, run.path.name)
        if not wanted or holds(path, "test", wanted):
            return
        config = read_run_config(run.path / "config.json")
        write_controls(
            path,
            run,
            config=config,
            data=_own_data(config),
            arms=missing,
            device=device,
            on_arm=partial(_show, Console(stderr=True, soft_wrap=True), run.path.name),
        )

    def _own(self, out: Path, name: str, run: RunFolder) -> Predictions:
        """What temperatures are fitted on: the hold-out, with statistics of the same kind."""
        if self.batchnorm_augmentation is None:
            return predictions_of(out, run.path.name)
        return Predictions(evaluation_file(out, name, run.path.name))

    def _name(self, data: DataConfig) -> str:
        """What an evaluation is called; other images or statistics have another name."""
        size = "" if data.test_limit is None else f"-{data.test_limit}"
        given = self.batchnorm_augmentation
        statistics = "" if given is None else f"-bn-augmentation-{given}"
        return f"{name_of(data.source)}{size}-{str(data.fingerprint)[:8]}{statistics}"

    def _wanted(self, own: DataConfig) -> DataConfig:
        """Whose test images to take."""
        if self.source is None:
            return prepare(replace(own, test_limit=self.test_limit))
        wanted = DataConfig(
            source=self.source,
            image_column=self.image_column,
            label_column=self.label_column,
            test_limit=self.test_limit,
            # Images of another size could not be evaluated otherwise.
            resize=own.resize,
            resize_how=own.resize_how,
        )
        return prepare(replace(wanted, context=own.context) if wanted.is_text else wanted)


def _show(console: Console, run_id: str, arm: str) -> None:
    console.print(f"{run_id}: {arm}")


def _alone(run_id: str, config: RunConfig) -> RowRecord:
    """A run as the only one of a row."""
    seed, learning_rate = str(config.seed), config.optim.lr
    return RowRecord(
        label=run_id,
        dataset=config.data.source,
        architecture=config.model.name,
        seeds=(config.seed,),
        learning_rates=(learning_rate,),
        averages=(),
        paper_averages=(),
        search={f"{learning_rate:g}": {seed: run_id}} if config.holdout else {},
        refit={} if config.holdout else {seed: run_id},
        chosen_learning_rate=learning_rate,
        stops={seed: ()},
    )


def _ended(out: Path, row: RowRecord) -> Iterator[RunFolder]:
    """The runs of a row's models that have ended well."""
    for runs in phases_of(row).values():
        for run_id in runs.values():
            folder = run_folder(out, run_id)
            if folder.ending == "done":
                yield folder


def _check_arms(arms: Collection[str], runs: Iterable[RunFolder]) -> None:
    """Refuse arms that none of the runs kept."""
    kept = {a for run in runs for a in (*kept_arms(run), *controls_of(run))} if arms else set()
    for arm in arms:
        if kept and arm not in kept:
            raise ConfigError(unknown("arm", arm, ordered(kept)))


def _asked_controls(out: Path, run: RunFolder) -> list[str]:
    """SGD + BN as far as it was asked after the run's end."""
    path = controls_file(out, run.path.name)
    asked = Predictions(path).arms("test") if path.exists() else ()
    return [arm for arm in controls_of(run) if arm in asked]


def _own_data(config: RunConfig) -> Partition:
    """What a run trained on, with its test images."""
    own = prepare(config.data)
    return partition(load(own), own, holdout=config.holdout)


def _own_results(row: RowRecord, runs: Mapping[str, RunFolder], out: Path) -> list[Result]:
    """Numbers on the runs' own test images, printed too."""
    own = {run_id: predictions_of(out, run_id) for run_id in runs}
    results = evaluation_results(row, own, own, target="test")
    kind = _kind(next(iter(runs.values())))
    print(f"on the {_samples(own):,} test {kind} of the runs")
    print("\n".join(evaluation_lines(row.label, results, judged=row.judged)))
    return results


def _kind(run: RunFolder) -> str:
    """What a run's samples are."""
    return "positions" if read_run_config(run.path / "config.json").data.is_text else "images"


def _samples(predictions: Mapping[str, Predictions]) -> int:
    return len(next(iter(predictions.values())).labels_n("test"))
