"""Whole jobs on a CUDA device: they end, agree with a CPU's, and may be stopped.

pytest -m gpu tests/training
"""

from dataclasses import replace

import pytest
import torch
from support.resumed_runs import MONITORS, assert_same_run, in_sessions, with_dropout

from polyak.data import DataConfig, load, partition, prepare
from polyak.records.predictions import Predictions
from polyak.records.runs import run_folder
from polyak.training import loop, steps
from polyak.training.config import OverheadConfig, ProbeConfig
from polyak.training.interruption import InterruptedRun, Interruption
from polyak.training.jobs import carry_out
from polyak.training.loop import Run

CARD = "cuda"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    # Some versions of torch say so, once, of the only way to choose TF32 that all have.
    pytest.mark.filterwarnings("ignore:Please use the new API settings to control TF32"),
]


def on(device, config):
    data = partition(load(config.data), config.data, holdout=config.holdout)
    return Run(config, data, device=torch.device(device))


@pytest.mark.parametrize("backend", ["eager", "graph"])
def test_epochs_on_a_card_are_those_of_a_cpu_up_to_rounding(tiny, monkeypatch, backend):
    """The same order, crops and flips, learning rates, averages, statistics and scores."""
    monkeypatch.setattr(loop, "choose_backend", lambda *_, **__: "eager")
    config = replace(tiny, fp32=True, monitors=MONITORS, epochs=2)
    cpu = on("cpu", config)
    cpu.train(lambda record: None)
    monkeypatch.setattr(loop, "choose_backend", lambda *_, **__: backend)
    card = on(CARD, config)
    card.train(lambda record: None)
    for ours, theirs in zip(card.trained.epochs, cpu.trained.epochs, strict=True):
        assert ours.learning_rate == theirs.learning_rate
        assert ours.train.loss == pytest.approx(theirs.train.loss, rel=1e-3)
        assert ours.holdout.keys() == theirs.holdout.keys()
        for name, score in theirs.holdout.items():
            assert ours.holdout[name].loss == pytest.approx(score.loss, rel=1e-3)
    for ours, theirs in zip(card.trained.monitors, cpu.trained.monitors, strict=True):
        for name, score in theirs.scores.items():
            assert ours.scores[name].loss == pytest.approx(score.loss, rel=1e-3)


@pytest.mark.parametrize("backend", ["eager", "graph"])
@pytest.mark.parametrize("fp32", [True, False], ids=["float32", "bfloat16"])
def test_a_run_that_was_stopped_ends_to_the_bit_as_if_it_had_not(
    tiny, monkeypatch, tmp_path, backend, fp32
):
    """Also its dropout, which draws from the card's generator, in replays too."""
    made = loop.build
    monkeypatch.setattr(loop, "build", lambda *a, **o: with_dropout(made, *a, **o))
    monkeypatch.setattr(loop, "choose_backend", lambda *_, **__: backend)
    config = replace(tiny, fp32=fp32, monitors=MONITORS)
    whole = on(CARD, config)
    whole.train(lambda record: None)
    run = in_sessions(lambda: on(CARD, config), tmp_path, [1, 4, 7])
    assert run.backend == backend
    assert_same_run(run, whole)


@pytest.fixture
def quick(monkeypatch):
    """Trials without torch.compile, which takes its time."""
    monkeypatch.setattr(steps, "BACKENDS", ("eager", "graph"))


@pytest.mark.usefixtures("quick")
def test_a_job_that_was_stopped_before_its_files_were_written_writes_them(tiny, tmp_path):
    """Weights kept before the stop are compared with those of after it."""
    config = replace(tiny, more_averages=("tail", "lawa", "power"))
    interruption = Interruption()

    def ask(record):
        interruption.signal_number = 15 if record.epoch == config.epochs else None

    with pytest.raises(InterruptedRun):
        carry_out(config, tmp_path, device=CARD, on_epoch=ask, interruption=interruption)
    carry_out(config, tmp_path, device=CARD)
    folder = run_folder(tmp_path, config.id)
    assert folder.ending == "done"
    predictions = Predictions(folder.predictions)
    for arm in predictions.arms("test"):
        assert predictions.logits_nk("test", arm).isfinite().all()


@pytest.mark.usefixtures("quick")
def test_probes_and_measurements_end_on_a_card(tiny, tmp_path):
    carry_out(tiny, tmp_path, device=CARD)
    data = DataConfig(
        source="digits-parity", train_limit=60, test_limit=30, crop_padding=0, flip=False
    )
    frozen = ProbeConfig(data=prepare(data), backbones=(tiny,), arms=("sgd",), epochs=2)
    jobs = [
        frozen,
        replace(frozen, batchnorm="adapts"),
        OverheadConfig(run=tiny, averages=(0, 2), every=(1, 4), rounds=1),
    ]
    for job in jobs:
        carry_out(job, tmp_path, device=CARD)
        assert run_folder(tmp_path, job.id).ending == "done"
