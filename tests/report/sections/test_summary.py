"""The sentences under a row's headline."""

import json
import shutil
from dataclasses import replace

import pytest

from polyak.analysis.loaded import LoadedRow, load_recorded_study
from polyak.analysis.results import Result, Results, all_runs
from polyak.analysis.seeds import mean_interval
from polyak.records.runs import run_folder
from polyak.report.sections.claims import judge
from polyak.report.sections.summary import controls, effect, headline, ledger_says

PART = "These are some of the data set's; polyak evaluate evaluates on all of them."


def about_the_test_set(out, study):
    (row,) = load_recorded_study(out, study).rows
    (sentence,) = [text for text in headline(row).more if text.startswith("The test set has")]
    return sentence


def test_a_part_of_the_test_set_is_named_as_one_with_what_to_do(toy, tmp_path):
    out, study = tmp_path / "out", toy[1]
    shutil.copytree(toy[0], out)
    assert not about_the_test_set(out, study).endswith(PART)
    for run in all_runs(study.rows[0]):
        path = run_folder(out, run).path / "config.json"
        if path.exists():
            config = json.loads(path.read_text())
            config["data"]["test_limit"] = 60
            path.write_text(json.dumps(config))
    assert about_the_test_set(out, study).endswith(PART)


def words(values, **options):
    found = effect(mean_interval(values), unit="points", digits=1, scale=100, **options)
    return found.text, found.verdict


def test_a_clear_gain_is_told_with_its_interval_and_left_for_the_ledger_to_judge():
    text, verdict = words([0.020, 0.021, 0.019])
    assert verdict == "higher"
    assert text == "higher by 2.0 points (95 % interval 1.8 to 2.2; 3 seeds)"


def test_an_unclear_gain_is_not_called_a_gain():
    text, verdict = words([0.03, -0.01, 0.02])
    assert verdict == "unclear"
    assert text == "higher by 1.3 points (95 % interval −3.8 to 6.5, 0 among them; 3 seeds)"


def test_a_clear_loss_is_called_lower():
    text, verdict = words([-0.020, -0.021, -0.019])
    assert verdict == "lower"
    assert text == "lower by 2.0 points (95 % interval −2.2 to −1.8; 3 seeds)"


def test_one_seed_claims_nothing():
    text, verdict = words([0.05])
    assert verdict == "single"
    assert text == "higher by 5.0 points in the only seed: without a second one this may be chance"
    assert "interval" not in text


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_seeds_without_spread_have_no_interval(value):
    text, verdict = words([value, value])
    assert verdict == "unclear"
    assert text.endswith("in each of 2 seeds: no spread to judge by, so no interval")


def test_what_rounds_to_nothing_has_no_direction():
    text, _ = words([0.0001, -0.0002, 0.0003])
    assert text.startswith("equal to within 0.05 points")


def test_an_interval_that_ends_at_zero_is_not_clear():
    interval = mean_interval([1.0, 2.0, 3.0])
    touching = type(interval)(interval.mean, 0.0, 4.0, interval.sd, 3)
    assert effect(touching, unit="nats", digits=3).verdict == "unclear"


def with_arms(toy, **accuracies) -> LoadedRow:
    """The row with these test accuracies of its refits, by arm and seed, and no others."""
    (row,) = load_recorded_study(*toy).rows
    numbers = [
        Result(
            row=row.label,
            phase="refit",
            target="test",
            arm=arm,
            seed=str(seed),
            metric="accuracy",
            value=value,
        )
        for arm, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    return replace(row, results=Results(numbers))


SGD, EMA, SWA = (0.60, 0.62), (0.65, 0.66), (0.70, 0.72)


def test_the_most_accurate_arm_is_named_though_it_is_not_the_papers(toy):
    more = " ".join(headline(with_arms(toy, sgd=SGD, ema_acc_bn=EMA, swa_bn=SWA)).more)
    assert "Of 3 arms the most accurate in the mean is SWA + BN with 71.0 %" in more
    assert "against SGD higher by 10.0 points" in more
    assert "found by looking at the test set" in more


def test_swa_is_named_where_another_arm_is_the_best(toy):
    more = headline(with_arms(toy, sgd=SGD, ema_acc_bn=SWA, swa_bn=EMA)).more
    assert any(text.startswith("SWA + BN with 65.5 %, against SGD higher by 4.5") for text in more)
    best = headline(with_arms(toy, sgd=SWA, ema_acc_bn=EMA)).more
    assert "Of 2 arms the most accurate in the mean is SGD with 71.0 %." in best


def test_sgd_with_recomputed_statistics_is_a_control_of_headline_and_questions(toy):
    row = with_arms(toy, sgd=SGD, sgd_bn=(0.64, 0.65), ema_acc_bn=EMA)
    told = " ".join(headline(row).more)
    assert "Against SGD whose BatchNorm statistics are recomputed too it is higher by 1.0" in told
    answers = dict(controls(row))
    recomputing = answers["What recomputing BatchNorm statistics does without averaging"]
    assert recomputing.startswith("SGD + BN against SGD: higher by 3.5 points")
    rest = answers["What is left if SGD’s are recomputed too"]
    assert rest.startswith("EMA (acc.) + BN against SGD + BN: higher by 1.0 points")
    assert not any("recomput" in question for question, _ in controls(with_arms(toy, sgd=SGD)))


def test_in_short_says_what_the_ledger_says(toy, page):
    entries = {e.claim.id: e for e in judge(load_recorded_study(*toy))}
    said = {claim: words for claim, _, words in ledger_says(list(entries.values()))}
    assert said == {claim: entries[claim].verdict for claim in ("better-than-sgd", "noise")}
    short = page[page.index('<h2 id="short">') : page.index("<nav")]
    assert "chance between seeds explains" not in page
    for claim, verdict in said.items():
        assert f'<a href="#claim-{claim}">' in short
        assert f"<b>{verdict}</b>" in short


def test_in_short_says_both_verdicts_where_a_claim_is_judged_by_both(toy):
    (entry,) = (e for e in judge(load_recorded_study(*toy)) if e.claim.id == "noise")
    strict = replace(entry, verdict="not reproduced", own=replace(entry, verdict="reproduced"))
    ((_, _, words),) = ledger_says([strict])
    assert words == "not reproduced against SGD’s best arm, by its own comparison reproduced"
