import csv
import math
from itertools import pairwise

import pyarrow.parquet
import pytest
import torch
import torch.nn.functional as F
from support.slow_results import values

from polyak.analysis.loaded import load_recorded_study
from polyak.analysis.results import (
    Result,
    bins_for,
    evaluation_results,
    write_results,
    write_results_csv,
)
from polyak.records.predictions import Predictions, write_predictions
from polyak.records.runs import run_folder
from polyak.records.studies import RowRecord, StudyRecord
from polyak.records.vocabulary import Stop

ARMS = ("sgd", "ema_acc_bn")
STOPS = tuple(Stop(rule=rule, epoch=1, average="sgd") for rule in ("sgd", "acc", "loss"))
LABELS = torch.arange(60) % 3
GIVEN = torch.arange(30) % 3
CLEAN = torch.where(torch.arange(30) < 10, (GIVEN + 1) % 3, GIVEN)


def _logits(seed: int, n: int) -> torch.Tensor:
    return 2 * torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))


def _holdout(seed: int) -> torch.Tensor:
    """Logits that know something of the labels, so that they have a temperature."""
    return _logits(200 + seed, 30) + 2 * F.one_hot(GIVEN, 3)


def _row(**changes) -> RowRecord:
    return RowRecord(
        **{
            "label": "row",
            "dataset": "digits",
            "architecture": "ResNet-8",
            "seeds": (0, 1, 2),
            "learning_rates": (0.1, 0.2),
            "averages": ("ema_0.9",),
            "paper_averages": ("ema_0.998",),
            "search": {"0.1": {"0": "s0", "1": "s1"}, "0.2": {"0": "other"}},
            "refit": {"0": "r0", "1": "r1", "2": "r2"},
            "transfer": {"parity": "p"},
            "chosen_learning_rate": 0.1,
            "stops": {"0": STOPS, "1": STOPS},
            **changes,
        }
    )


