"""A whole study, computed a second time by an independent twin from files and seeds alone.

The twin is `support/protocol_twin.py` (training and selection) and `support/metrics_twin.py`
(numbers).
"""

import json
from collections import defaultdict
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors
from support import metrics_twin as twin_metrics
from support import protocol_twin as twin
from support.small_runs import carry_through
from support.texts import write_texts

from polyak.data import DataConfig, NoiseConfig, load, partition, prepare
from polyak.models import ModelConfig
from polyak.study.plan import Row, Study
from polyak.training.config import AveragingConfig, RunConfig
from polyak.training.optim import OptimConfig

DATA = DataConfig(
    train_limit=400,
    test_limit=240,
    crop_padding=1,
    noise=NoiseConfig(kind="symmetric", rate=0.2),
)
RUN = RunConfig(
    data=DATA,
    model=ModelConfig(name="resnet8", width=4),
    optim=OptimConfig(warmup_epochs=1.5, weight_decay=5e-3),
    averaging=AveragingConfig(decays=(0.3, 0.6, 0.8), every=2),
    epochs=7,
    batch_size=48,
)
ROW = Row(
    label="images by SGD",
    dataset="digits",
    architecture="ResNet-8",
    config=RUN,
    learning_rates=(0.02, 0.2),
    seeds=(0, 1),
    paper_decays=(0.968, 0.984, 0.998),
    search_monitors=("holdout_bn",),
    refit_monitors=("test", "train_wrong"),
)
ADAMW = OptimConfig(name="adamw", warmup_epochs=1.5, weight_decay=0.1, decayed="matrices")


def row_of(what, folder):
    """The same protocol with one thing or another in the place of images by SGD."""
    if what == ROW.label:
        return ROW
    if what == "images by AdamW":
        return replace(
            ROW, label=what, config=replace(RUN, optim=ADAMW), learning_rates=(1e-3, 1e-2)
        )
    run = replace(
        RUN,
        data=DataConfig(
            source=f"text:{write_texts(folder)}", context=16, train_limit=90, test_limit=12
        ),
        model=ModelConfig(name="gpt", width=32, depth=1),
        optim=replace(ADAMW, betas=(0.9, 0.95), clip=0.5, schedule="wsd", decay_share=0.5),
        batch_size=16,
    )
    return replace(
        ROW,
        label=what,
        dataset="text",
        architecture="GPT",
        config=run,
        learning_rates=(1e-3, 1e-2),
        search_monitors=("test",),
        refit_monitors=("test",),
    )


AVERAGES = ["ema_0.3", "ema_0.6", "ema_0.8"]
ROUNDING = 2e-5
"""What float32 does to the numbers of 60 steps: the tool averages in float32 and folds BatchNorm
into convolutions, the twin does neither."""


