"""What seeds can see, against simulation, and what is assumed of their spread."""

import importlib.util
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from support.declared_claims import gain
from support.repository import DOCS

from polyak.analysis.claims.power import (
    CURVE_SPREADS,
    KEPT_SPREADS,
    earlier_spread,
    evidence_of,
    kept_spread,
    power,
)
from polyak.analysis.results import Result, read_results, write_results, write_results_csv
from polyak.errors import FileError
from polyak.records.claims import Claim

RESULTS = DOCS / "results"
GAIN = gain("row").settled()
CASES, SD = 4000, 0.01


def claims(count: int, comparison=GAIN) -> list[Claim]:
    return [Claim(id=f"c{i}", sentence="S.", comparisons=(comparison,)) for i in range(count)]


def seen(n: int, count: int = 1, comparison=GAIN):
    found = claims(count, comparison)
    seeds = {claim.id: range(n) for claim in found}
    return power(found, seeds, lambda _: (SD, "here"))[0]


def samples(n: int, mean: float) -> np.ndarray:
    return np.random.default_rng(n).normal(mean, SD, size=(CASES, n))


def share(shown: np.ndarray) -> float:
    """Within four standard errors of 80 %, or the test fails."""
    assert abs(shown.mean() - 0.8) <= 4 * math.sqrt(0.8 * 0.2 / CASES)
    return float(shown.mean())


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("count", [1, 8])
def test_an_effect_of_that_size_is_shown_four_times_in_five(n, count):
    found = seen(n, count)
    effect = found.detectable if count == 1 else found.detectable_corrected
    p = stats.ttest_1samp(samples(n, effect), 0.0, axis=1, alternative="greater").pvalue
    # Benjamini and Hochberg's procedure, where all other claims have p = 1.
    share(p * count <= 0.025)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_a_margin_of_that_size_is_kept_four_times_in_five_at_least_where_nothing_differs(n):
    within = replace(GAIN, side="within", bound=1.0, refuted_at=None)
    margin = seen(n, comparison=within).detectable
    values = samples(n, 0.0)
    sides = [
        stats.ttest_1samp(values, bound, axis=1, alternative=side).pvalue
        for bound, side in ((-margin, "greater"), (margin, "less"))
    ]
    shown = np.maximum(*sides) <= 0.025
    assert 0.79 <= shown.mean() <= 0.85


def test_power_is_that_of_the_noncentral_t():
    found = seen(5).detectable * math.sqrt(5) / SD
    assert stats.nct.sf(stats.t.isf(0.025, 4), 4, found) == pytest.approx(0.8)


def test_no_power_is_computed_for_every_seed():
    found = seen(5, comparison=replace(GAIN, every_seed=True))
    assert (found.sd, found.detectable, found.detectable_corrected) == (SD, None, None)


def table(spread: float, label: str = "row", seeds: int = 40) -> list[Result]:
    draw = np.random.default_rng(0)
    found = []
    for seed in range(seeds):
        sgd = draw.normal(0.7, 0.05)
        for arm, value in (("sgd", sgd), ("ema_acc_bn", sgd + draw.normal(0.02, spread))):
            found.append(
                Result(
                    row=label,
                    phase="refit",
                    target="test",
                    arm=arm,
                    seed=str(seed),
                    metric="accuracy",
                    value=float(value),
                )
            )
    return found


def test_an_earlier_study_says_how_far_seeds_differ(tmp_path):
    results = table(0.003) + table(0.02, "other")
    write_results(tmp_path / "results.parquet", results)
    write_results_csv(tmp_path / "results.csv", results)
    for name in ("results.parquet", "results.csv"):
        assert read_results(tmp_path / name) == results
    spread = earlier_spread(evidence_of(results), "earlier")
    sd, source = spread(GAIN)
    assert (sd, source) == (pytest.approx(0.003, rel=0.3), "earlier")
    # A row that the earlier study lacks is like all of its rows together.
    pooled, _ = spread(replace(GAIN, row="new"))
    assert pooled == pytest.approx(math.sqrt((0.003**2 + 0.02**2) / 2), rel=0.3)
    # Two rows that it lacks are runs of their own, and pairing by seed does nothing for them.
    apart, _ = spread(replace(GAIN, row="new", against_row="newer"))
    assert apart == pytest.approx(math.sqrt(2) * 0.05, rel=0.3)


def test_what_an_earlier_study_does_not_say_is_as_in_the_kept_ones():
    spread = earlier_spread(evidence_of(table(0.003)), "earlier")
    curve = replace(GAIN, arm="best average", phase="search", at=0.25)
    for comparison in (replace(GAIN, metric="ece"), replace(GAIN, phase="annealed"), curve):
        assert spread(comparison) == kept_spread(comparison)
    alone = replace(GAIN, against=None, unit="%")
    assert kept_spread(alone)[0] == KEPT_SPREADS["accuracy"][1]
    rows = replace(GAIN, against_row="other")
    assert kept_spread(rows)[0] == math.sqrt(2) * KEPT_SPREADS["accuracy"][1]


def test_a_damaged_table_is_named(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("row,value\na,b\n")
    with pytest.raises(FileError, match="expected a study's table of results"):
        read_results(path)


@pytest.mark.slow
def test_what_is_assumed_is_what_the_kept_studies_have():
    spec = importlib.util.spec_from_file_location("spreads", RESULTS / "spreads.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["spreads"] = module
    spec.loader.exec_module(module)
    measured = {metric: found[:2] for metric, found in module.spreads().items()}
    assert {name for name in measured if " at " not in name} == KEPT_SPREADS.keys()
    for metric, pair in KEPT_SPREADS.items():
        assert measured[metric] == pytest.approx(pair, rel=0.02), metric
    for metric, by_share in CURVE_SPREADS.items():
        for share, (from_sgd, of_two, alone) in by_share.items():
            found = measured[f"{metric} at {share:g}"]
            assert found == pytest.approx((from_sgd, alone), rel=0.02)
            assert measured[f"{metric} of two at {share:g}"][0] == pytest.approx(of_two, rel=0.02)
    assert len(measured) == len(KEPT_SPREADS) + 4 * len(CURVE_SPREADS["accuracy"])


def test_of_a_curve_it_is_the_share_of_the_run_that_is_nearest():
    early = replace(GAIN, arm="best average", phase="search", at=0.15)
    assert kept_spread(early)[0] == CURVE_SPREADS["accuracy"][0.1][0]
    two = replace(early, against="shortest average", at=0.25, until=0.75)
    assert kept_spread(two)[0] == CURVE_SPREADS["accuracy"][0.5][1]
    assert kept_spread(replace(two, against=None, until=None))[0] == 0.0123