def _study(*rows: RowRecord) -> StudyRecord:
    return StudyRecord(name="small", title="", command="", rows=rows)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Search runs s0, s1 with a hold-out, refits r0 to r2, and a probe of the refits."""
    out = tmp_path_factory.mktemp("out")
    for number, name in enumerate(("s0", "s1", "other", "r0", "r1", "r2")):
        folder = run_folder(out, name)
        said = {
            "test": {arm: _logits(10 * number + i, 60) for i, arm in enumerate(ARMS)},
            "train": {
                arm: _logits(100 + 10 * number + i, 30).argmax(1) for i, arm in enumerate(ARMS)
            },
        }
        labels = {"test": {"labels": LABELS}, "train": {"given": GIVEN, "clean": CLEAN}}
        if name.startswith("s"):
            said["holdout"] = {arm: _holdout(10 * number + i) for i, arm in enumerate(ARMS)}
            labels["holdout"] = {"given": GIVEN, "clean": CLEAN}
        write_predictions(folder.predictions, arms=said, labels=labels)
        folder.finish("done", seconds=1)
    probe = run_folder(out, "p")
    said = {f"r{seed}.{arm}": _logits(seed, 60) for seed in (0, 1, 2) for arm in ARMS}
    write_predictions(
        probe.predictions, arms={"test": said}, labels={"test": {"labels": LABELS % 2}}
    )
    probe.finish("done", seconds=1)
    return out


@pytest.fixture(scope="module")
def results(out):
    return load_recorded_study(out, _study(_row())).results


def _value(results, **keys) -> float:
    (found,) = [
        r.value for r in results if all(getattr(r, key) == value for key, value in keys.items())
    ]
    return found


def test_the_table_is_complete_and_holds_each_number_once(results):
    keys = [(r.phase, r.target, r.arm, r.seed, r.metric) for r in results]
    assert len(keys) == len(set(keys))
    plain = {"accuracy", "loss", "brier", "ece", "ece_floor", "memorised"}
    scaled = plain | {"temperature", "ece_scaled", "loss_scaled", "holdout_accuracy"}
    agreement = {"both_right", "flipped", "both_wrong", "differently_wrong"}
    paired = {"churn", "js", "js_paper_code"} | agreement
    expected = {
        *(("search", "test", a, s, m) for a in ARMS for s in ("0", "1") for m in scaled),
        *(("search", "test", a, "0-1", m) for a in ARMS for m in paired),
        *(("refit", "test", a, s, m) for a in ARMS for s in ("0", "1", "2") for m in plain),
        *(("refit", "test", a, p, m) for a in ARMS for p in ("0-1", "0-2", "1-2") for m in paired),
        *(("transfer", "parity", a, s, "accuracy") for a in ARMS for s in ("0", "1", "2")),
    }
    assert set(keys) == expected
    assert all(r.row == "row" for r in results)
    assert all(math.isfinite(r.value) for r in results)


def _ece(probability_nk, labels_n, bins):
    """Slowly: sort by confidence, cut into equal parts, the larger ones first."""
    confidence = [max(p) for p in probability_nk.tolist()]
    right = (probability_nk.argmax(1) == labels_n).tolist()
    pairs = sorted(zip(confidence, right, strict=True))
    small, extra = divmod(len(pairs), bins)
    sizes = [small + (b < extra) for b in range(bins)]
    ends = [sum(sizes[:b]) for b in range(bins + 1)]
    gaps = [
        abs(sum(c for c, _ in pairs[low:high]) - sum(r for _, r in pairs[low:high]))
        for low, high in pairwise(ends)
    ]
    return sum(gaps) / len(pairs)


@pytest.mark.parametrize(("seed", "number"), [("0", 3), ("1", 4), ("2", 5)])
def test_numbers_of_a_refit_are_those_of_its_logits(results, seed, number):
    keys = {"phase": "refit", "arm": "ema_acc_bn", "seed": seed}
    logits_nk = _logits(10 * number + 1, 60).double()
    probability_nk = logits_nk.softmax(1)
    right = (logits_nk.argmax(1) == LABELS).double().mean().item()
    assert _value(results, metric="accuracy", **keys) == pytest.approx(right)
    loss = F.cross_entropy(logits_nk, LABELS).item()
    assert _value(results, metric="loss", **keys) == pytest.approx(loss)
    brier = (probability_nk - F.one_hot(LABELS, 3)).square().sum(1).mean().item()
    assert _value(results, metric="brier", **keys) == pytest.approx(brier)
    # 60 samples make 3 bins of 20.
    assert _value(results, metric="ece", **keys) == pytest.approx(_ece(probability_nk, LABELS, 3))
    learnt = _logits(100 + 10 * number + 1, 30).argmax(1)[:10] == GIVEN[:10]
    assert _value(results, metric="memorised", **keys) == pytest.approx(
        learnt.double().mean().item()
    )


def test_the_temperature_comes_from_the_holdout_and_is_used_on_test(results):
    keys = {"phase": "search", "arm": "sgd", "seed": "1"}
    temperature = _value(results, metric="temperature", **keys)
    holdout_nk, test_nk = _holdout(10).double(), _logits(10, 60).double()

    def loss(t):
        return F.cross_entropy(holdout_nk / t, GIVEN).item()

    grid = [temperature * factor for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2)]
    assert 0.1 < temperature < 10
    assert all(loss(temperature) <= loss(t) for t in grid)
    scaled = F.cross_entropy(test_nk / temperature, LABELS).item()
    assert _value(results, metric="loss_scaled", **keys) == pytest.approx(scaled)
    ece = _ece((test_nk / temperature).softmax(1), LABELS, 3)
    assert _value(results, metric="ece_scaled", **keys) == pytest.approx(ece)


def test_churn_and_js_are_those_of_each_pair_of_seeds(results):
    keys = {"phase": "refit", "arm": "sgd"}
    for pair, numbers in (("0-1", (3, 4)), ("0-2", (3, 5)), ("1-2", (4, 5))):
        a, b = (_logits(10 * number, 60).double() for number in numbers)
        churn = (a.argmax(1) != b.argmax(1)).double().mean().item()
        assert _value(results, metric="churn", seed=pair, **keys) == pytest.approx(churn)
        p, q = a.softmax(1), b.softmax(1)
        m = (p + q) / 2
        js = ((p * (p / m).log()).sum(1) + (q * (q / m).log()).sum(1)).mean().item() / 2
        assert _value(results, metric="js", seed=pair, **keys) == pytest.approx(js)


def test_a_probes_accuracy_goes_to_the_seed_of_its_backbone(results):
    for seed in (0, 1, 2):
        right = (_logits(seed, 60).argmax(1) == LABELS % 2).double().mean().item()
        for arm in ARMS:
            assert _value(results, phase="transfer", arm=arm, seed=str(seed)) == pytest.approx(
                right
            )


def test_on_other_images_temperatures_are_still_those_of_the_runs_own_holdout(
    out, tmp_path, results
):
    others_nk = {run: _logits(300 + n, 60) for n, run in enumerate(("s0", "s1", "r0"))}
    said = {}
    for run, logits_nk in others_nk.items():
        path = tmp_path / f"{run}.safetensors"
        # One run was asked about another arm, too.
        arms = {"sgd": logits_nk, **({"ema_acc_bn": logits_nk.clone()} if run == "s0" else {})}
        write_predictions(path, arms={"test": arms}, labels={"test": {"labels": LABELS}})
        said[run] = Predictions(path)
    own = {run: Predictions(run_folder(out, run).predictions) for run in others_nk}
    found = evaluation_results(_row(), own, said, target="others")
    assert {r.target for r in found} == {"others"}
    assert {(r.phase, r.seed) for r in found} == {
        *(("search", seed) for seed in ("0", "1", "0-1")),
        ("refit", "0"),
    }
    assert {(r.phase, r.seed) for r in found if r.arm == "ema_acc_bn"} == {("search", "0")}
    assert not {"memorised", "holdout_accuracy"} & {r.metric for r in found}
    keys = {"phase": "search", "arm": "sgd", "seed": "1"}
    temperature = _value(found, metric="temperature", **keys)
    assert temperature == _value(results, metric="temperature", **keys)
    scaled = F.cross_entropy(others_nk["s1"].double() / temperature, LABELS).item()
    assert _value(found, metric="loss_scaled", **keys) == pytest.approx(scaled)
    churn = (others_nk["s0"].argmax(1) != others_nk["s1"].argmax(1)).double().mean().item()
    assert _value(found, metric="churn", **{**keys, "seed": "0-1"}) == pytest.approx(churn)


def test_the_table_comes_back_from_csv(tmp_path, results):
    write_results_csv(tmp_path / "results.csv", results)
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = [{**row, "value": float(row["value"])} for row in csv.DictReader(file)]
    assert [Result(**row) for row in rows] == results


def test_values_are_picked_by_all_keys(results):
    found = values(results, row="row", arm="sgd", metric="churn", phase="refit")
    assert found.keys() == {"0-1", "0-2", "1-2"}
    probes = values(
        results, row="row", arm="sgd", metric="accuracy", phase="transfer", target="parity"
    )
    assert probes.keys() == {"0", "1", "2"}
    assert values(results, row="rows", arm="sgd", metric="churn", phase="refit") == {}


def test_without_wrong_labels_nothing_is_memorised(tmp_path):
    folder = run_folder(tmp_path, "r")
    write_predictions(
        folder.predictions,
        arms={"test": {"sgd": _logits(0, 60)}, "train": {"sgd": GIVEN}},
        labels={"test": {"labels": LABELS}, "train": {"given": GIVEN, "clean": GIVEN}},
    )
    folder.finish("done", seconds=1)
    row = _row(search={}, refit={"0": "r"}, transfer={})
    metrics = {r.metric for r in load_recorded_study(tmp_path, _study(row)).results}
    assert metrics == {"accuracy", "loss", "brier", "ece", "ece_floor"}


def test_runs_that_are_missing_or_diverged_leave_out_their_numbers_only(out, tmp_path):
    row = _row(refit={"0": "r0", "1": "gone", "2": "bad"}, transfer={"parity": "nowhere"})
    run_folder(out, "bad").finish("diverged", epoch=1, seconds=1)
    found = load_recorded_study(out, _study(row)).results
    assert {r.seed for r in found if r.phase == "refit"} == {"0"}
    assert not [r for r in found if r.phase == "transfer"]
    assert {r.seed for r in found if r.phase == "search"} == {"0", "1", "0-1"}


def test_a_row_without_a_choice_has_no_numbers(out):
    row = _row(refit={}, transfer={}, chosen_learning_rate=None, stops={}, failure="all diverged")
    assert load_recorded_study(out, _study(row)).results == []


def test_the_same_files_give_the_same_table(out, results):
    assert load_recorded_study(out, _study(_row())).results == results


@pytest.mark.parametrize(
    ("samples", "bins"), [(1, 1), (20, 1), (60, 3), (360, 18), (2000, 100), (10_000, 100)]
)
def test_bins_hold_twenty_samples_at_least_and_are_a_hundred_at_most(samples, bins):
    assert bins_for(samples) == bins


def test_the_table_comes_back_from_parquet(tmp_path, results):
    write_results(tmp_path / "results.parquet", results)
    rows = pyarrow.parquet.read_table(tmp_path / "results.parquet").to_pylist()
    assert [Result(**row) for row in rows] == results


def test_an_empty_table_still_has_its_columns(tmp_path):
    write_results(tmp_path / "results.parquet", [])
    table = pyarrow.parquet.read_table(tmp_path / "results.parquet")
    assert table.num_rows == 0
    assert table.column_names == list(Result.__slots__)


def test_with_paper_code_the_temperature_is_where_the_authors_lbfgs_stops(out):
    """Written out with autograd: one call of 50 iterations from 1.5."""
    coded = load_recorded_study(out, _study(_row(paper_code=("temperature",)))).results
    for number, seed in enumerate(("0", "1")):
        temperature = torch.nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
        optimizer = torch.optim.LBFGS([temperature], lr=0.01, max_iter=50)
        logits_nk = _holdout(10 * number).double()

        def closure(temperature=temperature, optimizer=optimizer, logits_nk=logits_nk):
            optimizer.zero_grad()
            loss = F.cross_entropy(logits_nk / temperature, GIVEN)
            loss.backward()
            return loss

        optimizer.step(closure)
        keys = {"phase": "search", "arm": "sgd", "seed": seed, "metric": "temperature"}
        assert _value(coded, **keys) == pytest.approx(temperature.item(), rel=1e-3)


def test_an_oracles_temperature_is_fitted_on_right_labels(out, results):
    oracle = load_recorded_study(out, _study(_row(holdout_labels="clean"))).results
    keys = {"phase": "search", "arm": "sgd", "seed": "0", "metric": "temperature"}
    assert _value(oracle, **keys) == pytest.approx(_grid_temperature(_holdout(0), CLEAN), rel=1e-3)
    assert _value(oracle, **keys) != pytest.approx(_value(results, **keys), rel=1e-2)


def _grid_temperature(logits_nk, labels_n):
    grid = torch.logspace(-3, 3, 200_001, dtype=torch.float64)
    losses = [F.cross_entropy(logits_nk.double() / t, labels_n) for t in grid[::200]]
    near = int(torch.stack(losses).argmin()) * 200
    fine = grid[max(0, near - 200) : near + 201]
    return float(
        fine[torch.stack([F.cross_entropy(logits_nk / t, labels_n) for t in fine]).argmin()]
    )


def test_where_each_seed_has_a_learning_rate_of_its_own_its_run_counts(out):
    row = _row(
        chosen_learning_rate=None,
        seed_learning_rates={"0": 0.1, "1": 0.2},
        search={"0.1": {"0": "s0", "1": "other"}, "0.2": {"0": "other", "1": "s1"}},
    )
    assert row.chosen_search == {"0": "s0", "1": "s1"}
    found = load_recorded_study(out, _study(row)).results
    alone = load_recorded_study(out, _study(_row())).results
    keys = {"row": "row", "arm": "sgd", "metric": "accuracy", "phase": "search"}
    assert values(found, **keys) == values(alone, **keys)
