"""What the tests of declared claims compare, and a registration's words on power."""

from typing import Any

from polyak.records.claims import Claim, Comparison
from polyak.records.registration import Power


def gain(row: str, **changed: Any) -> Comparison:
    """That an average is more accurate than SGD in a row, or what is said instead."""
    usual = {
        "row": row,
        "metric": "accuracy",
        "arm": "ema_acc_bn",
        "against": "sgd",
        "side": "above",
        "bound": 0.0,
        "unit": "points",
    }
    return Comparison(**usual | changed)


def early_gain(row: str, **changed: Any) -> Comparison:
    """The same of the best average at a quarter of the search."""
    return gain(row, **{"arm": "best average", "phase": "search", "at": 0.25, **changed})


def claim_of(*comparisons: Comparison, **changed: Any) -> Claim:
    """A claim that it gains."""
    return Claim(**{"id": "gain", "sentence": "It gains.", "comparisons": comparisons, **changed})


def assumed_power(claim: str, what: str, **changed: Any) -> Power:
    """What two seeds see of a claim."""
    usual = {
        "claim": claim,
        "what": what,
        "unit": "points",
        "seeds": 2,
        "sd": 0.01,
        "source": "kept studies",
        "detectable": 0.12,
        "detectable_corrected": None,
    }
    return Power(**usual | changed)
