"""The study's numbers once more, by numpy and SciPy alone, from stored logits.

Shape suffixes: n samples, k classes.
"""

from itertools import combinations

import numpy as np
from scipy import stats
from scipy.optimize import minimize_scalar
from scipy.spatial.distance import jensenshannon
from scipy.special import log_softmax, softmax


def arm_metrics(tensors, arm):
    """The numbers of one arm of one run; `tensors` are those of predictions.safetensors."""
    logits_nk, labels_n = np.float64(tensors[f"test/arm/{arm}"]), tensors["test/labels"]
    found = {
        "accuracy": np.mean(logits_nk.argmax(1) == labels_n),
        "loss": nats(logits_nk, labels_n),
        "brier": brier(logits_nk, labels_n),
        "ece": ece(logits_nk, labels_n),
        "ece_floor": ece_floor(logits_nk),
    }
    # Text has no labels that could be wrong.
    if "train/given" in tensors:
        given_n, clean_n = tensors["train/given"], tensors["train/clean"]
        wrong_n = given_n != clean_n
        if wrong_n.any():
            found["memorised"] = np.mean((tensors[f"train/arm/{arm}"] == given_n)[wrong_n])
    if "holdout/given" in tensors:
        held_nk = np.float64(tensors[f"holdout/arm/{arm}"])
        held_n = tensors["holdout/given"]
        t = temperature(held_nk, held_n)
        found["holdout_accuracy"] = np.mean(held_nk.argmax(1) == held_n)
        found["temperature"] = t
        found["ece_scaled"] = ece(logits_nk / t, labels_n)
        found["loss_scaled"] = nats(logits_nk / t, labels_n)
    return found


def pair_metrics(first, second, arm):
    """The numbers about two runs: how much their test predictions differ."""
    a_nk, b_nk = (np.float64(tensors[f"test/arm/{arm}"]) for tensors in (first, second))
    a_n, b_n, y_n = a_nk.argmax(1), b_nk.argmax(1), first["test/labels"]
    p_nk, q_nk = softmax(a_nk, axis=1), softmax(b_nk, axis=1)
    return {
        "churn": np.mean(a_n != b_n),
        "js": np.mean(jensenshannon(p_nk, q_nk, axis=1) ** 2),
        "js_paper_code": js_paper_code(a_nk, b_nk),
        "both_right": np.mean((a_n == y_n) & (b_n == y_n)),
        "both_wrong": np.mean((a_n != y_n) & (b_n != y_n)),
        "flipped": np.mean((a_n == y_n) != (b_n == y_n)),
        "differently_wrong": np.mean((a_n != y_n) & (b_n != y_n) & (a_n != b_n)),
    }


def js_paper_code(a_nk, b_nk, batch=100, added=1e-8):
    """What the authors' code calls JS: softmax over samples, Kullback-Leibler the wrong way."""
    found = []
    for start in range(0, len(a_nk), batch):
        p, q = (softmax(x[start : start + batch], axis=0) for x in (a_nk, b_nk))
        m, size = (p + q) / 2, len(p)
        found.append(sum((m * np.log(m / (x + added))).sum() for x in (p, q)) / 2 / size)
    return np.mean(found)


def nats(logits_nk, labels_n):
    """Mean cross-entropy."""
    return -np.mean(log_softmax(logits_nk, axis=1)[np.arange(len(labels_n)), labels_n])


def brier(logits_nk, labels_n):
    """Mean squared distance of probabilities from the truth, over classes."""
    truth_nk = np.eye(logits_nk.shape[1])[labels_n]
    return np.mean(np.sum((softmax(logits_nk, axis=1) - truth_nk) ** 2, axis=1))


def ece(logits_nk, labels_n):
    """Top-label calibration error: samples by confidence, in equal shares."""
    confidence_n = softmax(logits_nk, axis=1).max(1)
    return gap(confidence_n, logits_nk.argmax(1) == labels_n)


def gap(confidence_n, right_n):
    """100 shares, fewer where one would hold under 20 samples."""
    n = len(confidence_n)
    excess_n = (confidence_n - right_n)[np.argsort(confidence_n, kind="stable")]
    return sum(abs(share.sum()) for share in np.array_split(excess_n, min(100, n // 20))) / n


def ece_floor(logits_nk, draws=400):
    """What a calibrated model of these confidences would score, by simulation."""
    confidence_n = softmax(logits_nk, axis=1).max(1)
    uniform = np.random.default_rng(0).random((draws, len(confidence_n)))
    return np.mean([gap(confidence_n, u_n < confidence_n) for u_n in uniform])


def temperature(logits_nk, labels_n):
    """The one number by which dividing the logits makes their loss lowest."""
    found = minimize_scalar(
        lambda log_t: nats(logits_nk / np.exp(log_t), labels_n),
        bounds=(np.log(1e-3), np.log(1e3)),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return np.exp(found.x)


def interval(ours, theirs):
    """Mean difference over seeds, and its 95 % t interval; both are seed → value."""
    difference = np.array([ours[seed] - theirs[seed] for seed in ours])
    spread = stats.sem(difference)
    return difference.mean(), *stats.t.interval(
        0.95, len(difference) - 1, loc=difference.mean(), scale=spread
    )


def jackknifed(by_pair):
    """One number a run from numbers about pairs "0-1": n·θ − (n − 1)·θ without the run."""
    runs = sorted({run for pair in by_pair for run in pair.split("-")})
    whole, n = np.mean(list(by_pair.values())), len(runs)
    without = {
        run: np.mean([x for pair, x in by_pair.items() if run not in pair.split("-")])
        for run in runs
    }
    return {run: n * whole - (n - 1) * without[run] for run in runs}


def table(phases):
    """All numbers by phase, arm, seed (or pair) and metric; `phases`: phase → seed → tensors."""
    found = {}
    for phase, runs in phases.items():
        arms = {key.split("/")[2] for key in next(iter(runs.values())) if "test/arm/" in key}
        for arm in arms:
            for seed, tensors in runs.items():
                for metric, value in arm_metrics(tensors, arm).items():
                    found[phase, arm, seed, metric] = value
            for first, second in combinations(runs, 2):
                for metric, value in pair_metrics(runs[first], runs[second], arm).items():
                    found[phase, arm, f"{first}-{second}", metric] = value
    return found
