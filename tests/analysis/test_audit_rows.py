import pytest
import torch

from polyak.analysis.audit import (
    FEWEST,
    audit_rows,
    confusions,
    score_results,
    truth_is_known,
    verdict,
)
from polyak.metrics import auroc
from polyak.records.predictions import Predictions, write_predictions

CLASSES = 4
N = {"train": 300, "holdout": 100}


def write(folder, *, strengths, noise=0.4, parts=("train", "holdout")):
    """Arms whose logits point at the clean class with some strength, and labels with noise."""
    draw = torch.Generator().manual_seed(0)
    arms, labels, start = {}, {}, 0
    for part in parts:
        n = N[part]
        clean_n = torch.randint(CLASSES, (n,), generator=draw)
        shift_n = torch.randint(1, CLASSES, (n,), generator=draw)
        wrong_n = torch.rand(n, generator=draw) < noise
        signal_nk = torch.nn.functional.one_hot(clean_n, CLASSES)
        arms[part] = {
            arm: strength * signal_nk + torch.randn(n, CLASSES, generator=draw)
            for arm, strength in strengths.items()
        }
        labels[part] = {
            "given": torch.where(wrong_n, (clean_n + shift_n) % CLASSES, clean_n),
            "clean": clean_n,
            "index": torch.arange(start, start + n).flip(0),
        }
        start += n
    write_predictions(folder / "said.safetensors", arms=arms, labels=labels)
    return Predictions(folder / "said.safetensors")


@pytest.fixture
def said(tmp_path):
    return write(tmp_path, strengths={"ema": 3.0, "sgd": 1.0})


def test_rows_are_a_loop_over_samples_sorted_by_margin(said):
    rows = audit_rows(said, average="ema")
    assert [row.rank for row in rows] == list(range(1, 401))
    assert [row.margin for row in rows] == sorted(row.margin for row in rows)
    assert {row.index for row in rows} == set(range(400))
    for row in rows:
        place = said.labels_n(row.part, "index").tolist().index(row.index)
        p_k = said.logits_nk(row.part, "ema")[place].double().softmax(0)
        q_k = said.logits_nk(row.part, "sgd")[place].double().softmax(0)
        assert row.given == said.labels_n(row.part, "given")[place]
        assert row.clean == said.labels_n(row.part, "clean")[place]
        assert row.wrong == (row.given != row.clean)
        others = [j for j in range(CLASSES) if j != row.given]
        best = max(others, key=lambda j: p_k[j])
        assert row.p_given == pytest.approx(p_k[row.given].item())
        assert row.p_other == pytest.approx(p_k[best].item())
        assert row.margin == pytest.approx((p_k[row.given].log() - p_k[best].log()).item())
        assert row.suggested == (best if row.margin < 0 else None)
        assert row.sgd == q_k.argmax()
        m_k = (p_k + q_k) / 2
        js = sum((x * (x / m_k).log()).sum() for x in (p_k, q_k)) / 2
        assert row.divergence == pytest.approx(js.item())


def test_a_better_average_is_found_better_and_a_worse_one_worse(said, tmp_path):
    assert verdict(score_results(said, average="ema"), average="ema") == "better"
    worse = write(tmp_path, strengths={"ema": 1.0, "sgd": 3.0})
    assert verdict(score_results(worse, average="ema"), average="ema") == "worse"


def test_equal_weights_are_undecided(tmp_path):
    """The same logits under two names: margin and loss differ, but not in what they know."""
    said = write(tmp_path, strengths={"sgd": 2.0})
    arms = {p: {"ema": said.logits_nk(p, "sgd"), "sgd": said.logits_nk(p, "sgd")} for p in N}
    labels = {p: {k: said.labels_n(p, k) for k in ("given", "clean", "index")} for p in N}
    write_predictions(tmp_path / "twice.safetensors", arms=arms, labels=labels)
    results = score_results(Predictions(tmp_path / "twice.safetensors"), average="ema")
    same = next(r for r in results if (r.kind, r.arm, r.part) == ("loss", "ema", "all"))
    assert same.difference is not None
    assert (same.difference.low, same.difference.high) == (0, 0)
    assert verdict(results, average="ema") == "undecided"


