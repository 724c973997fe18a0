"""The sentences under a row's headline."""

import json
import shutil

import pytest

from polyak.analysis.loaded import load_recorded_study
from polyak.analysis.results import all_runs
from polyak.analysis.seeds import mean_interval
from polyak.records.runs import run_folder
from polyak.report.sections.summary import effect, headline

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


def test_a_clear_gain_is_called_more_than_chance():
    text, verdict = words([0.020, 0.021, 0.019])
    assert verdict == "higher"
    assert text == (
        "higher by 2.0 points (95 % interval 1.8 to 2.2, 3 seeds): "
        "more than chance between seeds explains"
    )


def test_an_unclear_gain_is_not_called_a_gain():
    text, verdict = words([0.03, -0.01, 0.02])
    assert verdict == "unclear"
    assert text.startswith("higher by 1.3 points (95 % interval −3.8 to 6.5, 3 seeds)")
    assert text.endswith("not distinguishable from no effect")


def test_a_clear_loss_is_called_lower():
    text, verdict = words([-0.020, -0.021, -0.019])
    assert verdict == "lower"
    assert text.startswith("lower by 2.0 points (95 % interval −2.2 to −1.8, 3 seeds)")


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
