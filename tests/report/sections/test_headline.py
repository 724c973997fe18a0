import pytest

from polyak.analysis.seeds import mean_interval
from polyak.report.sections.headline import effect


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
