"""Claims about the final models: what the paper's tables compare (section 4)."""

from polyak.analysis.claims.claim import best_of_sgd, gain
from polyak.analysis.claims.evidence import RowEvidence
from polyak.analysis.claims.verdicts import Hypothesis
from polyak.records.vocabulary import BASELINE, EMA_ACC_BN, EMA_LOSS_BN, SGD_STOPPED

ALL_LABELS = 0.99
"""Share of the wrong labels that counts as all of them."""


def better_than_sgd(row: RowEvidence) -> list[Hypothesis]:
    """EMA (acc.) has higher test accuracy and lower test loss than SGD."""
    accuracy = gain(row, EMA_ACC_BN, BASELINE, metric="accuracy")
    return accuracy + gain(row, EMA_ACC_BN, BASELINE, metric="loss")


def better_than_any_sgd(row: RowEvidence) -> list[Hypothesis]:
    """The same against SGD's other arms."""
    return [
        found
        for metric in ("accuracy", "loss")
        for found in best_of_sgd(row, EMA_ACC_BN, metric=metric, besides=("refit", BASELINE))
    ]


def better_than_stopped_sgd_under_noise(row: RowEvidence) -> list[Hypothesis]:
    """Where labels are wrong, EMA (acc.) is more accurate than SGD at its own best epoch."""
    if not row.images.get("wrong"):
        return []
    return gain(row, EMA_ACC_BN, SGD_STOPPED, metric="accuracy")


def better_than_any_sgd_under_noise(row: RowEvidence) -> list[Hypothesis]:
    """The same against SGD's other arms."""
    if not row.images.get("wrong"):
        return []
    return best_of_sgd(row, EMA_ACC_BN, metric="accuracy", besides=("refit", SGD_STOPPED))


def sgd_fits_wrong_labels(row: RowEvidence) -> list[Hypothesis]:
    """SGD ends with all wrong labels learnt."""
    values = row.results.by_seed(phase="refit", arm=BASELINE, metric="memorised")
    if not values:
        return []
    return [
        Hypothesis(
            what="SGD, wrong labels memorised after the last epoch",
            row=row.label,
            values=values,
            bound=ALL_LABELS,
            refuted_at=ALL_LABELS,
            unit="%",
            resolution=row.half_an_image("wrong"),
        )
    ]


def disagrees_less(row: RowEvidence) -> list[Hypothesis]:
    """Two runs of EMA (loss) disagree less than two of SGD."""
    churn = gain(row, EMA_LOSS_BN, BASELINE, metric="churn")
    return churn + gain(row, EMA_LOSS_BN, BASELINE, metric="js")


def disagrees_less_than_any_sgd(row: RowEvidence) -> list[Hypothesis]:
    """The same against SGD's other arms."""
    return [
        found
        for metric in ("churn", "js")
        for found in best_of_sgd(row, EMA_LOSS_BN, metric=metric, besides=("refit", BASELINE))
    ]


def loss_beats_accuracy(row: RowEvidence) -> list[Hypothesis]:
    """EMA (loss) beats EMA (acc.) in churn, in every transfer, and in calibration.

    All three or nothing: a part of the claim is not the claim.
    """
    ours, other = EMA_LOSS_BN, EMA_ACC_BN
    churn = gain(row, ours, other, metric="churn")
    ece = gain(row, ours, other, metric="ece", phase="search")
    targets = sorted({r.target for r in row.results if r.phase == "transfer"})
    transfer = [
        found
        for target in targets
        for found in gain(
            row,
            ours,
            other,
            metric="accuracy",
            phase="transfer",
            target=target,
            better=f"accuracy on {target} by a linear probe, {ours} − {other}",
        )
    ]
    return [*churn, *transfer, *ece] if churn and transfer and ece else []


def better_calibrated(row: RowEvidence) -> list[Hypothesis]:
    """EMA (loss) has a lower calibration error than SGD, with and without a temperature.

    Only where labels are right: a temperature fitted to wrong ones is right for wrong ones.
    """
    if row.images.get("wrong"):
        return []
    found = [
        gain(row, EMA_LOSS_BN, SGD_STOPPED, metric=metric, phase="search")
        for metric in ("ece", "ece_scaled")
    ]
    return found[0] + found[1] if all(found) else []


def better_calibrated_than_any_sgd(row: RowEvidence) -> list[Hypothesis]:
    """The same against SGD's other arms."""
    if not better_calibrated(row):
        return []
    return [
        found
        for metric in ("ece", "ece_scaled")
        for found in best_of_sgd(
            row, EMA_LOSS_BN, metric=metric, phase="search", besides=("search", SGD_STOPPED)
        )
    ]
