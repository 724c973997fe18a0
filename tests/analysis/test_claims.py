"""Each claim in a world where it is true and in one where it is false."""

from dataclasses import replace

import numpy as np
import pytest
from support.simulated_studies import rows

from polyak.analysis.claims.catalogue import CLAIMS
from polyak.analysis.claims.claim import arms_of_sgd
from polyak.analysis.claims.cost import costs_little
from polyak.analysis.claims.evidence import RowEvidence
from polyak.analysis.claims.extremes import never_below
from polyak.analysis.claims.ledger import deciding, ledger
from polyak.analysis.claims.verdicts import assess
from polyak.analysis.loaded import RunLog
from polyak.analysis.results import Results
from polyak.records.runs import EpochRecord, MonitorRecord, Score

BY_ID = {claim.id: claim for claim in CLAIMS}
FALSE = {
    "never-behind": {"lead": lambda t: -0.05 if 0.3 < t < 0.6 else 0.05},
    "early-lead": {"lead": lambda t: 0.05 if t > 0.2 else -0.02},
    "peak": {"lead": lambda t: 0.05},
    "stops-early": {"stop_acc": 0.85},
    "stops-early-in-each": {"worst_stop": 0.8},
    "loss-first": {"stop_loss": 0.7},
    "longest-window": {"long": 0.0},
    "recomputing-helps": {"bn": -0.02},
    "without-batchnorm": {"long_without_bn": -0.1},
    "period": {"period_gap": 0.02},
    "cost-training": {"step_cost": 0.2},
    "cost-evaluation": {"evaluation_cost": 5.0},
    "better-than-sgd": {"refit__loss__ema_acc_bn": 1.1},
    "noise": {"refit__accuracy__sgd_stopped": 0.75},
    "fits-noise": {"refit__memorised__sgd": 0.9},
    "memorisation": {"held_share": lambda t: 0.9, "cosine_share": lambda t: 0.85},
    "churn": {"refit__churn__ema_loss_bn": 0.25},
    "loss-beats-accuracy": {"transfer__accuracy__ema_loss_bn": 0.55},
    "calibration": {"search__ece_scaled__ema_loss_bn": 0.06},
    "bootstrap": {"bootstrapped": 0.03},
    "step-decay": {"step_lead": 0.05},
    "annealed": {"annealed": 0.02},
}


def judged(claim: str, **truth) -> str:
    (entry,) = ledger(rows(np.random.default_rng(0), **truth), [BY_ID[claim]])
    return entry.verdict


def test_every_claim_has_a_world_where_it_is_false():
    assert FALSE.keys() == BY_ID.keys()


@pytest.fixture(scope="module")
def true_world():
    return rows(np.random.default_rng(0))


@pytest.mark.parametrize("claim", FALSE)
def test_a_true_claim_is_reproduced(claim, true_world):
    (entry,) = ledger(true_world, [BY_ID[claim]])
    assert entry.verdict == "reproduced"


def test_a_page_of_true_claims_is_reproduced_whole_after_correction(true_world):
    entries = ledger(true_world)
    assert {e.verdict for e in entries} == {"reproduced"}


@pytest.mark.parametrize("claim", ["better-than-sgd", "noise", "annealed", "early-lead"])
def test_two_noisy_seeds_are_too_few(claim):
    (entry,) = ledger(rows(np.random.default_rng(1), seeds=2, noise=0.03), [BY_ID[claim]])
    assert entry.verdict == "underpowered"


def test_one_seed_decides_nothing():
    entries = ledger(rows(np.random.default_rng(2), seeds=1)[:-1])
    assert {e.verdict for e in entries} == {"underpowered", "not run"}


def test_a_row_without_evidence_is_not_run():
    entries = ledger([RowEvidence(label="empty", budget=0, averages=("ema_0.9",))])
    assert {e.verdict for e in entries} == {"not run"}
    assert [e.verdict for e in ledger([])] == ["not run"] * len(CLAIMS)


def test_a_single_row_that_differs_refutes_a_claim_about_every_row():
    first = rows(np.random.default_rng(3))[0]
    other = rows(np.random.default_rng(4), refit__accuracy__ema_acc_bn=0.65)[0]
    (entry,) = ledger([first, replace(other, label="second")], [BY_ID["better-than-sgd"]])
    assert entry.verdict == "not reproduced"
    hypothesis, _ = deciding(entry)
    assert hypothesis.row == "second"
    assert hypothesis.values == approx_gain(other)