@pytest.fixture(scope="module", params=[ROW.label, "images by AdamW", "text by AdamW"])
def row(request, tmp_path_factory):
    return row_of(request.param, tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def out(row, tmp_path_factory):
    """The study as the tool carries it out, with the table and the ledger of its page."""
    study = Study(name="doubled", title="Computed twice", cost="seconds", rows=(row,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYAK_CACHE", str(tmp_path_factory.mktemp("cache")))
        out = tmp_path_factory.mktemp("out")
        outcome = carry_through(study, out, command="polyak study doubled")
        assert (outcome.done, outcome.failures, outcome.row_failures) == (6, {}, {})
        yield out


@pytest.fixture(scope="module")
def plan(row, out):
    """The row's runs and what was chosen."""
    (planned,) = read(out / "doubled" / "plan.json")["rows"]
    return planned | read(out / "doubled" / "choices.json")[row.label]


@pytest.fixture(scope="module")
def repeated(row, out, plan):
    """Two runs trained again by the twin: id → config, data and history."""
    found, data = {}, row.config.data
    searched = plan["search"][f"{row.learning_rates[1]:g}"]["0"]
    for run in (searched, plan["refit"]["1"]):
        config = read(out / "runs" / run / "config.json")
        parts = partition(load(prepare(data)), data, holdout=config["holdout"])
        found[run] = config, parts, twin.train(config, parts)
    return found


def read(path):
    return json.loads(path.read_text())


def results(out):
    return pq.read_table(out / "doubled" / "results.parquet").to_pylist()


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_alike(found, expected):
    """Equal but for rounding, at any depth; counts of images are equal."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            if key == "accuracy":
                assert found[key] == pytest.approx(expected[key], abs=1e-12)
            else:
                assert_alike(found[key], expected[key])
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=ROUNDING)
    else:
        assert found == expected


def test_pixels_are_standardised_over_the_training_part_and_bytes_left_as_they_are(repeated):
    for _, data, _ in repeated.values():
        images = data.test_images_nchw
        if data.positions is not None:
            assert torch.equal(twin.normalised(data, images), images.float())
            continue
        found = twin.normalised(data, images).double()
        torch.testing.assert_close(found, twin.standardised(data, images), rtol=1e-6, atol=1e-6)


def test_every_epoch_of_the_log_is_the_twins(out, repeated):
    for run, (_, _, history) in repeated.items():
        log = lines(out / "runs" / run / "log.jsonl")
        assert len(log) == len(history.log) == 7
        for ours, theirs in zip(log, history.log, strict=True):
            ours.pop("seconds")
            assert_alike(ours, theirs)


def test_every_monitor_is_the_twins(out, repeated):
    for run, (_, _, history) in repeated.items():
        monitor = lines(out / "runs" / run / "monitor.jsonl")
        assert len(monitor) == len(history.monitor) > 0
        for ours, theirs in zip(monitor, history.monitor, strict=True):
            assert_alike(ours, theirs)


def test_the_weights_and_logits_of_every_arm_are_the_twins(out, plan, repeated):
    for run, (config, data, history) in repeated.items():
        folder = out / "runs" / run
        stops = {stop["rule"]: stop for stop in plan["stops"][str(config["seed"])]}
        said = load_tensors(folder / "predictions.safetensors")
        images = twin.normalised(data, data.test_images_nchw)
        arms = twin.arms(config, data, history, stops)
        assert {path.stem for path in (folder / "averages").iterdir()} == set(arms)
        for arm, weights in arms.items():
            kept = load_tensors(folder / "averages" / f"{arm}.safetensors")
            kept = {key.removeprefix(f"{arm}/"): x for key, x in kept.items()}
            for key, x in weights.items():
                if key.endswith("qkv.bias"):
                    # What is added to all keys alike changes no attention: its gradient is
                    # rounding alone, of which Adam makes whole steps.
                    for ours, theirs in zip(kept[key].chunk(3)[::2], x.chunk(3)[::2], strict=True):
                        torch.testing.assert_close(
                            ours.double(), theirs, rtol=ROUNDING, atol=ROUNDING
                        )
                    continue
                torch.testing.assert_close(
                    kept[key].double(), x.double(), rtol=ROUNDING, atol=ROUNDING, msg=f"{arm} {key}"
                )
            logits_nk = twin.predict(twin.network(config, data), weights, images)
            torch.testing.assert_close(
                said[f"test/arm/{arm}"], logits_nk, rtol=ROUNDING, atol=10 * ROUNDING, msg=arm
            )


def test_the_twin_chooses_the_same_rate_epochs_and_decays(out, plan):
    logs = {
        float(rate): [lines(out / "runs" / run / "log.jsonl") for run in runs.values()]
        for rate, runs in plan["search"].items()
    }
    rate = twin.chosen_rate(logs)
    assert plan["chosen_learning_rate"] == rate
    for seed, log in zip(plan["search"][f"{rate:g}"], logs[rate], strict=True):
        theirs = twin.chosen_stops(log, AVERAGES)
        assert {stop["rule"]: stop for stop in plan["stops"][seed]} == theirs
        refit = read(out / "runs" / plan["refit"][seed] / "config.json")
        assert {stop["rule"]: stop for stop in refit["stops"]} == theirs
        assert refit["optim"]["lr"] == rate
        assert (refit["epochs"], refit["seed"]) == (7, int(seed))


def test_every_number_of_the_results_is_the_twins(out, plan):
    found = {
        (line["phase"], line["arm"], line["seed"], line["metric"]): line["value"]
        for line in results(out)
    }
    searched = plan["search"][f"{plan['chosen_learning_rate']:g}"]
    expected = twin_metrics.table(
        {
            phase: {
                seed: load_file(out / "runs" / run / "predictions.safetensors")
                for seed, run in runs.items()
            }
            for phase, runs in (("search", searched), ("refit", plan["refit"]))
        }
    )
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        # Simulated here and there; the others in float64.
        close = {"ece_floor": 0.1, "temperature": 1e-5}.get(key[3], 1e-7)
        assert found[key] == pytest.approx(value, rel=close, abs=1e-7), key


def test_every_interval_of_the_ledger_about_two_arms_is_the_twins(row, out):
    by_arm = defaultdict(dict)
    for line in results(out):
        if line["phase"] == "refit":
            by_arm[line["arm"], line["metric"]][line["seed"]] = line["value"]
    metrics = {"test accuracy": "accuracy", "test loss": "loss"}
    findings = [
        f for claim in read(out / "doubled" / "claims.json")["claims"] for f in claim["findings"]
    ]
    checked = set()
    for finding in findings:
        metric, _, arms = finding["what"].partition(", ")
        if metric in metrics and arms.startswith("ema_acc_bn − sgd"):
            ours, theirs = (by_arm[arm, metrics[metric]] for arm in arms.split(" − "))
            expected = twin_metrics.interval(ours, theirs)
            assert (finding["mean"], finding["low"], finding["high"]) == pytest.approx(expected)
            checked.add((metric, arms))
    # SGD after the last epoch and at two stops, as trained and recomputed. Of text the paper
    # claims nothing.
    assert len(checked) == (0 if row.dataset == "text" else 2 * 6)
