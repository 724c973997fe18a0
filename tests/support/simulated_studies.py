"""Studies whose truth is known: every claim can be made true, false or empty in them.

`rows()` is the world as the paper describes it; each argument changes one thing about it.
"""

from collections.abc import Callable
from itertools import combinations

import numpy as np

from polyak.analysis.claims.evidence import RowEvidence
from polyak.analysis.loaded import RunLog
from polyak.analysis.results import Result, Results
from polyak.records.runs import EpochRecord, MonitorRecord, Score
from polyak.records.timings import Timing, Timings
from polyak.records.vocabulary import Stop

BUDGET = 20
SHORT, LONG = "ema_0.9", "ema_0.99"
ARMS = ("sgd", "sgd_stopped", "ema_acc_bn", "ema_loss_bn")
SETTINGS = {
    "model.name": "net",
    "epochs": BUDGET,
    "optim.schedule": "cosine",
    "averaging.every": 16,
    "averaging.decays": (0.9, 0.99),
}


def papers_lead(t: float) -> float:
    """Ahead all along, most in the middle, nothing at the end: EMA peaks at 62 % of the run."""
    return 0.4 * t * (1 - t)


class World:
    """The truth, and a generator for what is chance."""

    def __init__(self, draw: np.random.Generator, *, seeds: int = 8, noise: float = 0.001) -> None:
        self.draw, self.noise = draw, noise
        self.seeds = [str(seed) for seed in range(seeds)]
        # What initialisation and order do to a seed, they do to all that is trained with it.
        self.common = {seed: self.around(0.0) for seed in self.seeds}

    def around(self, truth: float, noise: float | None = None) -> float:
        return truth + float(self.draw.normal()) * (self.noise if noise is None else noise)

    def search(
        self,
        lead: Callable[[float], float] = papers_lead,
        *,
        long: float = -0.1,
        long_bn: float = 0.03,
        bn: float = 0.02,
        last_rate: float = 0.0,
        learnt: Callable[[float], float] = lambda t: t**4,
        held_from: int | None = None,
    ) -> RunLog:
        """SGD rises in a line; the short window leads it, the long one is `long` beside that."""
        epochs, monitors = [], []
        for epoch in range(1, BUDGET + 1):
            t = epoch / BUDGET
            sgd = self.around(0.6 + 0.1 * t)
            short = sgd + self.around(lead(t))
            given = {"sgd": sgd, SHORT: short, LONG: short + self.around(long)}
            anew = {"sgd": sgd, SHORT: short + self.around(bn)}
            anew[LONG] = short + bn + self.around(long_bn)
            rate = last_rate if t == 1 else 1 - t + 0.02
            if held_from is not None and epoch >= held_from:
                rate = 0.4
            epochs.append(
                EpochRecord(
                    epoch=epoch,
                    step=epoch,
                    learning_rate=rate,
                    train=Score(1.0, 0.5),
                    seconds=1.0,
                    holdout=_scores(given),
                )
            )
            share = learnt(t if held_from is None else min(t, held_from / BUDGET))
            shares = {name: self.around(share) for name in ("sgd", SHORT, LONG)}
            monitors += [
                MonitorRecord(epoch=epoch, monitor="holdout_bn", scores=_scores(anew)),
                MonitorRecord(epoch=epoch, monitor="train_wrong", scores=_scores(shares)),
            ]
        return RunLog(epochs=epochs, monitors=monitors)

    def stops(self, acc: float, loss: float, worst: float | None) -> dict[str, dict]:
        found = {}
        for seed in self.seeds:
            last = worst if worst is not None and seed == "0" else self.around(acc, 0.02)
            at = {"sgd": 1.0, "acc": last, "loss": self.around(loss, 0.02)}
            found[seed] = {
                rule: Stop(rule=rule, epoch=max(1, round(BUDGET * share)), average=SHORT)
                for rule, share in at.items()
            }
        return found

    def results(self, label: str, truth: dict[tuple, float], noise: float | None = None) -> list:
        """By (phase, metric, arm): the truth, an effect of the seed on all arms, and chance."""
        found = []
        for (phase, metric, arm), value in truth.items():
            keys = {"row": label, "phase": phase, "arm": arm, "metric": metric}
            keys["target"] = "elsewhere" if phase == "transfer" else "test"
            if metric in ("churn", "js"):
                # A run that is unlike the others is so in all its pairs.
                own = {seed: self.around(0.0, noise) for seed in self.seeds}
                by_seed = {f"{a}-{b}": value + own[a] + own[b] for a, b in self.pairs()}
            else:
                by_seed = {s: value + self.common[s] + self.around(0.0, noise) for s in self.seeds}
            found += [Result(seed=seed, value=v, **keys) for seed, v in by_seed.items()]
        return found

    def pairs(self):
        return combinations(self.seeds, 2)