def approx_gain(row) -> dict[str, float]:
    by_arm = {
        arm: {
            r.seed: r.value
            for r in row.results
            if (r.arm, r.metric, r.phase) == (arm, "accuracy", "refit")
        }
        for arm in ("sgd", "ema_acc_bn")
    }
    return {
        seed: pytest.approx(value - by_arm["sgd"][seed])
        for seed, value in by_arm["ema_acc_bn"].items()
    }


def test_rows_of_appendices_are_no_evidence_for_the_papers_own_claims(true_world):
    ordinary = {"main", "plain"}
    for claim in ("never-behind", "stops-early", "better-than-sgd", "fits-noise"):
        assert {f.row for f in BY_ID[claim].hypotheses(true_world)} <= ordinary
    assert {f.row for f in BY_ID["step-decay"].hypotheses(true_world)} == {"step"}
    assert {f.row for f in BY_ID["bootstrap"].hypotheses(true_world)} == {"main | bootstrapped"}


def test_where_the_learning_rate_stays_up_nobody_is_to_meet_sgd():
    world = rows(np.random.default_rng(0), last_rate=0.5)
    assert not [f for f in BY_ID["peak"].hypotheses(world[:1])]


def test_the_peak_of_a_flat_curve_is_no_peak():
    """The height of a maximum over epochs is no evidence: curves of noise have one, too."""
    draw, called = np.random.default_rng(5), 0
    trials, n, epochs = 300, 3, 24
    for _ in range(trials):
        search = {str(s): flat_run(draw, epochs) for s in range(n)}
        row = RowEvidence(label="flat", budget=epochs, averages=("ema_0.9",), search=search)
        shown = assess(BY_ID["peak"].hypotheses([row])[0]).p_supported
        called += shown is not None and shown <= 0.025
    assert called <= binomial_limit(trials, 0.025)


@pytest.mark.parametrize(("claim", "averages"), [("never-behind", 1), ("step-decay", 5)])
def test_nothing_is_refuted_by_the_largest_or_least_of_what_is_noise(claim, averages):
    """Averages that equal SGD, on few images: none is behind, and none is ahead."""
    draw, called = np.random.default_rng(6), 0
    names = tuple(f"ema_{i}" for i in range(averages))
    trials, n, epochs = 100, 4, 40
    settings = {"optim.schedule": "step" if claim == "step-decay" else "cosine"}
    for _ in range(trials):
        search = {str(s): equal_run(draw, epochs, names) for s in range(n)}
        row = RowEvidence(
            label="equal", budget=epochs, averages=names, search=search, settings=settings
        )
        called += ledger([row], [BY_ID[claim]])[0].verdict == "not reproduced"
    assert called <= binomial_limit(trials, 0.025)


def test_recomputing_that_changes_nothing_is_not_refuted():
    draw, called = np.random.default_rng(7), 0
    trials, n, epochs = 100, 4, 40
    for _ in range(trials):
        search = {str(s): recomputed_run(draw, epochs) for s in range(n)}
        row = RowEvidence(
            label="same", budget=epochs, averages=("ema_0.9",), search=search, batchnorm=True
        )
        _, shows, refutes = (assess(f) for f in BY_ID["recomputing-helps"].hypotheses([row]))
        assert shows.p_refuted is None
        called += refutes.p_refuted <= 0.025
    assert called <= binomial_limit(trials, 0.025)


def test_calibration_is_judged_where_labels_are_right(true_world):
    assert {f.row for f in BY_ID["calibration"].hypotheses(true_world)} == {"plain"}


def test_averages_beside_the_bank_are_not_in_it():
    row = rows(np.random.default_rng(0))[0]
    expected = BY_ID["never-behind"].hypotheses([row])
    search = {seed: with_another(log) for seed, log in row.search.items()}
    found = BY_ID["never-behind"].hypotheses([replace(row, search=search)])
    assert [f.values for f in found] == [f.values for f in expected]


def with_another(log: RunLog) -> RunLog:
    epochs = [replace(e, holdout={**e.holdout, "lawa": Score(0.0, 1.0)}) for e in log.epochs]
    return RunLog(epochs=epochs, monitors=log.monitors)


