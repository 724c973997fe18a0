"""The rule against Monte Carlo: its errors are as frequent as it says, no more."""

import math
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from polyak.analysis.claims.claim import equivalent, pseudo_values
from polyak.analysis.claims.verdicts import (
    Hypothesis,
    assess,
    benjamini_hochberg,
    detectable_effect,
    holm,
    p_all_supported,
    p_any_refuted,
    verdict,
)
from polyak.errors import DataError

RATE = 0.025


def hypothesis(values, **changes) -> Hypothesis:
    by_seed = {str(i): float(v) for i, v in enumerate(values)}
    return Hypothesis(**{"what": "gain", "row": "row", "values": by_seed, **changes})


def within(count: int, trials: int, rate: float) -> bool:
    """Four standard errors of a binomial count to each side."""
    return abs(count - trials * rate) <= 4 * math.sqrt(trials * rate * (1 - rate))


@pytest.mark.parametrize("n", [2, 3, 5, 10])
@pytest.mark.parametrize("side", ["above", "below"])
def test_no_effect_is_called_one_at_the_nominal_rate(n, side):
    draw, trials = np.random.default_rng(n), 2000
    called = sum(
        assess(hypothesis(draw.normal(0, 0.01, size=n), side=side)).p_supported <= RATE
        for _ in range(trials)
    )
    assert within(called, trials, RATE)


@pytest.mark.parametrize("n", [3, 5])
def test_an_effect_of_interest_is_denied_at_the_nominal_rate(n):
    draw, trials = np.random.default_rng(n), 2000
    called = sum(
        assess(hypothesis(draw.normal(0.005, 0.01, size=n), refuted_at=0.005)).p_refuted <= RATE
        for _ in range(trials)
    )
    assert within(called, trials, RATE)


@pytest.mark.parametrize("n", [3, 8])
def test_every_seed_is_said_at_the_nominal_rate_where_one_in_twenty_is_not(n):
    draw, trials = np.random.default_rng(n), 2000
    bound = stats.norm.ppf(0.95)
    called = sum(
        assess(
            hypothesis(draw.normal(size=n), side="below", bound=bound, every_seed=True)
        ).p_supported
        <= RATE
        for _ in range(trials)
    )
    assert within(called, trials, RATE)


def test_one_seed_on_the_wrong_side_refutes_every_seed():
    refuted = assess(
        hypothesis([0.6, 0.62, 0.81], side="below", bound=0.75, every_seed=True)
    ).p_refuted
    assert refuted == 0.0
    assert (
        assess(hypothesis([0.6, 0.7], side="below", bound=0.75, every_seed=True)).p_refuted == 1.0
    )


