"""Words of the claims that the studies beyond the paper share."""

from collections.abc import Iterator
from typing import Any

from polyak.records.claims import Claim, Comparison
from polyak.records.vocabulary import WINDOWS, Phase

SHARES = {"window_1": "1 %", "window_7": "6.7 %", "window_10": "10 %"}
"""Mean ages of `WINDOWS`, in words."""
MIDDLE: dict[str, Any] = {"phase": "search", "at": 0.25, "until": 0.75}


def claim(name: str, sentence: str, *comparisons: Comparison) -> Claim:
    """A claim about all seeds."""
    return Claim(id=name, sentence=sentence, comparisons=comparisons)


def points(row: str, arm: str, against: str, **terms: Any) -> Comparison:
    """Accuracies, in points: above 0 unless said otherwise."""
    usual: dict[str, Any] = {"metric": "accuracy", "side": "above", "bound": 0.0}
    return Comparison(row=row, arm=arm, against=against, unit="points", **usual | terms)


def nats(row: str, arm: str, against: str, **terms: Any) -> Comparison:
    """Losses, in nats: below 0 unless said otherwise."""
    usual: dict[str, Any] = {"metric": "loss", "side": "below", "bound": 0.0}
    return Comparison(row=row, arm=arm, against=against, unit="nats", **usual | terms)


def early_lead(name: str, row: str, *, of: str = "points") -> Claim:
    """The average leads at a tenth and at a quarter of the run, in accuracy or in loss ("nats")."""
    compare = {"points": points, "nats": nats}[of]
    return claim(
        name,
        f"{row}: the best average leads at 10 and 25 % of the run.",
        *(compare(row, "best average", "sgd", phase="search", at=share) for share in (0.1, 0.25)),
    )


def before_the_end(name: str, row: str, at_the_end: Comparison) -> Claim:
    """The best average comes early, and nothing is left of its lead when the rate is 0.

    Args:
        name: Id of the claim.
        row: The row's label.
        at_the_end: The best average against the last iterate, within a margin.
    """
    epoch = Comparison(
        row=row,
        metric="epoch",
        arm="ema_loss",
        phase="search",
        side="below",
        bound=0.9,
        unit="share",
    )
    return claim(
        name,
        f"{row}: the average of lowest loss comes in the first nine tenths, and at the end the "
        "best average meets the last iterate.",
        epoch,
        at_the_end,
    )


def at_equal_compute(name: str, row: str) -> Iterator[Claim]:
    """Against the last iterate of a schedule that ends where the average was stopped.

    Args:
        name: What the claims' ids begin with.
        row: Label of a row that has the follow-up "annealed".
    """
    annealed = {"against_phase": "annealed"}
    yield claim(
        f"{name}-equal-compute",
        f"{row}: the average is more accurate than the last iterate annealed in its budget.",
        points(row, "ema_acc_bn", "sgd", **annealed),
    )
    yield claim(
        f"{name}-churn",
        f"{row}: two runs disagree less by averages than by last iterates of equal compute.",
        points(row, "ema_loss_bn", "sgd", metric="churn", side="below", **annealed),
        nats(row, "ema_loss_bn", "sgd", metric="js", **annealed),
    )
    yield claim(
        f"{name}-calibration",
        f"{row}: the average is better calibrated than the last iterate of equal compute.",
        points(row, "ema_loss_bn", "sgd", metric="ece", side="below", **annealed),
    )


def best_windows(name: str, row: str, *, stop: str, phase: Phase, where: str) -> Iterator[Claim]:
    """A claim for each window that it is the best of the three, of which one can be true at most.

    Args:
        name: What the claims' ids begin with.
        row: Label of a row that keeps `WINDOWS`.
        stop: "_loss" where the average's loss was lowest, "" at the end of the run.
        phase: Whose models are tested.
        where: When that is, in words.
    """
    for window in WINDOWS:
        yield claim(
            f"{name}-{window.replace('_', '-')}",
            f"{row}: {where} the window of {SHARES[window]} has a lower test loss than the other "
            "two.",
            *(
                nats(row, f"{window}{stop}_bn", f"{other}{stop}_bn", phase=phase)
                for other in WINDOWS
                if other != window
            ),
        )


def slow_is_harmless(name: str, row: str) -> Claim:
    """The longest window needs no recomputed statistics."""
    return claim(
        name,
        f"{row}: without BatchNorm a slow average needs nothing recomputed. Over the middle half "
        "of the run the window of 10 % is at most half a point behind that of 0.6 %.",
        points(row, "longest average", "shortest average", **MIDDLE, bound=-0.5),
    )