def flat_run(draw, epochs: int) -> RunLog:
    values = draw.normal(0.7, 0.01, size=epochs)
    return RunLog(
        epochs=[record(e, epochs, {"sgd": 0.7, "ema_0.9": float(v)}) for e, v in enumerate(values)]
    )


def equal_run(draw, epochs: int, names: tuple[str, ...]) -> RunLog:
    return RunLog(
        epochs=[
            record(e, epochs, {name: float(draw.normal(0.7, 0.01)) for name in ("sgd", *names)})
            for e in range(epochs)
        ]
    )


def recomputed_run(draw, epochs: int) -> RunLog:
    accuracies = [{"sgd": 0.7, "ema_0.9": float(draw.normal(0.7, 0.01))} for _ in range(epochs)]
    monitors = [
        MonitorRecord(
            epoch=e + 1,
            monitor="holdout_bn",
            scores={name: Score(1.0, float(draw.normal(0.7, 0.01))) for name in ("sgd", "ema_0.9")},
        )
        for e in range(epochs)
    ]
    epochs_ = [record(e, epochs, found) for e, found in enumerate(accuracies)]
    return RunLog(epochs=epochs_, monitors=monitors)


def record(e: int, epochs: int, accuracies: dict[str, float]) -> EpochRecord:
    return EpochRecord(
        epoch=e + 1,
        step=e + 1,
        learning_rate=1.0 - (e + 1) / epochs,
        train=Score(1.0, 0.5),
        seconds=1.0,
        holdout={name: Score(1.0, value) for name, value in accuracies.items()},
    )


def binomial_limit(trials: int, rate: float) -> float:
    """Four standard errors above what is expected."""
    return trials * rate + 4 * (trials * rate * (1 - rate)) ** 0.5


def test_time_added_is_relative_to_the_time_without():
    (found,) = costs_little("steps", "row", {"0": 1.02, "1": 2.1}, {"0": 1.0, "1": 2.0, "2": 1.0})
    assert found.values == {"0": pytest.approx(0.02), "1": pytest.approx(0.05)}
    assert costs_little("steps", "row", {"0": 1.0}, {"1": 1.0}) == []


def test_the_worst_five_epochs_are_five_at_the_ends_of_a_run_too():
    """Three at the end would be the worst here, and are two epochs fewer than what is said."""
    curve = [0.01] * 8 + [0.004, 0.002, 0.0, -0.02, -0.03]
    row = RowEvidence(label="row", budget=13, averages=("ema_0.9",))
    curves = {"0": curve, "1": list(reversed(curve))}
    own, others = never_below("lead", row, curves, bound=-0.002, part="holdout")
    worst = sum(curve[-5:]) / 5
    assert own.values == pytest.approx({"0": worst, "1": worst})
    # The other seed's worst five are the first of this one, and the last.
    assert others.values == pytest.approx({"0": 0.01, "1": 0.01})
    short = never_below("lead", row, {"0": curve[-3:]}, bound=-0.002, part="holdout")
    assert short[0].values == pytest.approx({"0": sum(curve[-3:]) / 3})


def test_rules_are_called_what_tables_call_them(true_world):
    told = {h.what for h in BY_ID["stops-early"].hypotheses(true_world)}
    assert told == {
        f"epoch chosen for EMA ({rule}), share of the budget" for rule in ("acc.", "loss")
    }


RIVALS = {"better-than-sgd", "noise", "churn", "calibration", "annealed"}
RECOMPUTED = {
    "refit__accuracy__sgd_bn": 0.70,
    "refit__loss__sgd_bn": 1.0,
    "refit__churn__sgd_bn": 0.20,
    "refit__js__sgd_bn": 0.10,
    "search__ece__sgd_bn": 0.10,
    "search__ece_scaled__sgd_bn": 0.05,
    "annealed__accuracy__sgd_bn": 0.72,
}
"""SGD's recomputed statistics do nothing for it."""
RIVAL_AS_GOOD = {
    "better-than-sgd": {"refit__accuracy__sgd_bn": 0.74},
    "noise": {"refit__accuracy__sgd_bn": 0.74},
    "churn": {"refit__js__sgd_bn": 0.04},
    "calibration": {"search__ece_scaled__sgd_bn": 0.02},
    "annealed": {"annealed__accuracy__sgd_bn": 0.74},
}


