"""polyak study NAME, and polyak demo, which is one of them."""

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from polyak.cli.console import StudyDisplay, decoding_lines, failure_lines, title
from polyak.cli.logs import Log, follow_study, followed, logger_fault
from polyak.cli.options.machines import Machines
from polyak.cli.options.time_limit import seconds_of, within
from polyak.errors import ConfigError
from polyak.loggers.following import following
from polyak.records.paper_code import parse_paper_code
from polyak.records.vocabulary import Selection, Switch
from polyak.study import plan
from polyak.study.options import (
    in_float32,
    with_more_averages,
    with_precision,
    with_protocol,
    with_rows,
    with_windows,
)
from polyak.study.paper.datasets import hints, parse_places
from polyak.study.paper.presets import preset
from polyak.study.plan import Study, planned
from polyak.study.preparation import prepare_some
from polyak.study.runner import Outcome, ready_study, run_study
from polyak.study.user_study import load_study, write_example
from polyak.threads import on_one_thread
from polyak.training.config import AskedPrecision
from polyak.training.interruption import Interruption


@dataclass(frozen=True, kw_only=True)
class Where:
    """Where a study runs and leaves its results."""

    out: Path = Path("out")
    """Output folder; runs in it are shared between studies."""

    machines: Annotated[Machines, tyro.conf.arg(name="")] = field(default_factory=Machines)

    time_limit: str | None = None
    """Such as 9m or 1h30m: write checkpoints and stop (code 75) before; call again to go on."""

    log: Log = ()
    """Curves of all runs as they grow, to out/logs/: csv, tensorboard (polyak[tensorboard]) or
    wandb (polyak[wandb]). Can be given several times."""

    def words(self) -> list[str]:
        """What to type for the same results, where it is not the default."""
        given = {
            "--out": (str(self.out), "out"),
            "--device": (self.machines.device, "cpu"),
            "--executor": (self.machines.executor, "local"),
        }
        return [
            word
            for flag, (value, usual) in given.items()
            if value != usual
            for word in (flag, value)
        ]


