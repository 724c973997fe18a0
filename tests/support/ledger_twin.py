"""The ledger of claims once more, by numpy and SciPy alone, from numbers and logs.

Written from docs/claims.md. A hypothesis is (values by seed, side, bound, refuted at, resolution,
whether it is about every seed); `numbers` are (phase, target, arm, seed or pair, metric) → value.
"""

from math import ceil, sqrt

import numpy as np
from scipy import stats
from support.metrics_twin import jackknifed

ABOVE, BELOW = 1, -1
LAST, STOPPED, AT_EMA = "sgd", "sgd_stopped", "sgd_at_ema"
SGD = [name + end for name in (LAST, STOPPED, AT_EMA) for end in ("", "_bn")]
WORTH = {"accuracy": 0.002, "loss": 0.01, "churn": 0.002, "js": 0.001, "ece": 0.002}


def claims(row, numbers, logs, counts):
    """The hypotheses of each claim that a row of wrong labels can be asked; those of its own first.

    `row` is the plan's, with its choices; `logs` seed → lines of the search's log.jsonl; `counts`
    samples by part.
    """
    half = {part: 0.5 / count for part, count in counts.items()}
    budget, averages = len(next(iter(logs.values()))), row["averages"]
    found = about_curves(logs, averages, budget, half["holdout"])
    found |= about_stops(row["stops"], budget)

    def gain(ours, theirs, metric, phase="refit", of=None, target="test"):
        sides = [
            {seed: x for (*key, seed, m), x in numbers.items() if (*key, m) == (*side, metric)}
            for side in ((phase, target, ours), (of or phase, target, theirs))
        ]
        values = {seed: x - sides[1][seed] for seed, x in sides[0].items()}
        values = jackknifed(values) if metric in ("churn", "js") else values
        side = ABOVE if metric == "accuracy" else BELOW
        image = half[target] if metric in ("accuracy", "churn") else 0
        return values, side, 0, side * WORTH[metric], image, False

    def of_all_sgd(ours, metric, but):
        arms = [("refit", arm) for arm in SGD] + [("annealed", "sgd"), ("annealed", "sgd_bn")]
        return [gain(ours, arm, metric, of=of) for of, arm in arms if (of, arm) != but]

    acc, loss = "ema_acc_bn", "ema_loss_bn"
    for claim, ours, metrics in (
        ("better-than-sgd", acc, ("accuracy", "loss")),
        ("churn", loss, ("churn", "js")),
    ):
        found[claim] = [gain(ours, "sgd", m) for m in metrics]
        found[claim] += [x for m in metrics for x in of_all_sgd(ours, m, ("refit", "sgd"))]
    found["noise"] = [gain(acc, STOPPED, "accuracy")]
    found["noise"] += of_all_sgd(acc, "accuracy", ("refit", STOPPED))
    memorised = {
        seed: x
        for (phase, _, arm, seed, metric), x in numbers.items()
        if (phase, arm, metric) == ("refit", "sgd", "memorised")
    }
    found["fits-noise"] = [(memorised, ABOVE, 0.99, 0.99, half["wrong"], False)]
    found["loss-beats-accuracy"] = [
        gain(loss, acc, "churn"),
        *(gain(loss, acc, "accuracy", "transfer", target=target) for target in row["transfer"]),
        gain(loss, acc, "ece", "search"),
    ]
    found["annealed"] = [gain(acc, arm, "accuracy", of="annealed") for arm in ("sgd", "sgd_bn")]
    return found


