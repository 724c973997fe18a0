"""What arms and averages are called on a page, and what they are."""

from collections.abc import Iterable

from polyak.records.studies import RowRecord

ARMS: dict[str, tuple[str, str]] = {
    "sgd": ("SGD", "the weights of plain training after the last epoch; the paper's baseline"),
    "sgd_stopped": (
        "SGD, stopped",
        "plain training at its own most accurate hold-out epoch: stopping without averaging",
    ),
    "sgd_at_ema": (
        "SGD at EMA’s epoch",
        "plain training at the epoch that was chosen for EMA (acc.): same moment, no averaging",
    ),
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
