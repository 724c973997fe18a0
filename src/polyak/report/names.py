"""What arms and averages are called on a page, and what they are."""

from collections.abc import Iterable

from polyak.records.studies import RowRecord
from polyak.records.vocabulary import Rule

ARMS: dict[str, tuple[str, str]] = {
    "sgd": ("SGD", "the weights of plain training after the last epoch; the paper's baseline"),
    "sgd_bn": (
        "SGD + BN",
        "the same weights, BatchNorm statistics recomputed as those of the averages are: tells "
        "averaging from recomputing",
    ),
    "sgd_stopped": (
        "SGD, stopped",
        "plain training at its own most accurate hold-out epoch: stopping without averaging",
    ),
    "sgd_stopped_bn": ("SGD, stopped + BN", "the same, BatchNorm statistics recomputed"),
    "sgd_at_ema": (
        "SGD at EMA’s epoch",
        "plain training at the epoch that was chosen for EMA (acc.): same moment, no averaging",
    ),
    "sgd_at_ema_bn": ("SGD at EMA’s epoch + BN", "the same, BatchNorm statistics recomputed"),
    "ema_acc": (
        "EMA (acc.)",
        "the average and epoch of highest hold-out accuracy, BatchNorm statistics averaged along",
    ),
    "ema_acc_bn": (
        "EMA (acc.) + BN",
        "the average with the longest window at that epoch, BatchNorm statistics recomputed in one "
        "pass over the training images: what the paper’s tables call EMA (acc.)",
    ),
    "ema_loss": (
        "EMA (loss)",
        "the average and epoch of lowest hold-out loss, BatchNorm statistics averaged along",
    ),
    "ema_loss_bn": (
        "EMA (loss) + BN",
        "the average with the longest window at that epoch, BatchNorm statistics recomputed",
    ),
    "swa_bn": (
        "SWA + BN",
        "the plain mean of the weights at the epoch ends of the second half of training (SWA), "
        "BatchNorm statistics recomputed",
    ),
}

_AT_STOPS = "the same at the epoch that was chosen for EMA {}, BatchNorm statistics recomputed"
MORE_ARMS: dict[str, tuple[str, str]] = {
    "tail_bn": (
        "tail average + BN",
        "the plain mean of the weights over the last quarter of training, BatchNorm statistics "
        "recomputed",
    ),
    "lawa_bn": (
        "LAWA + BN",
        "the plain mean of the last six snapshots of the weights, an epoch apart, BatchNorm "
        "statistics recomputed (Kaddour 2022; six is ours)",
    ),
    "lawa_acc_bn": ("LAWA at EMA (acc.)’s epoch + BN", _AT_STOPS.format("(acc.)")),
    "lawa_loss_bn": ("LAWA at EMA (loss)’s epoch + BN", _AT_STOPS.format("(loss)")),
    "power_bn": (
        "power EMA + BN",
        "an average whose window grows with the run to a tenth of it, BatchNorm statistics "
        "recomputed (Karras et al. 2024)",
    ),
    "power_acc_bn": ("power EMA at EMA (acc.)’s epoch + BN", _AT_STOPS.format("(acc.)")),
    "power_loss_bn": ("power EMA at EMA (loss)’s epoch + BN", _AT_STOPS.format("(loss)")),
    "swad_bn": (
        "SWAD + BN",
        "the plain mean of the weights from the epoch where SGD’s hold-out loss stops falling to "
        "the one where it has risen, both found by the search, BatchNorm statistics recomputed "
        "(Cha et al. 2021)",
    ),
}

for _window, _age in (("window_1", "1 %"), ("window_7", "6.7 %"), ("window_10", "10 %")):
    MORE_ARMS |= {
        f"{_window}_bn": (
            f"window of {_age} + BN",
            f"a power-function average whose mean age is {_age} of the run, BatchNorm statistics "
            "recomputed",
        ),
        f"{_window}_acc_bn": (
            f"window of {_age} at EMA (acc.)’s epoch + BN",
            _AT_STOPS.format("(acc.)"),
        ),
        f"{_window}_loss_bn": (
            f"window of {_age} at EMA (loss)’s epoch + BN",
            _AT_STOPS.format("(loss)"),
        ),
    }

ARMS |= MORE_ARMS

RULE_NAMES: dict[Rule, str] = {"sgd": "SGD, stopped", "acc": "EMA (acc.)", "loss": "EMA (loss)"}
"""What was chosen by each rule."""


def arm_name(arm: str) -> str:
    """An arm as tables call it."""
    return ARMS[arm][0] if arm in ARMS else arm


def ordered(arms: Iterable[str]) -> list[str]:
    """Arms in the order of `ARMS`, unknown ones last."""
    known = list(ARMS)
    return sorted(arms, key=lambda arm: (known.index(arm) if arm in known else len(known), arm))


def average_name(name: str) -> str:
    """An average as figures call it.

    Example:
        >>> average_name("ema_0.998"), average_name("swa")
        ('EMA 0.998', 'SWA')
    """
    kind, _, rest = name.partition("_")
    return f"{kind.upper()} {rest}".strip() if kind in ("ema", "swa") else name


def paper_name(row: RowRecord, average: str) -> str | None:
    """The paper's average that one of a shorter run stands for; None where it is the same."""
    paper = dict(zip(row.averages, row.paper_averages, strict=False)).get(average)
    return None if paper in (None, average) else paper