@dataclass(frozen=True)
class StudyCommand:
    """Run what a study still lacks, then write its report."""

    where: Annotated[Where, tyro.conf.arg(name="")]

    name: tyro.conf.Positional[str | None] = None
    """Which study, as `polyak list` shows them, or a Python file with one of yours, whose code is
    run."""

    init: Path | None = None
    """Write a commented example of such a file there, and stop."""

    scale: str | None = None
    """Of the paper's studies: paper (as published), small or tiny; `polyak list` shows what each
    costs."""

    data: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """NAME=SOURCE puts any data set in a place of the paper's: cifar10, cifar100 or tiny-imagenet;
    cifar10n and cifar100n for the files of human labels. Can be given several times."""

    rows: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Only rows whose labels begin so, and what is claimed of them alone, as a study of its own,
    NAME-rows. Can be given several times."""

    paper_code: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Where to follow the authors' code: all, or names such as js,temperature; a name that does
    not exist lists them. Can be given several times."""

    selection: Selection = "paper"
    """Averages are chosen with averaged BatchNorm statistics (paper) or with statistics recomputed
    after each epoch (bn_safe)."""

    clean_holdout: bool = False
    """An oracle: right labels of the hold-out choose where training labels are wrong."""

    batchnorm_augmentation: Switch = "on"
    """BatchNorm statistics are recomputed from training images that are cropped and flipped as in
    training (on), or from the images as they are (off)."""

    more_averages: bool = False
    """Also evaluate tail averages, LAWA, power-function EMA and SWAD along the same runs, as a
    study of its own, NAME-more."""

    windows: bool = False
    """Also evaluate power-function averages along the same runs whose mean age is 1 %, 6.7 % and
    10 % of the run, as a study of its own, NAME-windows."""

    controls: bool = False
    """Beside the paper's arms of a study with refits: SGD annealed in the average's budget, an
    average on that shorter schedule, and weight decay 5e-4."""

    fp32: bool = False
    """Compute in float32 on a GPU, where the default is bfloat16; for comparison."""

    precision: AskedPrecision | None = None
    """What is computed in, on any device: bfloat16 pays on processors that have it; auto tries a
    few steps of each row's network. Not given: float32 on CPUs, bfloat16 on a GPU."""

    dry_run: bool = False
    """List the search runs with their ids, and what the study claims, and stop."""

    register: bool = False
    """Write down what the study claims beforehand, with its plan and what its seeds can see, and
    stop; refused once a run has begun."""

    spread_from: Path | None = None
    """With --register or --dry-run: the folder or results of an earlier study that says how far
    seeds differ. Not given: as in the studies kept in docs/results."""

    def run(self) -> int:
        """Exit code: 0 done, 1 some runs failed or a row has no result."""
        if self.init is not None:
            if self.name is not None:
                raise ConfigError(
                    f"name is '{self.name}' and init is '{self.init}'; expected one or the other. "
                    "Leave the name out to write an example, or --init to run the study."
                )
            return _write_example(self.init)
        study = self._varied(self._study())
        self._check_registering()
        if self.dry_run:
            return _list_runs(study, self.data, self.spread_from)
        command = shlex.join(self._words())
        if self.register:
            return _register(study, self.where, command, self.data, self.spread_from)
        return carry_through(study, self.where, command=command, data=self.data)

    def _varied(self, study: Study) -> Study:
        """The study as the options have it."""
        study = with_rows(study, self.rows)
        if self.more_averages:
            study = with_more_averages(study)
        if self.windows:
            study = with_windows(study)
        if self.fp32:
            study = in_float32(study)
        if self.precision is not None:
            study = with_precision(study, self.precision)
        return with_protocol(
            study,
            paper_code=parse_paper_code(self.paper_code),
            selection=self.selection,
            clean_holdout=self.clean_holdout,
            batchnorm_augmentation=self.batchnorm_augmentation,
        )

    def _check_registering(self) -> None:
        if self.dry_run and self.register:
            raise ConfigError(
                "dry-run and register are given; expected one of them. Leave one out."
            )
        if self.spread_from is not None and not (self.dry_run or self.register):
            raise ConfigError(
                "spread-from is given; expected it with --register or --dry-run. Add one of them."
            )

    def _words(self) -> list[str]:
        """What to type to run the study again."""
        words = ["polyak", "study", self.name or ""]
        words += ["--scale", self.scale] if self.scale is not None else []
        words += [word for pair in self.data for word in ("--data", pair)]
        words += [word for beginning in self.rows for word in ("--rows", beginning)]
        words += [word for names in self.paper_code for word in ("--paper-code", names)]
        words += ["--selection", self.selection] if self.selection != "paper" else []
        words += ["--batchnorm-augmentation", "off"] if self.batchnorm_augmentation == "off" else []
        words += ["--precision", self.precision] if self.precision is not None else []
        switches = {
            "--clean-holdout": self.clean_holdout,
            "--controls": self.controls,
            "--more-averages": self.more_averages,
            "--windows": self.windows,
            "--fp32": self.fp32,
        }
        words += [word for word, given in switches.items() if given]
        return words + self.where.words()

    def _study(self) -> Study:
        if self.name is None or not self.name.endswith(".py"):
            return preset(
                self.name or "",
                scale=self.scale,
                places=parse_places(self.data),
                controls=self.controls,
            )
        if self.scale is not None or self.data or self.controls:
            raise ConfigError(
                f"scale, data or controls is given; expected none for '{self.name}', which says "
                "itself what to run. Leave them out."
            )
        return load_study(Path(self.name).expanduser())


@dataclass(frozen=True)
class DemoCommand:
    """The paper's protocol in small, on digits: under three minutes on two cores."""

    where: Annotated[Where, tyro.conf.arg(name="")]

    def run(self) -> int:
        """Exit code: 0 done, 1 some runs failed or a row has no result."""
        words = ["polyak", "demo", *self.where.words()]
        return carry_through(preset("demo"), self.where, command=shlex.join(words))