def test_where_recomputing_does_nothing_for_sgd_claims_stand_by_both_comparisons():
    entries = ledger(rows(np.random.default_rng(0), **RECOMPUTED))
    assert {entry.verdict for entry in entries} == {"reproduced"}
    by_both = {entry.claim.id for entry in entries if entry.own is not None}
    assert by_both == RIVALS == RIVAL_AS_GOOD.keys()
    assert {entry.own.verdict for entry in entries if entry.own is not None} == {"reproduced"}


@pytest.mark.parametrize("claim", RIVAL_AS_GOOD)
def test_a_gain_over_sgd_that_recomputing_explains_is_none_though_its_own_comparison_has_it(claim):
    world = rows(np.random.default_rng(0), **RECOMPUTED | RIVAL_AS_GOOD[claim])
    (entry,) = ledger(world, [BY_ID[claim]])
    assert entry.verdict == "not reproduced"
    assert "sgd_bn" in deciding(entry)[0].what
    assert entry.own is not None
    assert entry.own.verdict == "reproduced"
    assert entry.own.tested == tuple(entry.tested[: len(entry.own.tested)])


def test_the_best_arm_is_every_arm_so_the_largest_p_counts():
    world = rows(np.random.default_rng(0), noise=0.02, **RECOMPUTED)
    (entry,) = ledger(world, [BY_ID["better-than-sgd"]])
    arms = {hypothesis.what.split(" − ")[1] for hypothesis, _ in entry.tested}
    assert arms == {
        "sgd",
        "sgd_bn",
        "sgd_stopped",
        "sgd annealed by then",
        "sgd_bn annealed by then",
    }
    assert entry.p_supported == max(test.p_supported for _, test in entry.tested)
    ps = [test.p_refuted for _, test in entry.tested]
    assert entry.p_refuted == pytest.approx(min(1.0, min(ps) * len(ps)))


@pytest.mark.parametrize("annealed", [-0.01, 0.02])
def test_where_nothing_is_refitted_the_searchs_models_are_judged_against_annealed_sgd(annealed):
    """The same numbers, called the search's: the same tests."""
    whole = rows(np.random.default_rng(0), **RECOMPUTED, annealed=annealed)[0]
    (expected,) = ledger([whole], [BY_ID["annealed"]])
    renamed = Results(
        replace(r, phase="search") if r.phase == "refit" else r
        for r in whole.results
        if r.phase != "search"
    )
    searched = replace(whole, results=renamed, judged="search")
    (entry,) = ledger([searched], [BY_ID["annealed"]])
    assert entry.tested == expected.tested
    assert entry.verdict == ("reproduced" if annealed < 0 else "not reproduced")
    # Rivals of what is claimed of the search: annealed SGD too, where nothing is refitted.
    assert ("annealed", "sgd") in arms_of_sgd(searched, "0", metric="accuracy", phase="search")
    assert ("annealed", "sgd") not in arms_of_sgd(whole, "0", metric="accuracy", phase="search")


def test_without_recomputed_arms_of_sgd_the_ledger_is_what_it_was(true_world):
    entries = ledger(true_world)
    assert all(entry.own is None for entry in entries)
    # SGD, stopped, is there and no rival.
    (entry,) = (e for e in entries if e.claim.id == "better-than-sgd")
    assert len(entry.tested) == 2


def test_an_arm_of_sgd_that_some_seeds_lack_is_no_rival():
    whole = rows(np.random.default_rng(0), **RECOMPUTED)[0]
    part = Results(r for r in whole.results if (r.arm, r.seed) != ("sgd_stopped", "0"))
    (entry,) = ledger([replace(whole, results=part)], [BY_ID["better-than-sgd"]])
    assert not any("sgd_stopped" in hypothesis.what for hypothesis, _ in entry.tested)


def test_where_some_seeds_lack_recomputed_statistics_claims_are_judged_by_their_own_comparison():
    whole = rows(np.random.default_rng(0), **RECOMPUTED)[0]
    part = Results(r for r in whole.results if r.arm != "sgd_bn" or "0" not in r.seed.split("-"))
    entries = ledger([replace(whole, results=part)])
    assert all(entry.own is None for entry in entries)
