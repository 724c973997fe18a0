"""Every metric that a table shows, once: what it is called, its unit and its decimals."""

from dataclasses import dataclass, replace
from math import log


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A metric as a column."""

    metric: str
    """As results name it."""

    heading: str
    unit: str
    scale: float = 1.0
    """What a value is multiplied by to be in that unit."""

    digits: int | None = 3
    """Decimals. None: as many as a percentage of the test set can bear."""

    @property
    def difference_unit(self) -> str:
        """The unit of a difference of two."""
        return "points" if self.unit == "%" else self.unit


def _percent(metric: str, heading: str, *, digits: int | None = 1) -> Measure:
    return Measure(metric=metric, heading=heading, unit="%", scale=100, digits=digits)


ACCURACY = _percent("accuracy", "accuracy", digits=None)
LOSS = Measure(metric="loss", heading="loss", unit="nats")
ECE = _percent("ece", "ECE")
ECE_FLOOR = _percent("ece_floor", "floor of ECE")
ECE_SCALED = _percent("ece_scaled", "ECE, scaled")
TEMPERATURE = Measure(metric="temperature", heading="temperature", unit="", digits=2)
BRIER = Measure(metric="brier", heading="Brier score", unit="")
MEMORISED = _percent("memorised", "wrong labels memorised")
CHURN = _percent("churn", "churn")
JS = Measure(metric="js", heading="JS divergence", unit="nats", digits=4)
JS_PAPER_CODE = Measure(metric="js_paper_code", heading="the authors’ “JS”", unit="as coded")
CHURN_PARTS = (
    _percent("both_right", "both right"),
    _percent("both_wrong", "both wrong"),
    _percent("flipped", "flipped"),
    _percent("differently_wrong", "differently wrong"),
    CHURN,
)
"""Churn is the sum of flipped and differently wrong."""

OF_TEMPERATURE = ("temperature", "ece_scaled", "loss_scaled")
"""Metrics that rest on a temperature fitted to the hold-out's labels."""

OF_PAIRS = ("churn", "js", "js_paper_code")
"""Metrics of two runs, not of one."""

# Read off a run's log, epoch by epoch; no results.
EPOCH = Measure(metric="epoch", heading="epoch", unit="", digits=1)
SHARE = _percent("share", "share")

_PRINTED = {"loss": 2, "churn": 2, "ece": 2, "ece_scaled": 2, "ece_floor": 2}
"""Decimals of the paper's own tables, where they are others than ours."""


def in_bits(measure: Measure) -> Measure:
    """A measure in nats of text, whose samples are bytes.

    Example:
        >>> in_bits(LOSS).unit, round(in_bits(LOSS).scale * log(256), 6)
        ('bits per byte', 8.0)
    """
    return replace(measure, unit="bits per byte", scale=measure.scale / log(2))


def as_printed(measure: Measure) -> Measure:
    """A measure with the decimals of the paper's tables, to stand beside their numbers.

    Example:
        >>> CHURN.digits, as_printed(CHURN).digits
        (1, 2)
    """
    return replace(measure, digits=_PRINTED.get(measure.metric, measure.digits))
