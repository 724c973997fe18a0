"""A cache of its own, a study of moments under the name "small", and what commands say."""

from dataclasses import replace

import pytest
from support.small_runs import run_in_process

from polyak.cli.main import main
from polyak.data import DataConfig, NoiseConfig
from polyak.models import ModelConfig
from polyak.records.runs import run_folder
from polyak.records.studies import read_study
from polyak.study.paper import presets
from polyak.study.plan import Row, Study
from polyak.training.config import AveragingConfig, RunConfig
from polyak.training.jobs import carry_out
from polyak.training.optim import OptimConfig


@pytest.fixture(scope="session")
def cli_cache_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache(cli_cache_folder, monkeypatch):
    monkeypatch.setenv("POLYAK_CACHE", str(cli_cache_folder))


@pytest.fixture(scope="session")
def small() -> Study:
    row = Row(
        label="small digits",
        dataset="digits",
        architecture="ResNet-8",
        config=RunConfig(
            data=DataConfig(train_limit=90, test_limit=60, crop_padding=1),
            model=ModelConfig(name="resnet8", width=4),
            optim=OptimConfig(warmup_epochs=1),
            averaging=AveragingConfig(decays=(0.9,), every=2),
            epochs=2,
            batch_size=45,
        ),
        learning_rates=(0.1,),
        seeds=(0,),
        paper_decays=(0.998,),
    )
    return Study(name="small", title="A small study", cost="moments", rows=(row,))


class InProcess:
    """Carries out jobs here, one after the other."""

    def __init__(self, *, workers, device):
        self.workers, self.device = workers, device

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __call__(self, jobs, out, on_tick):
        failures = {}
        for job in jobs:
            try:
                carry_out(job, out, device=self.device)
            except ZeroDivisionError as error:
                failures[job.id] = f"Traceback: of a test\n{error}"
            on_tick({job.id: "failed" if job.id in failures else "done"})
        return failures


@pytest.fixture(scope="session")
def noisy_out(small, cli_cache_folder, tmp_path_factory):
    """An output folder with the small study, its labels noisy so that an audit has scores."""
    folder = tmp_path_factory.mktemp("noisy")
    (row,) = small.rows
    data = replace(row.config.data, noise=NoiseConfig(kind="symmetric", rate=0.3))
    study = replace(small, rows=(replace(row, config=replace(row.config, data=data)),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYAK_CACHE", str(cli_cache_folder))
        run_in_process(study, folder)
    return folder


@pytest.fixture
def noisy_search(noisy_out):
    """The study's search run."""
    (run,) = read_study(noisy_out / "small").rows[0].search["0.1"].values()
    return run_folder(noisy_out, run)


@pytest.fixture
def in_process(small, monkeypatch):
    """The command line with the small study, run in this process; the page is not its matter."""
    monkeypatch.setitem(presets.PRESETS, "small", lambda: small)
    monkeypatch.setattr("polyak.cli.options.machines.LocalExecutor", InProcess)
    monkeypatch.setattr("polyak.report.page.write_report", lambda out, name: out / name / "page")


@pytest.fixture
def told(capsys):
    """Runs a command that should succeed and gives its words on stdout."""

    def run(*arguments) -> str:
        assert main([str(argument) for argument in arguments]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out

    return run


@pytest.fixture
def refused(capsys):
    """Runs a command that should be refused and gives its one line on stderr."""

    def run(*arguments) -> str:
        assert main([str(argument) for argument in arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("polyak: ")
        assert captured.err.count("\n") == 1
        return captured.err

    return run
