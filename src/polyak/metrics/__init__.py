"""Metrics of classifiers: logits and labels in, Python floats out, computed in float64.

Rates are fractions, entropies are in nats. Needs torch only.
"""

from polyak.metrics.agreement import Agreement, agreement
from polyak.metrics.calibration import (
    ReliabilityBin,
    ece,
    ece_equal_mass,
    ece_equal_width,
    ece_floor,
    reliability,
)
from polyak.metrics.classification import accuracy, brier, cross_entropy
from polyak.metrics.disagreement import churn, js_divergence, js_paper_code, pairwise
from polyak.metrics.temperature import fit_temperature, fit_temperature_paper_code

__all__ = [
    "accuracy",
    "cross_entropy",
    "brier",
    "ece",
    "ece_equal_mass",
    "ece_equal_width",
    "ece_floor",
    "reliability",
    "ReliabilityBin",
    "fit_temperature",
    "fit_temperature_paper_code",
    "agreement",
    "Agreement",
    "churn",
    "js_divergence",
    "js_paper_code",
    "pairwise",
]