@pytest.mark.parametrize("n", [15, 20, 31])
def test_one_seed_on_the_wrong_side_counts_however_many_are_on_the_right_one(n):
    shares = [0.30, 0.35] * (n // 2)
    most = hypothesis([*shares, 0.755], side="below", bound=0.75, every_seed=True)
    shown, refuted = assess(most).p_supported, assess(most).p_refuted
    assert verdict(shown, refuted) == "not reproduced"


@pytest.mark.parametrize("n", [3, 5])
def test_averages_that_differ_by_the_margin_are_called_equal_at_the_nominal_rate_at_most(n):
    draw, trials, called = np.random.default_rng(n), 2000, 0
    for _ in range(trials):
        values = {str(i): float(v) for i, v in enumerate(draw.normal(0.005, 0.001, size=n))}
        weighed = [assess(f) for f in equivalent("gap", "row", values, margin=0.005)]
        called += p_all_supported(weighed) <= RATE
    assert within(called, trials, RATE)


@pytest.mark.parametrize("n", [3, 4, 6])
def test_churn_that_stays_is_called_lower_at_the_nominal_rate_at_most(n):
    """Pairs share runs; the jackknife knows, a t test over pairs would not."""
    draw, trials, ours, naive = np.random.default_rng(n), 1500, 0, 0
    for _ in range(trials):
        own = draw.normal(0, 0.01, size=n)
        pairs = {
            f"{a}-{b}": own[a] + own[b] + draw.normal() * 0.003
            for a, b in combinations(range(n), 2)
        }
        ours += assess(hypothesis(pseudo_values(pairs).values(), side="below")).p_supported <= RATE
        naive += assess(hypothesis(pairs.values(), side="below")).p_supported <= RATE
    assert ours <= trials * RATE + 4 * math.sqrt(trials * RATE)
    if n > 3:
        assert naive > 1.5 * trials * RATE


def test_pseudo_values_have_the_mean_of_the_pairs_and_need_three_runs():
    pairs = {"0-1": 0.1, "0-2": 0.2, "1-2": 0.6}
    assert np.mean(list(pseudo_values(pairs).values())) == pytest.approx(0.3)
    assert pseudo_values({"0-1": 0.1}) == {}
    assert pseudo_values({"0-1": 0.1, "1-2": 0.2}) == {}


@pytest.mark.parametrize("n", [3, 5, 10])
def test_the_detectable_effect_is_found_four_times_in_five(n):
    draw, trials = np.random.default_rng(n), 2000
    effect = detectable_effect(n, 0.01)
    found = sum(
        assess(hypothesis(draw.normal(effect, 0.01, size=n))).p_supported <= RATE
        for _ in range(trials)
    )
    assert within(found, trials, 0.8)


def test_few_noisy_seeds_are_underpowered_and_many_are_not():
    """Half a standard deviation, of which a tenth would be of interest."""
    draw, trials = np.random.default_rng(0), 400
    said = {3: [], 60: []}
    for n, verdicts in said.items():
        for _ in range(trials):
            weighed = assess(hypothesis(draw.normal(0.005, 0.01, size=n), refuted_at=0.001))
            verdicts.append(verdict(weighed.p_supported, weighed.p_refuted))
    assert said[3].count("underpowered") > 0.85 * trials
    assert said[60].count("reproduced") > 0.9 * trials


def test_a_page_without_any_effect_has_a_false_claim_at_the_nominal_rate_at_most():
    draw, trials, pages = np.random.default_rng(1), 300, 0
    for _ in range(trials):
        ps = [assess(hypothesis(draw.normal(size=3))).p_supported for _ in range(20)]
        pages += min(benjamini_hochberg(ps)) <= RATE
    assert pages <= trials * RATE + 4 * math.sqrt(trials * RATE)


def test_of_the_claims_called_reproduced_few_are_false():
    """Half of twenty claims are true; the share of false ones among those called is a mean."""
    draw, shares = np.random.default_rng(2), []
    for _ in range(150):
        means = [0.0] * 10 + [4.0] * 10
        ps = [assess(hypothesis(draw.normal(mean, 1, size=5))).p_supported for mean in means]
        called = [q <= RATE for q in benjamini_hochberg(ps)]
        shares.append(sum(called[:10]) / max(1, sum(called)))
    assert np.mean(shares) <= RATE * 0.5 + 4 * np.std(shares) / math.sqrt(len(shares))


def test_p_values_are_those_of_scipy():
    values = [0.011, 0.004, 0.019, -0.002]
    weighed = assess(hypothesis(values, bound=0.001, refuted_at=0.02))
    above = stats.ttest_1samp(values, 0.001, alternative="greater")
    below = stats.ttest_1samp(values, 0.02, alternative="less")
    assert weighed.p_supported == pytest.approx(above.pvalue)
    assert weighed.p_refuted == pytest.approx(below.pvalue)
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (weighed.low, weighed.high) == pytest.approx((interval.low, interval.high))


def test_a_mirrored_finding_says_the_same():
    above = assess(hypothesis([0.01, 0.03, 0.02], bound=0.004, refuted_at=0.01))
    below = assess(hypothesis([-0.01, -0.03, -0.02], side="below", bound=-0.004, refuted_at=-0.01))
    assert (above.p_supported, above.p_refuted) == pytest.approx(
        (below.p_supported, below.p_refuted)
    )


@pytest.mark.parametrize("seed", range(5))
def test_corrections_are_those_of_scipy_and_of_their_definition(seed):
    ps = np.random.default_rng(seed).uniform(size=12) ** 2
    assert benjamini_hochberg(ps) == pytest.approx(stats.false_discovery_control(ps, method="bh"))
    ranked = sorted(ps)
    for p, q in zip(ps, holm(ps), strict=True):
        slowly = max(min(1.0, ranked[j] * (12 - j)) for j in range(ranked.index(p) + 1))
        assert q == pytest.approx(slowly)
    assert benjamini_hochberg([]) == holm([]) == []


def test_seeds_without_spread_decide_nothing_unless_their_resolution_is_known():
    same = assess(hypothesis([0.01, 0.01, 0.01]))
    assert (same.low, same.p_supported, same.p_refuted) == (None, None, None)
    assert verdict(same.p_supported, same.p_refuted) == "underpowered"
    rounded = assess(hypothesis([0.71 - 0.7, 0.61 - 0.6, 0.01]))
    assert rounded.p_supported is None
    assert assess(hypothesis([0.01, 0.01, 0.01], resolution=0.0005)).p_supported < RATE


def test_less_spread_than_the_resolution_is_chance():
    close = hypothesis([0.0100, 0.0101, 0.0100], resolution=0.01)
    assert assess(close).p_supported > RATE
    assert assess(hypothesis([0.0100, 0.0101, 0.0100])).p_supported < RATE


def test_one_seed_has_a_mean_and_no_p():
    alone = assess(hypothesis([0.5]))
    assert (alone.n, alone.mean, alone.p_supported, alone.detectable) == (1, 0.5, None, None)


def test_a_finding_without_numbers_is_refused():
    with pytest.raises(DataError, match="expected at least one number"):
        assess(hypothesis([]))
    with pytest.raises(DataError, match="all finite"):
        assess(hypothesis([0.1, float("nan")]))


def test_findings_are_shown_together_by_the_weakest_and_refuted_by_the_strongest():
    clear, vague = hypothesis([0.01, 0.011, 0.012]), hypothesis([0.01, -0.08, 0.012])
    weighed = [assess(clear), assess(vague)]
    assert p_all_supported(weighed) == max(w.p_supported for w in weighed)
    assert p_any_refuted(weighed) == pytest.approx(2 * min(w.p_refuted for w in weighed))
    assert p_all_supported([*weighed, assess(hypothesis([0.5]))]) is None
    assert p_all_supported([]) is p_any_refuted([]) is None


def test_bonferroni_counts_the_hypotheses_that_can_be_refuted():
    """As docs/claims.md says: one that may err to the wrong side is no try."""
    values = {"0": -0.02, "1": -0.03, "2": -0.025}
    refutes = assess(Hypothesis(what="a", row="", values=values, refuted_at=0.0))
    cannot = assess(Hypothesis(what="b", row="", values=values, refuted_at=None))
    assert cannot.p_refuted is None
    assert p_any_refuted([refutes, cannot]) == refutes.p_refuted
    assert p_any_refuted([refutes, refutes]) == 2 * refutes.p_refuted
