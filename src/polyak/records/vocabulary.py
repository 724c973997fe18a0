"""Words that stages share: arms, phases, rules, stops, monitors.

Training writes them into files, the study chooses by them, analysis and report read them; each has
one spelling, and this is where it stands. Switches of the authors' code are in `paper_code`.
"""

from dataclasses import dataclass
from typing import Literal, get_args

BASELINE = "sgd"
"""The weights of plain training: in records beside the averages' names, and as an arm."""

# Arms are sets of weights that a finished run is evaluated as. That of plain training after the
# last epoch is `BASELINE`; "_bn": BatchNorm statistics recomputed.
SGD_BN = "sgd_bn"
"""Its last weights, recomputed: SGD treated as averages are."""
SGD_STOPPED = "sgd_stopped"
"""Plain training at its own best hold-out epoch."""
SGD_STOPPED_BN = "sgd_stopped_bn"
"""The same, recomputed."""
SGD_AT_EMA = "sgd_at_ema"
"""Plain training at the epoch of `EMA_ACC`: tells stopping from averaging."""
SGD_AT_EMA_BN = "sgd_at_ema_bn"
"""The same, recomputed."""
EMA_ACC = "ema_acc"
"""The most accurate average at its epoch."""
EMA_ACC_BN = "ema_acc_bn"
"""The longest window at that epoch, recomputed: the paper's "EMA (acc.)"."""
EMA_LOSS = "ema_loss"
"""The average of lowest loss at its epoch."""
EMA_LOSS_BN = "ema_loss_bn"
"""The longest window at that epoch, recomputed: the paper's "EMA (loss)"."""
SWA_BN = "swa_bn"
"""Uniform over the epoch ends of the second half, recomputed."""

ARMS = (
    BASELINE,
    SGD_BN,
    SGD_STOPPED,
    SGD_STOPPED_BN,
    SGD_AT_EMA,
    SGD_AT_EMA_BN,
    EMA_ACC,
    EMA_ACC_BN,
    EMA_LOSS,
    EMA_LOSS_BN,
    SWA_BN,
)
"""The arms of every study, in the order of its tables."""
CONTROLS = {SGD_BN: BASELINE, SGD_STOPPED_BN: SGD_STOPPED, SGD_AT_EMA_BN: SGD_AT_EMA}
"""SGD's arms with recomputed statistics, of networks that have some, and whose weights they are.
Runs of before 30 November 2026 lack them; `polyak evaluate --controls` makes them."""
PROBED_ARMS = (BASELINE, SGD_AT_EMA, EMA_ACC_BN, EMA_LOSS_BN)
"""Those of which a linear probe is trained."""

MoreAverage = Literal["tail", "lawa", "power", "swad", "window_1", "window_7", "window_10"]
"""Averages of other kinds that a run can keep beside its bank of EMAs."""
BESIDE_THE_BANK: tuple[MoreAverage, ...] = get_args(MoreAverage)
MORE_AVERAGES: tuple[MoreAverage, ...] = ("tail", "lawa", "power", "swad")
"""Those that `polyak study --more-averages` adds."""
WINDOWS: tuple[MoreAverage, ...] = ("window_1", "window_7", "window_10")
"""Those that `--windows` adds: their mean age is 1 %, 6.7 % and 10 % of the run."""
AT_STOPS: tuple[MoreAverage, ...] = ("lawa", "power", *WINDOWS)
"""Those that mean something at a stop; the others are made for the end of the run."""

FollowUp = Literal["held", "annealed"]
"""Runs that depend on the epochs chosen: the search with a learning rate held; the refit, or the
search where nothing is refitted, annealed early."""
FOLLOW_UPS: tuple[FollowUp, ...] = get_args(FollowUp)
Phase = Literal["search", "refit", "transfer", "held", "annealed"]
"""Models of the search (80 % of the training data), of the refit (all of it), probes of those, or
what follows the choice."""

Rule = Literal["sgd", "acc", "loss"]
"""What chooses a stop: best accuracy of SGD, best accuracy or lowest loss of any average."""
RULES: tuple[Rule, ...] = get_args(Rule)
AVERAGES_RULES: tuple[Rule, ...] = ("acc", "loss")
"""The rules that choose an average."""
Selection = Literal["paper", "bn_safe"]
"""paper: averages are chosen with the BatchNorm statistics that were averaged along; bn_safe: with
recomputed ones."""

Monitor = Literal["test", "test_bn", "holdout_bn", "train_given", "train_clean", "train_wrong"]
"""What a run can evaluate each epoch for figures; nothing that selects sees it."""
MONITORS: tuple[Monitor, ...] = get_args(Monitor)

Switch = Literal["on", "off"]
SWITCH: tuple[Switch, ...] = get_args(Switch)

Statistics = Literal["averaged", "recomputed"]
"""BatchNorm statistics of a variant."""
STATISTICS: tuple[Statistics, ...] = get_args(Statistics)

RUN_AGAIN = "Remove the run's folder and run the study again."
"""What to do about a run's file that is damaged or missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """An epoch at which weights are kept, and whose they are: what a rule chose in a run."""

    rule: Rule
    """"sgd": best accuracy of SGD · "acc": of any average · "loss": lowest loss of any average."""

    epoch: int
    """Epochs finished, from 1."""

    average: str
    """The weights that were best then: "sgd" or an average's name."""


def variant_name(rule: str, average: str, statistics: str) -> str:
    """The arm of an average at a rule's stop, with averaged or recomputed statistics.

    Decays have dots too, so the ends are what counts.

    Example:
        >>> variant_name("acc", "ema_0.998", "recomputed")
        'acc.ema_0.998.recomputed'
    """
    return f"{rule}.{average}.{statistics}"