def about_curves(logs, averages, budget, half):
    """Of the hold-out's accuracy, epoch by epoch."""
    seeds = list(logs)
    sgd = np.array([[line["holdout"]["sgd"]["accuracy"] for line in logs[s]] for s in seeds])
    bank = np.array(
        [[[line["holdout"][a]["accuracy"] for a in averages] for line in logs[s]] for s in seeds]
    )
    best = np.empty_like(sgd)
    for s in range(len(seeds)):
        # The average that is best in the sum of the other seeds, at each epoch.
        others = np.delete(bank, s, axis=0).sum(axis=0)
        best[s] = np.take_along_axis(bank[s], others.argmax(axis=1)[:, None], axis=1)[:, 0]
    lead = best - sgd

    def by_seed(values):
        return dict(zip(seeds, map(float, values), strict=True))

    fives = np.stack([lead[:, i : i + 5].mean(axis=1) for i in range(max(1, budget - 4))], axis=1)
    elsewhere = elsewhere_extreme(fives, np.argmin)
    early = dict.fromkeys(max(1, ceil(share * budget)) for share in (0.05, 0.1, 0.25))
    near = np.stack(
        [best[:, max(0, e - 2) : e + 3].mean(axis=1) for e in range(budget)], axis=1
    )  # narrower at the ends
    drop = elsewhere_extreme(near, np.argmax) - near[:, -1]
    end = by_seed(lead[:, -1])
    return {
        "never-behind": [
            (by_seed(fives.min(axis=1)), ABOVE, -0.002, None, half, False),
            (by_seed(elsewhere), ABOVE, -0.002, -0.002, half, False),
        ],
        "early-lead": [(by_seed(lead[:, e - 1]), ABOVE, 0, 0.002, half, False) for e in early],
        "peak": [
            (by_seed(drop), ABOVE, 0, 0.002, half, False),
            (end, ABOVE, -0.005, -0.005, half, False),
            (end, BELOW, 0.005, 0.005, half, False),
        ],
    }


def elsewhere_extreme(curves, extreme):
    """Each seed's value where the sum of the others has its extreme."""
    return np.array(
        [own[extreme(np.delete(curves, s, axis=0).sum(axis=0))] for s, own in enumerate(curves)]
    )


def about_stops(stops, budget):
    at = {
        rule: {
            seed: next(x["epoch"] for x in of if x["rule"] == rule) for seed, of in stops.items()
        }
        for rule in ("acc", "loss")
    }
    shares = [{seed: e / budget for seed, e in epochs.items()} for epochs in at.values()]
    earlier = {seed: (e - at["loss"][seed]) / budget for seed, e in at["acc"].items()}
    half = 0.5 / budget
    return {
        "stops-early": [(x, BELOW, 0.75, 0.75, half, False) for x in shares],
        "stops-early-in-each": [(x, BELOW, 0.75, 0.75, half, True) for x in shares],
        "loss-first": [(earlier, ABOVE, 0, 0.02, half, False)],
    }


def ps(values, side, bound, refuted_at, resolution, each):
    """p for and p against, None where it cannot be said."""
    x = np.array(list(values.values()))
    n, mean = len(x), x.mean()
    astray = each and not all(side * (x - bound) > 0)
    against = float(not astray) if each else None
    sd = max(x.std(ddof=1), resolution)
    if sd <= 1e-12:
        return None, against
    t = side * (mean - bound) / sd * sqrt(n)
    shown = stats.nct.sf(t, n - 1, stats.norm.ppf(0.95) * sqrt(n)) if each else stats.t.sf(t, n - 1)
    if not each and refuted_at is not None:
        against = stats.t.cdf(side * (mean - refuted_at) / sd * sqrt(n), n - 1)
    return 1.0 if astray else shown, against


def ledger(found):
    """Claim → p for, p against, both corrected over all claims, verdict."""
    both = {}
    for claim, hypotheses in found.items():
        shown, against = zip(*(ps(*hypothesis) for hypothesis in hypotheses), strict=True)
        known = [p for p in against if p is not None]
        both[claim] = (
            None if None in shown else max(shown),
            min(1.0, len(known) * min(known)) if known else None,
        )
    corrected = [benjamini_hochberg({c: p[i] for c, p in both.items()}) for i in (0, 1)]
    return {
        claim: (
            *p,
            *(qs.get(claim) for qs in corrected),
            verdict(*(q.get(claim, 1) for q in corrected)),
        )
        for claim, p in both.items()
    }


def benjamini_hochberg(by_claim):
    known = {claim: p for claim, p in by_claim.items() if p is not None}
    adjusted = stats.false_discovery_control(list(known.values()), method="bh")
    return dict(zip(known, adjusted, strict=True))


def verdict(shown, against):
    if shown <= 0.025:
        return "reproduced"
    return "not reproduced" if against <= 0.025 else "underpowered"
