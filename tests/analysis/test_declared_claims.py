"""A study's own claims are judged as the paper's are: the same numbers, bounds and verdicts."""

from dataclasses import replace

import numpy as np
import pytest
from support.simulated_studies import BUDGET, LONG, rows

from polyak.analysis.claims.catalogue import CLAIMS
from polyak.analysis.claims.declared import comparison_hypotheses, judgeable
from polyak.analysis.claims.ledger import ledger
from polyak.records.claims import Claim, Comparison

BY_ID = {claim.id: claim for claim in CLAIMS}


@pytest.fixture(scope="module")
def world():
    return rows(np.random.default_rng(0))


def of(row, metric, arm, unit, **changes) -> Comparison:
    terms = {"against": "sgd", "side": "above", "bound": 0.0, **changes}
    return Comparison(row=row, metric=metric, arm=arm, unit=unit, **terms).settled()


def claim(*comparisons, **changes) -> Claim:
    return Claim(id="mine", sentence="It is so.", comparisons=comparisons, **changes)


def numbers(found):
    return [
        (dict(h.values), h.side, h.bound, h.refuted_at, h.resolution, h.every_seed) for h in found
    ]


BETTER = (
    of("main", "accuracy", "ema_acc_bn", "points"),
    of("main", "loss", "ema_acc_bn", "nats", side="below"),
)
EARLY = [
    of("main", "accuracy", "best average", "points", phase="search", at=share)
    for share in (0.05, 0.1, 0.25)
]
STOPS = [
    of("main", "epoch", arm, "share", against=None, side="below", bound=0.75, phase="search")
    for arm in ("ema_acc", "ema_loss")
]
PAIRS = (
    of("main", "churn", "ema_loss_bn", "points", side="below"),
    of("main", "js", "ema_loss_bn", "nats", side="below"),
)


@pytest.mark.parametrize(
    ("paper", "comparisons"),
    [
        ("better-than-sgd", BETTER),
        ("early-lead", EARLY),
        ("stops-early", STOPS),
        ("stops-early-in-each", [replace(each, every_seed=True) for each in STOPS]),
        ("churn", PAIRS),
        (
            "fits-noise",
            [of("main", "memorised", "sgd", "%", against=None, bound=99.0)],
        ),
        (
            "calibration",
            [
                of("plain", m, "ema_loss_bn", "points", against="sgd_stopped", side="below")
                for m in ("ece", "ece_scaled")
            ],
        ),
    ],
)
def test_a_claim_of_the_papers_declared_by_a_study_has_its_numbers(world, paper, comparisons):
    if paper == "calibration":
        comparisons = [replace(each, phase="search") for each in comparisons]
    row = [row for row in world if row.label == comparisons[0].row]
    theirs = BY_ID[paper].hypotheses(row)
    ours = judgeable(claim(*comparisons)).hypotheses(row)
    assert theirs
    for mine, papers in zip(numbers(ours), numbers(theirs), strict=True):
        assert mine[0] == pytest.approx(papers[0])
        assert mine[2:5] == pytest.approx(papers[2:5])
        assert (mine[1], mine[5]) == (papers[1], papers[5])
    verdicts = [
        ledger(row, [each])[0].verdict for each in (judgeable(claim(*comparisons)), BY_ID[paper])
    ]
    assert verdicts == ["reproduced", "reproduced"]


def test_a_false_claim_is_not_reproduced_and_one_without_evidence_not_run(world):
    worse = replace(BETTER[0], arm="sgd", against="ema_acc_bn")
    missing = replace(BETTER[0], row="nowhere")
    found = ledger(world, map(judgeable, (claim(worse), claim(missing), claim(*BETTER, missing))))
    assert [entry.verdict for entry in found] == ["not reproduced", "not run", "not run"]


def test_within_is_two_one_sided_tests(world):
    last = of(
        "main",
        "accuracy",
        "best average",
        "points",
        phase="search",
        at=1.0,
        side="within",
        bound=0.5,
    )
    papers = BY_ID["peak"].hypotheses([world[0]])[1:]
    found = comparison_hypotheses(last, world)
    for mine, theirs in zip(numbers(found), numbers(papers), strict=True):
        assert mine[0] == pytest.approx(theirs[0])
        assert mine[1:] == theirs[1:]


def test_the_best_of_sgd_is_every_arm_that_all_seeds_have(world):
    best = replace(BETTER[0], against="best of sgd")
    # Without SGD's recomputed statistics nothing is the best of a network with BatchNorm.
    assert comparison_hypotheses(best, [replace(world[0], batchnorm=True)]) == []
    found = comparison_hypotheses(best, [replace(world[0], batchnorm=False)])
    assert [hypothesis.what.partition(" − ")[2] for hypothesis in found] == [
        "sgd",
        "sgd_stopped",
        "sgd annealed by then",
    ]
    assert dict(found[0].values) == pytest.approx(
        dict(comparison_hypotheses(BETTER[0], world)[0].values)
    )


def test_rows_are_compared_seed_by_seed(world):
    period = of("main", "accuracy", "ema_acc_bn", "points", against_row="T = 1")
    period = replace(period, against="ema_acc_bn")
    (found,) = comparison_hypotheses(period, world)
    assert found.row == "main | T = 1"
    assert dict(found.values) == dict(BY_ID["period"].hypotheses(world)[0].values)


def test_parts_of_a_log_are_compared_over_epochs(world):
    slow = of(
        "main",
        "accuracy",
        "longest average",
        "points",
        against="longest average",
        phase="search",
        at=0.25,
        until=0.75,
        part="holdout_bn",
        against_part="holdout",
    )
    (found,) = comparison_hypotheses(slow, world)
    log = world[0].search["0"]
    epochs = range(round(0.25 * BUDGET), round(0.75 * BUDGET) + 1)
    gaps = [
        log.part("holdout_bn")[e][LONG].accuracy - log.part("holdout")[e][LONG].accuracy
        for e in epochs
    ]
    assert found.values["0"] == pytest.approx(np.mean(gaps))


def test_only_the_seeds_of_a_claim_count(world):
    few = judgeable(claim(*BETTER, *PAIRS, seeds=(0, 2, 3))).hypotheses(world)
    assert {frozenset(hypothesis.values) for hypothesis in few} == {frozenset("023")}
