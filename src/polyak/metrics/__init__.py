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
from polyak.metrics.disagreement import (
    churn,
    js_divergence,
    js_paper_code,
    pairwise,
    sample_divergences,
)
from polyak.metrics.margins import best_other, margins, sample_losses
from polyak.metrics.pairs import Differences, differences
from polyak.metrics.ranking import Estimate, auroc, auroc_difference, auroc_interval, precision_at
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
    "differences",
    "Differences",
    "sample_divergences",
    "margins",
    "best_other",
    "sample_losses",
    "auroc",
    "auroc_interval",
    "auroc_difference",
    "precision_at",
    "Estimate",
]