def _write_example(path: Path) -> int:
    write_example(path)
    print(f"wrote {path}; polyak study {shlex.quote(str(path))} runs it")
    return 0


def carry_through(study: Study, where: Where, *, command: str, data: tuple[str, ...] = ()) -> int:
    """Run a study and write its report; what to look at goes to stdout.

    Args:
        study: What to run.
        where: On what, and where to.
        command: What to type to run it again.
        data: What the user put in the paper's places, as NAME=SOURCE.
    """
    limit = Interruption(seconds_of(where.time_limit))
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    with (
        following(where.out, where.log, on_fault=logger_fault(console)) as follower,
        where.machines.ready() as (executor, workers),
    ):
        console.print(f"{study.title}: {planned(study)} runs, {workers} at a time ({study.cost})")
        display_of = StudyDisplay(where.out, console, planned=planned(study))
        with display_of.showing() as display:
            outcome = run_study(
                study,
                where.out,
                executor=executor,
                on_progress=within(limit, followed(follower, display)),
                workers=workers,
                command=command,
                hint=hints(parse_places(data)),
                on_decoded=decoding_lines(console),
                on_choice=console.print,
                trial_device=where.machines.trial_device,
            )
        # Those too that were done before, of which no phase told.
        follow_study(follower, where.out, study.name)
    # Not at the top: what draws a page takes a second to import, and is needed at the end.
    from polyak.report.page import write_report

    with on_one_thread():
        page = write_report(where.out, study.name)
    for line in failure_lines(outcome.failures, where.out, device=where.machines.device):
        print(line, file=sys.stderr)
    for label, reason in outcome.row_failures.items():
        print(f"no result for {label}: {reason}", file=sys.stderr)
    print(_summary(outcome))
    print(f"report: {page.resolve()}")
    return 1 if outcome.failures or outcome.row_failures else 0


def _summary(outcome: Outcome) -> str:
    return (
        f"done {outcome.done}  skipped {outcome.skipped}  diverged {outcome.diverged}  "
        f"failed {len(outcome.failures)}  in {outcome.seconds:.0f} s"
    )


def _register(
    study: Study, where: Where, command: str, data: tuple[str, ...], spread_from: Path | None
) -> int:
    """Write the registration; its data has to be at hand, so that its runs have their ids."""
    # Not at the top, as what judges claims and draws pages.
    from polyak.cli.options.registering import claim_lines, registered, seeing

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    study, record = ready_study(
        study,
        where.out,
        workers=1,
        command=command,
        hint=hints(parse_places(data)),
        on_decoded=decoding_lines(console),
        on_choice=console.print,
        trial_device=where.machines.trial_device,
    )
    seen = seeing(study, spread_from)
    said = registered(record, where.out, seen)
    for line in (*claim_lines(study, seen), *said):
        print(line)
    return 0


def _list_runs(study: Study, data: tuple[str, ...], spread_from: Path | None) -> int:
    """The search's runs; only with their data at hand is it known which runs they are."""
    study = study.settled()
    prepared, missing = prepare_some(study.rows, hint=hints(parse_places(data)))
    if study.measurement is not None:
        print(f"{study.measurement.label}: {title(study.measurement.config)}")
    for row in study.rows:
        for by_seed in plan.search(prepared.get(row.label, row)).values():
            for run in by_seed.values():
                settled = "data missing" if row.label not in prepared else run.id
                name = "auto" if run.precision == "auto" else settled
                print(f"{name:<12}  {row.label}: {title(run)}")
    for message in missing:
        print(f"missing: {message}", file=sys.stderr)
    if study.claims:
        from polyak.cli.options.registering import claim_lines, seeing

        for line in claim_lines(study, seeing(study, spread_from)):
            print(line)
    print(f"{planned(study)} runs in all, refits, follow-ups and probes included; {study.cost}")
    return 0
