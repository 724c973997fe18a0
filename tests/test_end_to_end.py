"""The whole protocol on a few digits: from a study to every number of its tables."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.slow_results import values
from support.small_runs import run_in_process

from polyak.analysis.loaded import load_study
from polyak.analysis.results import write_results
from polyak.averaging import load as load_weights
from polyak.data import DataConfig, NoiseConfig, partition
from polyak.data import load as load_data
from polyak.models import ModelConfig, build
from polyak.records.runs import run_folder
from polyak.records.studies import read_study
from polyak.study.plan import Row, Study
from polyak.training.config import AveragingConfig, RunConfig
from polyak.training.optim import OptimConfig

ARMS = {
    "sgd",
    "sgd_bn",
    "swa_bn",
    "sgd_stopped",
    "sgd_stopped_bn",
    "sgd_at_ema",
    "sgd_at_ema_bn",
    "ema_acc",
    "ema_loss",
    "ema_acc_bn",
    "ema_loss_bn",
}
STUDY = Study(
    name="few",
    title="A few digits",
    cost="seconds",
    rows=(
        Row(
            label="few digits",
            dataset="digits",
            architecture="ResNet-8",
            config=RunConfig(
                data=DataConfig(
                    train_limit=400,
                    test_limit=200,
                    crop_padding=1,
                    flip=False,
                    noise=NoiseConfig(kind="symmetric", rate=0.2),
                ),
                model=ModelConfig(name="resnet8", width=8),
                optim=OptimConfig(warmup_epochs=0.5),
                averaging=AveragingConfig(decays=(0.3, 0.7), every=1),
                epochs=3,
                batch_size=32,
            ),
            learning_rates=(0.1, 0.2),
            seeds=(0, 1),
            paper_decays=(0.968, 0.998),
            search_monitors=("holdout_bn",),
            refit_monitors=("test", "train_wrong"),
            transfer=(
                DataConfig(
                    source="digits-parity",
                    train_limit=400,
                    test_limit=200,
                    crop_padding=0,
                    flip=False,
                ),
            ),
        ),
    ),
)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYAK_CACHE", str(tmp_path_factory.mktemp("cache")))
        out = tmp_path_factory.mktemp("out")
        outcome = run_in_process(STUDY, out)
        assert (outcome.done, outcome.failures, outcome.row_failures) == (7, {}, {})
        yield out


@pytest.fixture(scope="module")
def results(out):
    return load_study(out, "few").results


def test_the_examples_of_the_page_on_own_studies_read_what_a_study_leaves(out, results, capsys):
    page = Path(__file__).parents[1] / "docs" / "extending.md"
    examples = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) == 4
    write_results(out / "few" / "results.parquet", results)
    space: dict = {}
    for example in examples:
        exec(
            example.replace('Path("out")', f"Path({str(out)!r})").replace('"mine"', '"few"'), space
        )
    seeds = capsys.readouterr().out.splitlines()
    accuracy = values(results, row="few digits", arm="ema_acc_bn", metric="accuracy", phase="refit")
    assert [line.split()[:2] for line in seeds[:2]] == [[s, str(v)] for s, v in accuracy.items()]
    assert len(space["train_rows_n"]) == 400
    assert len(space["test_images_nchw"]) == len(space["labels_n"]) == 200
    assert torch.equal(space["parts"].test_labels_n, space["labels_n"])
    assert "Interval(mean=" in seeds[2]


def test_every_number_is_there_and_is_one(results):
    assert all(math.isfinite(result.value) for result in results)
    plain = {"accuracy", "loss", "brier", "ece", "ece_floor", "memorised"}
    scaled = {"temperature", "ece_scaled", "loss_scaled"}
    for phase, metrics in (("search", plain | scaled), ("refit", plain)):
        for arm in ARMS:
            for metric in metrics:
                found = values(results, row="few digits", arm=arm, metric=metric, phase=phase)
                assert found.keys() == {"0", "1"}, (phase, arm, metric)
            for metric in ("churn", "js"):
                found = values(results, row="few digits", arm=arm, metric=metric, phase=phase)
                assert found.keys() == {"0-1"}, (phase, arm, metric)
    for arm in ("sgd", "sgd_at_ema", "ema_acc_bn", "ema_loss_bn"):
        found = values(
            results,
            row="few digits",
            arm=arm,
            metric="accuracy",
            phase="transfer",
            target="digits-parity",
        )
        assert found.keys() == {"0", "1"}, arm


def test_something_was_learnt(results):
    """Ten classes and two: far above chance, also for frozen features."""
    for arm in ("sgd", "ema_acc_bn"):
        refit = values(results, row="few digits", arm=arm, metric="accuracy", phase="refit")
        assert min(refit.values()) > 0.3, arm
    probes = values(
        results,
        row="few digits",
        arm="sgd",
        metric="accuracy",
        phase="transfer",
        target="digits-parity",
    )
    assert min(probes.values()) > 0.6


def test_a_number_comes_again_from_the_saved_weights(out, results):
    """By a model built anew, without anything of training."""
    (row,) = read_study(out / "few").rows
    config = STUDY.rows[0].config
    folder = run_folder(out, row.refit["1"])
    data_config = replace(config.data, fingerprint=folder.config()["data"]["fingerprint"])
    data = partition(load_data(data_config), data_config, holdout=False)
    model = build(config.model, classes=10, channels=1, image_size=8, generator_seed=0)
    model.load_state_dict(load_weights(folder.arm("ema_loss_bn"))["ema_loss_bn"])
    with torch.no_grad():
        logits_nk = model.eval()(data.normalisation(data.test_images_nchw))
    right = (logits_nk.argmax(dim=1) == data.test_labels_n).double().mean().item()
    found = values(results, row="few digits", arm="ema_loss_bn", metric="accuracy", phase="refit")
    assert found["1"] == pytest.approx(right)


def test_the_choice_is_that_of_the_holdout(out):
    (row,) = read_study(out / "few").rows
    means = {
        rate: sum(
            max(record.holdout["sgd"].accuracy for record in run_folder(out, run_id).epochs())
            for run_id in by_seed.values()
        )
        / 2
        for rate, by_seed in row.search.items()
    }
    best = max(means, key=lambda rate: (means[rate], -float(rate)))
    assert row.chosen_learning_rate == float(best)
    for seed, stops in row.stops.items():
        epochs = run_folder(out, row.search[best][seed]).epochs()
        accuracies = [
            max(score.accuracy for name, score in record.holdout.items() if name != "sgd")
            for record in epochs
        ]
        by_rule = {stop.rule: stop for stop in stops}
        assert by_rule["acc"].epoch == accuracies.index(max(accuracies)) + 1
        refit = run_folder(out, row.refit[seed]).config()
        assert [stop["epoch"] for stop in refit["stops"]] == [stop.epoch for stop in stops]
        assert not refit["holdout"]


def test_the_same_command_again_trains_nothing_and_says_the_same(out, results):
    before = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*")}
    outcome = run_in_process(STUDY, out)
    assert (outcome.done, outcome.skipped) == (0, 7)
    assert {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*")} == before
    assert load_study(out, "few").results == results
