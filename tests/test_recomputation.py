"""A study with controls and probes: every number and every verdict once more, from its logits.

The twins in `support/metrics_twin.py` and `support/ledger_twin.py` know nothing of the project.
"""

import ast
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file
from support import ledger_twin, metrics_twin
from support.small_runs import carry_through

from polyak.data import DataConfig, NoiseConfig
from polyak.models import ModelConfig
from polyak.study.plan import Row, Study
from polyak.training.config import AveragingConfig, RunConfig
from polyak.training.optim import OptimConfig

pytestmark = pytest.mark.slow
FEW = {"train_limit": 160, "test_limit": 120, "flip": False}
STUDY = Study(
    name="again",
    title="Computed again",
    cost="seconds",
    rows=(
        Row(
            label="digits",
            dataset="digits",
            architecture="ResNet-8",
            config=RunConfig(
                data=DataConfig(
                    crop_padding=1, noise=NoiseConfig(kind="symmetric", rate=0.3), **FEW
                ),
                model=ModelConfig(name="resnet8", width=4),
                optim=OptimConfig(warmup_epochs=0.5, weight_decay=5e-4),
                averaging=AveragingConfig(decays=(0.3, 0.6, 0.8), every=2),
                epochs=9,
                batch_size=16,
            ),
            learning_rates=(0.1, 0.2),
            seeds=(0, 1, 2),
            paper_decays=(0.968, 0.984, 0.998),
            transfer=(DataConfig(source="digits-parity", crop_padding=0, **FEW),),
            follow_ups=("annealed",),
        ),
    ),
)


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYAK_CACHE", str(tmp_path_factory.mktemp("cache")))
        out = tmp_path_factory.mktemp("out")
        outcome = carry_through(STUDY, out, command="")
        assert (outcome.failures, outcome.row_failures) == ({}, {})
        yield out


@pytest.fixture(scope="module")
def row(out):
    (row,) = read(out / "again" / "plan.json")["rows"]
    return row | read(out / "again" / "choices.json")["digits"]


@pytest.fixture(scope="module")
def searched(row):
    return row["search"][f"{row['chosen_learning_rate']:g}"]


@pytest.fixture(scope="module")
def logits(out, row, searched):
    """Phase → seed → tensors of predictions.safetensors."""
    phases = {"search": searched, "refit": row["refit"], "annealed": row["follow_ups"]["annealed"]}
    return {
        phase: {
            s: load_file(out / "runs" / run / "predictions.safetensors") for s, run in of.items()
        }
        for phase, of in phases.items()
    }


@pytest.fixture(scope="module")
def numbers(out, row, logits):
    """Every number of the study by the twin: (phase, target, arm, seed or pair, metric) → value."""
    found = {
        (phase, "test", *key): value for (phase, *key), value in metrics_twin.table(logits).items()
    }
    seeds = {run: seed for seed, run in row["refit"].items()}
    for target, probe in row["transfer"].items():
        said = load_file(out / "runs" / probe / "predictions.safetensors")
        for key in (key for key in said if key.startswith("test/arm/")):
            run, arm = key.removeprefix("test/arm/").split(".")
            right = (said[key].argmax(1) == said["test/labels"]).mean()
            found["transfer", target, arm, seeds[run], "accuracy"] = right
    return found


def test_every_number_of_the_study_is_the_twins_and_none_is_left_out(out, numbers):
    table = pq.read_table(out / "again" / "results.parquet").to_pylist()
    keys = ("phase", "target", "arm", "seed", "metric")
    found = {tuple(line[key] for key in keys): line["value"] for line in table}
    assert len(found) == len(table)
    assert found.keys() == numbers.keys()
    for key, value in numbers.items():
        # Simulated here and there; the others in float64.
        close = {"ece_floor": 0.1, "temperature": 1e-5}.get(key[4], 1e-7)
        assert found[key] == pytest.approx(value, rel=close, abs=1e-7), key


def test_every_claim_has_the_twins_hypotheses_and_verdict(out, row, searched, numbers, logits):
    logs = {
        seed: [
            json.loads(line) for line in (out / "runs" / run / "log.jsonl").read_text().splitlines()
        ]
        for seed, run in searched.items()
    }
    first = logits["search"]["0"]
    probe = load_file(out / "runs" / row["transfer"]["digits-parity"] / "predictions.safetensors")
    counts = {
        "test": len(first["test/labels"]),
        "holdout": len(first["holdout/given"]),
        "wrong": int((first["train/given"] != first["train/clean"]).sum()),
        "digits-parity": len(probe["test/labels"]),
    }
    expected = ledger_twin.claims(row, numbers, logs, counts)
    said = {c["id"]: c for c in read(out / "again" / "claims.json")["claims"]}
    assert {c for c, entry in said.items() if entry["verdict"] != "not run"} == expected.keys()
    for claim, hypotheses in expected.items():
        findings = said[claim]["findings"]
        assert len(findings) == len(hypotheses), claim
        # The claim's own comparison comes first; the others in any order.
        for finding, hypothesis in zip(by_mean(findings), sorted_by_mean(hypotheses), strict=True):
            assert finding["values"] == pytest.approx(hypothesis[0], abs=1e-9), claim
            assert finding["bound"] == pytest.approx(hypothesis[2])
            assert finding["resolution"] == pytest.approx(hypothesis[4])
    for claim, (*p, verdict) in ledger_twin.ledger(expected).items():
        keys = ("p_shown", "p_refuted", "p_shown_corrected", "p_refuted_corrected")
        assert [said[claim][key] for key in keys] == pytest.approx(p, rel=1e-5, abs=1e-9), claim
        assert said[claim]["verdict"] == verdict


def test_the_verdict_by_a_claims_own_comparison_is_the_twins_too(
    out, row, searched, numbers, logits
):
    said = {c["id"]: c for c in read(out / "again" / "claims.json")["claims"]}
    own = {claim: c["own_comparison"] for claim, c in said.items() if "own_comparison" in c}
    assert own.keys() == {"better-than-sgd", "noise", "churn", "annealed"}
    for claim, comparison in own.items():
        findings = said[claim]["findings"][: comparison["findings"]]
        assert {f["what"].split(" − ")[1] for f in findings} <= {
            "sgd",
            "sgd_stopped",
            "SGD annealed by then",
        }
        side = {"above": ledger_twin.ABOVE, "below": ledger_twin.BELOW}
        ps = [
            ledger_twin.ps(
                f["values"], side[f["side"]], f["bound"], f["refuted_at"], f["resolution"], False
            )
            for f in findings
        ]
        assert comparison["p_shown"] == pytest.approx(max(p for p, _ in ps))


def by_mean(findings):
    return sorted(findings, key=lambda f: (round(f["mean"], 9), f["bound"]))


def sorted_by_mean(hypotheses):
    def mean(hypothesis):
        values = hypothesis[0].values()
        return round(sum(values) / len(values), 9), hypothesis[2]

    return sorted(hypotheses, key=mean)


def test_the_twins_of_numbers_and_ledger_import_nothing_of_the_project():
    for twin in (metrics_twin, ledger_twin):
        tree = ast.parse(Path(twin.__file__).read_text())
        names = {
            name
            for node in ast.walk(tree)
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        assert {name.split(".")[0] for name in names} <= {
            "itertools",
            "math",
            "numpy",
            "scipy",
            "support",
        }
