"""A small study written by hand, so that every number of its page is known."""

from dataclasses import replace
from pathlib import Path

import torch

from polyak.records.predictions import write_predictions
from polyak.records.runs import EpochRecord, MonitorRecord, RunFolder, Score, run_folder
from polyak.records.studies import RowRecord, StudyRecord, write_study
from polyak.records.vocabulary import Stop

AVERAGES = ("ema_0.5", "ema_0.9")
ARMS = ("sgd", "sgd_stopped", "sgd_at_ema", "ema_acc", "ema_acc_bn", "ema_loss", "ema_loss_bn")
EPOCHS, N_TEST, N_TRAIN, CLASSES = 4, 60, 30, 3
MONITORS = ("test", "test_bn", "train_clean", "train_wrong")


def scores(epoch: int, seed: int, *, shift: float = 0.0) -> dict[str, Score]:
    """SGD and two averages that are one until epoch 2."""
    base = 0.3 + 0.1 * epoch + 0.01 * seed + shift
    slow = base + (0.05 if epoch > 2 else 0.02)
    fast = base + 0.02
    return {
        name: Score(loss=2 - value, accuracy=value)
        for name, value in zip(("sgd", *AVERAGES), (base, fast, slow), strict=True)
    }


def write_run(
    out: Path, run_id: str, *, seed: int, holdout: bool, monitors: bool = True, noisy: bool = True
) -> str:
    """A finished run: logs, configuration and predictions."""
    folder = run_folder(out, run_id)
    noise = {"kind": "symmetric", "rate": 0.4} if noisy else {"kind": "none", "rate": 0.0}
    folder.write_config(
        {
            "kind": "train",
            "epochs": EPOCHS,
            "batch_size": 10,
            "data": {"source": "toy", "holdout": 0.2, "noise": noise},
            "model": {"name": "tiny"},
            "optim": {
                "momentum": 0.9,
                "weight_decay": 5e-4,
                "schedule": "cosine",
                "warmup_epochs": 1.0,
            },
            "averaging": {"every": 2},
        }
    )
    epochs = range(1, EPOCHS + 1)
    folder.write_epochs(
        [
            EpochRecord(
                epoch=e,
                step=3 * e,
                learning_rate=0.1 / e,
                train=Score(1.0, 0.5),
                seconds=float(e),
                holdout=scores(e, seed) if holdout else {},
            )
            for e in epochs
        ]
    )
    if monitors:
        folder.write_monitors(
            [
                MonitorRecord(epoch=e, monitor=m, scores=scores(e, seed, shift=-0.01 * i))
                for e in epochs
                for i, m in enumerate(MONITORS)
            ]
        )
    write_predictions(folder.predictions, **predictions(seed, holdout=holdout, noisy=noisy))
    folder.finish("done", images=N_TRAIN, seconds=10.0)
    return run_id


def predictions(seed: int, *, holdout: bool, noisy: bool = True) -> dict[str, dict]:
    """Logits that grow better from arm to arm, and training verdicts."""
    draw = torch.Generator().manual_seed(seed)
    labels_n = torch.arange(N_TEST) % CLASSES
    signal_nk = torch.nn.functional.one_hot(labels_n, CLASSES).float()

    def logits(strength: float) -> torch.Tensor:
        return strength * signal_nk + torch.randn(N_TEST, CLASSES, generator=draw)

    strengths = [1.0 + 0.3 * i for i in range(len(ARMS))]
    clean_n = torch.arange(N_TRAIN) % CLASSES
    given_n = torch.where(torch.arange(N_TRAIN) < 10, (clean_n + 1) % CLASSES, clean_n)
    given_n = given_n if noisy else clean_n
    learnt_n = torch.where(torch.arange(N_TRAIN) < 2 + seed, given_n, clean_n)
    arms = {
        "test": {arm: logits(s) for arm, s in zip(ARMS, strengths, strict=True)},
        "train": dict.fromkeys(ARMS, learnt_n),
    }
    labels = {"test": {"labels": labels_n}, "train": {"given": given_n, "clean": clean_n}}
    if holdout:
        arms["holdout"] = {arm: logits(s) for arm, s in zip(ARMS, strengths, strict=True)}
        labels["holdout"] = {"given": labels_n, "clean": labels_n}
    return {"arms": arms, "labels": labels}


def write_probe(out: Path, probe_id: str, runs: list[str]) -> str:
    """A finished linear probe of some refits."""
    said = predictions(5, holdout=False)
    arms = ("sgd", "sgd_at_ema", "ema_acc_bn", "ema_loss_bn")
    named = {f"{run}.{arm}": said["arms"]["test"][arm].clone() for run in runs for arm in arms}
    folder = run_folder(out, probe_id)
    write_predictions(
        folder.predictions, arms={"test": named}, labels={"test": said["labels"]["test"]}
    )
    folder.finish("done", seconds=1.0)
    return probe_id


def whole_row(out: Path, label: str, *, seeds: tuple[int, ...] = (0, 1), **changes) -> RowRecord:
    """A row whose runs are all done. Its ids start with its label's length and first letter."""
    key = f"{label[0]}{len(label)}"
    search = {
        f"{rate:g}": {str(s): write_run(out, f"{key}s{i}{s}", seed=s, holdout=True) for s in seeds}
        for i, rate in enumerate((0.1, 0.2))
    }
    refit = {str(s): write_run(out, f"{key}r{s}", seed=s + 10, holdout=False) for s in seeds}
    stops = tuple(
        Stop(rule=rule, epoch=epoch, average=average)
        for rule, epoch, average in (
            ("sgd", 4, "sgd"),
            ("acc", 3, AVERAGES[1]),
            ("loss", 2, AVERAGES[0]),
        )
    )
    row = RowRecord(
        label=label,
        dataset="toy",
        architecture="tiny",
        seeds=seeds,
        learning_rates=(0.1, 0.2),
        averages=AVERAGES,
        paper_averages=("ema_0.968", "ema_0.998"),
        search=search,
        refit=refit,
        transfer={"elsewhere": write_probe(out, f"{key}t", list(refit.values()))},
        chosen_learning_rate=0.2,
        stops={str(s): stops for s in seeds},
    )
    return replace(row, **changes)


def write_rows(out: Path, *rows: RowRecord, title: str = "A small study") -> StudyRecord:
    study = StudyRecord(
        name="toy", title=title, command="polyak study toy", rows=rows, seconds=61.0, workers=2
    )
    write_study(out / "toy", study)
    return study


def write_again(
    folder: RunFolder,
    *,
    epochs: list[EpochRecord] | None = None,
    monitors: list[MonitorRecord] | None = None,
) -> None:
    """Other records for a run that has ended, as if it had ended with them."""
    facts = folder.facts()
    if epochs is not None:
        folder.write_epochs(epochs)
    if monitors is not None:
        folder.write_monitors(monitors)
    folder.finish(facts.pop("ending"), **facts)
