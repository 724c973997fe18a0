import json
from dataclasses import replace

import pytest

from polyak.data import DataConfig, NoiseConfig
from polyak.errors import FileError
from polyak.models import ModelConfig
from polyak.records.runs import run_folder
from polyak.records.vocabulary import Stop
from polyak.training.config import AveragingConfig, OverheadConfig, ProbeConfig, RunConfig
from polyak.training.config_file import read_config, read_run_config
from polyak.training.optim import OptimConfig

PRINT = "ab" * 32
REFIT = RunConfig(
    data=DataConfig(
        train_limit=90,
        fingerprint=PRINT,
        noise=NoiseConfig(kind="file", file="x.pt", key="worse_label", fingerprint=PRINT),
    ),
    model=ModelConfig(name="resnet20", width=4),
    optim=OptimConfig(lr=0.1, schedule="step", milestones=(3, 5), warmup_epochs=1),
    averaging=AveragingConfig(decays=(0.5, 0.9), every=2, warmup="none"),
    epochs=7,
    holdout=False,
    stops=(Stop(rule="acc", epoch=3, average="ema_0.5"), Stop(rule="sgd", epoch=2, average="sgd")),
    monitors=("test", "train_wrong"),
)


def written(out, job):
    folder = run_folder(out, job.id)
    folder.path.mkdir(parents=True)
    folder.write_config(job.record())
    return folder.path / "config.json"


NEWER = replace(
    REFIT, stops=(), swad=(2, 5), more_averages=("tail", "swad"), paper_code=("batchnorm",)
)

LOWER = replace(REFIT, precision="bfloat16")


@pytest.mark.parametrize("run", [RunConfig(), REFIT, replace(REFIT, seed=3), NEWER, LOWER])
def test_a_run_comes_back_from_its_folder(tmp_path, run):
    assert read_config(written(tmp_path, run)) == run


def test_a_probe_comes_back_with_its_backbones(tmp_path):
    other = replace(REFIT, seed=1)
    probe = ProbeConfig(data=DataConfig(), backbones=(REFIT, other), arms=("sgd", "ema_acc_bn"))
    for run in probe.backbones:
        written(tmp_path, run)
    assert read_config(written(tmp_path, probe)) == probe


def test_a_kept_probe_comes_back_with_its_backbones(tmp_path):
    """As `polyak report --keep` writes them: all in one folder, each under its id."""
    probe = ProbeConfig(data=DataConfig(), backbones=(REFIT, replace(REFIT, seed=1)), arms=("sgd",))
    for job in (*probe.backbones, probe):
        (tmp_path / f"{job.id}.json").write_text(json.dumps(job.record()))
    assert read_config(tmp_path / f"{probe.id}.json") == probe


def test_a_measurement_of_overhead_comes_back(tmp_path):
    measurement = OverheadConfig(run=RunConfig(epochs=9), rounds=3)
    assert read_config(written(tmp_path, measurement)) == measurement


def test_a_probe_is_no_training_run(tmp_path):
    written(tmp_path, REFIT)
    probe = ProbeConfig(data=DataConfig(), backbones=(REFIT,), arms=("sgd",))
    with pytest.raises(FileError, match="describes a ProbeConfig; expected a training run"):
        read_run_config(written(tmp_path, probe))


def test_a_configuration_elsewhere_may_have_any_name(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"kind": "train", "epochs": 9}))
    assert read_config(path) == RunConfig(epochs=9)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ("[]", "expected a JSON object"),
        ("{}", "kind is None"),
        ('{"kind": "train", "epoch": 3}', r"unknown settings \['epoch'\]"),
        ('{"kind": "train", "data": 3}', "stands for a DataConfig"),
        ('{"kind": "train", "stops": 3}', "not iterable"),
        ('{"kind": "train", "epochs": "x"}', "does not describe a run"),
        ('{"kind": "train", "epochs": 0}', "epochs is 0; expected >= 1"),
        ('{"kind": "probe"}', "backbones"),
        ('{"kind": "probe", "backbones": ["../../etc"]}', "cannot be read"),
    ],
)
def test_what_is_no_configuration_is_refused_by_name(tmp_path, text, said):
    path = tmp_path / "c.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(FileError, match=said) as caught:
        read_config(path)
    assert "c" in str(caught.value)


def test_an_altered_configuration_does_not_pass_for_its_folders_run(tmp_path):
    path = written(tmp_path, REFIT)
    path.write_text(path.read_text().replace('"epochs": 7', '"epochs": 8'))
    with pytest.raises(FileError, match="expected the run of its folder"):
        read_config(path)