def rows(
    draw: np.random.Generator,
    *,
    seeds: int = 8,
    noise: float = 0.001,
    lead: Callable[[float], float] = papers_lead,
    last_rate: float = 0.0,
    stop_acc: float = 0.6,
    stop_loss: float = 0.45,
    worst_stop: float | None = None,
    long: float = -0.1,
    long_bn: float = 0.03,
    bn: float = 0.02,
    long_without_bn: float = 0.0,
    period_gap: float = 0.0,
    bootstrapped: float = -0.01,
    step_lead: float = 0.0,
    held_share: Callable[[float], float] = lambda t: t**4,
    cosine_share: Callable[[float], float] = lambda t: t**4,
    annealed: float = -0.01,
    step_cost: float = 0.01,
    evaluation_cost: float = 0.1,
    **changed: float,
) -> list[RowEvidence]:
    """The paper's row and those that differ from it in one setting.

    `changed` sets a number of the tables, as phase__metric__arm.
    """
    world = World(draw, seeds=seeds, noise=noise)
    truth = {**TRUTH, ("annealed", "accuracy", "sgd"): 0.73 + annealed}
    truth |= {tuple(key.split("__")): value for key, value in changed.items()}

    def row(
        label: str,
        settings: dict,
        truth: dict,
        held: dict | None = None,
        against: str | None = None,
        clean: bool = False,
        **search,
    ) -> RowEvidence:
        return RowEvidence(
            label=label,
            budget=settings["epochs"],
            averages=(SHORT, LONG),
            results=Results(world.results(label, truth)),
            search={seed: world.search(**search) for seed in world.seeds},
            held={seed: world.search(**held) for seed in world.seeds} if held else {},
            against=against,
            stops=world.stops(stop_acc, stop_loss, worst_stop),
            settings=settings,
            batchnorm=settings["model.name"] != "plain",
            images={"test": 10_000, "holdout": 10_000, "wrong": 0 if clean else 16_000},
        )

    def accuracies(sgd: float = 0.7, ema: float = 0.73) -> dict:
        return {("refit", "accuracy", "sgd"): sgd, ("refit", "accuracy", "ema_acc_bn"): ema}

    main = row(
        "main",
        SETTINGS,
        truth,
        lead=lead,
        long=long,
        long_bn=long_bn,
        bn=bn,
        last_rate=last_rate,
        learnt=cosine_share,
        held={"learnt": held_share, "held_from": 12},
    )
    every = {"averaging.every": 1, "averaging.decays": (0.994, 0.999)}
    variants = [
        row("T = 1", SETTINGS | every, accuracies(ema=0.73 - period_gap), against="main"),
        row(
            "bootstrapped",
            SETTINGS | {"bootstrap": SHORT},
            accuracies(sgd=0.7 + bootstrapped),
            against="main",
        ),
        row(
            "step",
            SETTINGS | {"optim.schedule": "step"},
            {},
            against="main",
            lead=lambda t: step_lead,
        ),
    ]
    plain = row(
        "plain",
        SETTINGS | {"model.name": "plain"},
        {key: value for key, value in truth.items() if key[1].startswith("ece")},
        clean=True,
        lead=lead,
        long=long_without_bn,
    )
    timed = RowEvidence(
        label="overhead",
        budget=0,
        averages=(),
        timings=timings(draw, step_cost, evaluation_cost),
    )
    return [main, *variants, plain, timed]


def timings(draw: np.random.Generator, step_cost: float, evaluation_cost: float) -> Timings:
    """Eight rounds on a machine that is now fast, now slow; evaluation is a tenth of the steps."""
    pace = draw.uniform(1, 2, size=8)

    def case(averages: int, every: int | None, share: float) -> Timing:
        dearer = (1 + share * step_cost, 0.1 * (1 + share * evaluation_cost))
        steps, evaluation = (
            tuple(float(p) for p in pace * part * (1 + draw.normal(0, 0.002, size=8)))
            for part in dearer
        )
        return Timing(
            averages=averages,
            every=every,
            steps_seconds=steps,
            evaluation_seconds=evaluation,
            bytes=0,
        )

    # Updating at each step costs sixteen times as much: not what the paper claims to be little.
    cases = (case(0, None, 0), case(5, 1, 16), case(5, 16, 1), case(1, 16, 0.2))
    return Timings(
        cases=cases,
        clock="CPU",
        steps=10,
        batch_size=8,
        train_images=80,
        holdout_images=20,
        parameters=100,
        environment={},
    )


TRUTH = {
    ("refit", "accuracy", "sgd"): 0.70,
    ("refit", "accuracy", "sgd_stopped"): 0.70,
    ("refit", "accuracy", "ema_acc_bn"): 0.73,
    ("refit", "loss", "sgd"): 1.0,
    ("refit", "loss", "ema_acc_bn"): 0.9,
    ("refit", "memorised", "sgd"): 1.0,
    ("refit", "churn", "sgd"): 0.20,
    ("refit", "churn", "ema_acc_bn"): 0.17,
    ("refit", "churn", "ema_loss_bn"): 0.13,
    ("refit", "js", "sgd"): 0.10,
    ("refit", "js", "ema_loss_bn"): 0.05,
    ("transfer", "accuracy", "ema_acc_bn"): 0.60,
    ("transfer", "accuracy", "ema_loss_bn"): 0.62,
    ("search", "ece", "sgd_stopped"): 0.10,
    ("search", "ece", "ema_acc_bn"): 0.07,
    ("search", "ece", "ema_loss_bn"): 0.04,
    ("search", "ece_scaled", "sgd_stopped"): 0.05,
    ("search", "ece_scaled", "ema_loss_bn"): 0.03,
}


def _scores(accuracies: dict[str, float]) -> dict[str, Score]:
    return {name: Score(loss=1 - value, accuracy=value) for name, value in accuracies.items()}
