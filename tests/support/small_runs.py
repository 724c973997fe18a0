"""A run with everything in it that takes seconds, and a study carried through to its ledger."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from polyak.analysis.loaded import load_study
from polyak.analysis.results import write_results
from polyak.data import DataConfig, NoiseConfig, prepare
from polyak.models import ModelConfig
from polyak.report.sections.claims import judge, write_ledger
from polyak.study.plan import Study
from polyak.study.runner import Outcome, run_study
from polyak.training.config import AveragingConfig, RunConfig
from polyak.training.jobs import carry_out
from polyak.training.optim import OptimConfig


def small_run(**changes: Any) -> RunConfig:
    """72 training images, 18 held out: five steps an epoch, the last one short."""
    noise = NoiseConfig(kind="symmetric", rate=0.3)
    config = RunConfig(
        data=prepare(DataConfig(train_limit=90, test_limit=40, crop_padding=1, noise=noise)),
        model=ModelConfig(name="resnet8", width=4),
        optim=OptimConfig(lr=0.1, warmup_epochs=1),
        averaging=AveragingConfig(decays=(0.2, 0.9), every=2),
        epochs=3,
        batch_size=16,
    )
    return replace(config, **changes)


def carry_through(study: Study, out: Path, *, command: str) -> Outcome:
    """Run a study in this process, and write its results and claims beside its plan."""
    outcome = run_in_process(study, out, command=command)
    loaded = load_study(out, study.name)
    write_results(out / study.name / "results.parquet", loaded.results)
    write_ledger(out / study.name, judge(loaded))
    return outcome


def run_in_process(study: Study, out: Path, *, command: str = "polyak study") -> Outcome:
    """Run a study in this process, one job after the other."""
    return run_study(
        study,
        out,
        executor=_in_this_process,
        on_progress=lambda progress: None,
        workers=1,
        command=command,
    )


def _in_this_process(jobs: Any, out: Path, on_tick: Any) -> dict[str, str]:
    for job in jobs:
        carry_out(job, out)
        on_tick({job.id: "done"})
    return {}