def test_weights_without_an_effect_are_rarely_told_apart():
    """Two equally good sets of weights: the share of verdicts is near 5 %."""
    from polyak.metrics import auroc_difference, margins, sample_losses

    draw = torch.Generator().manual_seed(1)
    decided = 0
    for _ in range(200):
        clean_n = torch.randint(CLASSES, (300,), generator=draw)
        wrong_n = torch.rand(300, generator=draw) < 0.4
        given_n = torch.where(wrong_n, (clean_n + 1) % CLASSES, clean_n)
        signal_nk = torch.nn.functional.one_hot(clean_n, CLASSES)
        a_nk, b_nk = (signal_nk + torch.randn(300, CLASSES, generator=draw) for _ in range(2))
        found = auroc_difference(-margins(a_nk, given_n), -margins(b_nk, given_n), wrong_n)
        decided += not found.low <= 0 <= found.high
        assert sample_losses(a_nk, given_n).shape == (300,)
    assert decided / 200 < 0.1


def test_results_are_of_each_part_and_pool_their_samples(said):
    results = score_results(said, average="ema")
    sizes = {result.part: result.samples for result in results}
    assert sizes == {"all": 400, "train": 300, "holdout": 100}
    baseline = [result for result in results if result.difference is None]
    assert [(r.kind, r.arm) for r in baseline] == [("loss", "sgd")] * 3
    assert results[0].kind == "margin"
    assert results[0].arm == "ema"
    rows = audit_rows(said, average="ema")
    wrong_n = torch.tensor([bool(row.wrong) for row in rows])
    margin_n = torch.tensor([row.margin for row in rows], dtype=torch.float64)
    assert results[0].auroc.value == pytest.approx(auroc(-margin_n, wrong_n))
    assert [k for k, _ in results[0].precision] == [4, 20, results[0].wrong]
    for k, share in results[0].precision:
        assert share == pytest.approx(wrong_n[:k].double().mean().item())


def test_unknown_truth_gives_rows_without_it_and_no_results(tmp_path):
    said = write(tmp_path, strengths={"ema": 3.0, "sgd": 1.0}, noise=0.0)
    assert not truth_is_known(said)
    assert score_results(said, average="ema") == []
    assert verdict([], average="ema") is None
    rows = audit_rows(said, average="ema")
    assert {(row.clean, row.wrong) for row in rows} == {(None, None)}
    assert all(pair.wrong is None for pair in confusions(rows))


def test_a_part_with_few_wrong_labels_is_left_out(tmp_path):
    said = write(tmp_path, strengths={"ema": 3.0, "sgd": 1.0}, noise=0.1)
    results = score_results(said, average="ema")
    assert {result.part for result in results} == {"all", "train"}
    assert all(result.wrong >= FEWEST for result in results)


def test_a_refit_has_one_part(tmp_path):
    said = write(tmp_path, strengths={"ema": 3.0, "sgd": 1.0}, parts=("train",))
    assert {result.part for result in score_results(said, average="ema")} == {"all"}


def test_confusions_count_pairs_the_most_frequent_first(said):
    rows = audit_rows(said, average="ema")
    found = confusions(rows, limit=CLASSES**2)
    assert sum(pair.count for pair in found) == sum(row.suggested is not None for row in rows)
    assert [pair.count for pair in found] == sorted((p.count for p in found), reverse=True)
    first = found[0]
    own = [r for r in rows if (r.given, r.suggested) == (first.given, first.suggested)]
    assert (first.count, first.wrong) == (len(own), sum(bool(r.wrong) for r in own))
    assert confusions(rows, limit=2) == found[:2]
