import pytest

from polyak.cli.options.time_limit import seconds_of, within
from polyak.errors import ConfigError
from polyak.training.interruption import InterruptedRun, Interruption, before_limit


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        ("9m", 540),
        ("1h30m", 5400),
        ("45s", 45),
        ("90", 90),
        ("2h", 7200),
        ("1m30s", 90),
        ("1h30", 5400),
        ("5m30", 330),
    ],
)
def test_durations_are_read_as_they_are_written(limit, seconds):
    assert seconds_of(limit) == seconds


def test_no_limit_is_none():
    assert seconds_of(None) is None


@pytest.mark.parametrize(
    "limit",
    ["", "0", "0m", "-5m", "9 m", "m", "1.5h", "9d", "30m1h", "x", "9" * 400 + "h", "9" * 9 + "h"],
)
def test_what_is_no_duration_is_refused_with_examples(limit):
    with pytest.raises(ConfigError, match="expected a duration such as 9m, 1h30m or 45s"):
        seconds_of(limit)


@pytest.mark.parametrize(("limit", "begin"), [(10, 9), (100, 90), (3600, 3570)])
def test_stopping_begins_before_the_limit(limit, begin):
    assert before_limit(limit) == begin


def test_progress_is_shown_until_the_time_is_up():
    shown = []
    within(Interruption(3600), shown.append)("a")
    with pytest.raises(InterruptedRun, match="time limit"):
        within(Interruption(0), shown.append)("b")
    assert shown == ["a"]
