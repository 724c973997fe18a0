import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyak.analysis.curves import (
    Coincidence,
    coincidences,
    learning_curves,
    learning_rates,
    sliding_mean,
    window_means,
)
from polyak.analysis.loaded import RunLog
from polyak.analysis.seeds import mean_interval
from polyak.errors import ConfigError
from polyak.records.runs import EpochRecord, MonitorRecord, Score


def _epoch(epoch: int, accuracy: float, holdout: dict | None = None) -> EpochRecord:
    return EpochRecord(
        epoch=epoch,
        step=epoch,
        learning_rate=0.1 / epoch,
        train=Score(1 - accuracy, accuracy),
        seconds=1.0,
        holdout=holdout or {},
    )


def _holdout(*accuracies: float) -> dict[str, Score]:
    names = ("sgd", "ema_0.5", "ema_0.9")
    return {name: Score(2 - a, a) for name, a in zip(names, accuracies, strict=True)}


@pytest.fixture
def logs():
    """Three seeds of two epochs; the second average is best in the second epoch of seed 1."""
    found = []
    for seed, shift in enumerate((0.0, 0.1, 0.3)):
        second = (0.3, 0.4, 0.5) if seed == 1 else (0.3, 0.4, 0.2)
        epochs = [
            _epoch(1, 0.1 + shift, _holdout(0.1 + shift, 0.2, 0.3)),
            _epoch(2, 0.2 + shift, _holdout(*second)),
        ]
        scores = {"sgd": Score(0.5, 0.5 + shift)}
        monitors = [MonitorRecord(epoch=2, monitor="test_bn", scores=scores)]
        found.append(RunLog(epochs=epochs, monitors=monitors))
    return found


def _point(points, *keys):
    (found,) = [p for p in points if (p.part, p.weights, p.metric, p.epoch) == keys]
    return found


def test_a_point_is_mean_and_interval_over_seeds(logs):
    points = learning_curves(logs)
    point = _point(points, "holdout", "sgd", "accuracy", 1)
    interval = mean_interval([0.1, 0.2, 0.4])
    assert (point.mean, point.low, point.high, point.n) == pytest.approx(
        (interval.mean, interval.low, interval.high, 3)
    )
    point = _point(points, "train", "sgd", "loss", 2)
    assert point.mean == pytest.approx(1 - (0.2 + 0.3 + 0.5) / 3)
    point = _point(points, "test_bn", "sgd", "accuracy", 2)
    assert point.mean == pytest.approx((0.5 + 0.6 + 0.8) / 3)


def test_the_best_average_is_the_maximum_of_each_epoch_and_seed_without_sgd(logs):
    points = learning_curves(logs)
    assert _point(points, "holdout", "best average", "accuracy", 2).mean == pytest.approx(1.3 / 3)
    assert _point(points, "holdout", "best average", "loss", 2).mean == pytest.approx(2 - 1.3 / 3)
    assert _point(points, "holdout", "best average", "accuracy", 1).mean == pytest.approx(0.3)
    assert not [p for p in points if p.part in ("train", "test_bn") and p.weights != "sgd"]


def test_every_part_epoch_and_metric_comes_once(logs):
    points = learning_curves(logs[:2])
    keys = [(p.part, p.weights, p.metric, p.epoch) for p in points]
    assert len(keys) == len(set(keys))
    # train 2 epochs, hold-out 2 epochs of 4 sets, monitor 1 epoch; two metrics each
    assert len(keys) == 2 * (2 + 2 * 4 + 1)


def test_a_single_seed_has_no_interval(logs):
    point = _point(learning_curves(logs[:1]), "holdout", "sgd", "accuracy", 1)
    assert (point.mean, point.low, point.high, point.n) == (0.1, None, None, 1)


def test_runs_without_a_log_add_nothing(logs):
    assert learning_curves([logs[0], RunLog()]) == learning_curves(logs[:1])
    assert learning_curves([]) == []


def test_learning_rates_are_those_of_the_log(logs):
    assert learning_rates(logs[0]) == [(1, 0.1), (2, 0.05)]


def test_averages_coincide_until_the_first_score_that_differs():
    a, b, c = Score(1.0, 0.5), Score(1.0, 0.6), Score(1.0, 0.5)
    records = [
        _epoch(1, 0.1, {"x": a, "y": a, "z": c}),
        _epoch(2, 0.1, {"x": a, "y": a, "z": b}),
        _epoch(3, 0.1, {"x": a, "y": c, "z": c}),
    ]
    assert coincidences(records, ("x", "y", "z")) == [
        Coincidence("x", "y", 3, True),
        Coincidence("x", "z", 1, False),
        Coincidence("y", "z", 1, False),
    ]


def test_averages_that_meet_later_do_not_coincide():
    a, b = Score(1.0, 0.5), Score(2.0, 0.5)
    records = [_epoch(1, 0.1, {"x": a, "y": b}), _epoch(2, 0.1, {"x": a, "y": a})]
    assert coincidences(records, ("x", "y")) == []


def test_without_a_holdout_nothing_coincides():
    assert coincidences([_epoch(1, 0.1)], ("x", "y")) == []
    assert coincidences([], ("x", "y")) == []


@given(st.lists(st.floats(-10, 10), max_size=12), st.sampled_from([1, 3, 5, 7]))
def test_a_sliding_mean_is_that_of_the_neighbours_that_are_there(numbers, width):
    half = (width - 1) / 2
    expected = []
    for i in range(len(numbers)):
        near = [x for j, x in enumerate(numbers) if abs(i - j) <= half]
        expected.append(sum(near) / len(near))
    assert sliding_mean(numbers, width=width) == pytest.approx(expected)


@pytest.mark.parametrize("width", [0, -1, 2, 4])
def test_a_width_without_a_centre_is_refused(width):
    with pytest.raises(ConfigError, match=rf"width is {width}; expected an odd number >= 1"):
        sliding_mean([1.0], width=width)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30), st.integers(1, 7))
def test_means_of_windows_are_of_full_windows_at_the_ends_too(values, width):
    found = window_means(values, width=width)
    full = min(width, len(values))
    assert len(found) == len(values) - full + 1
    for start, mean in enumerate(found):
        assert mean == pytest.approx(sum(values[start + i] for i in range(full)) / full)


def test_windows_of_nothing_are_none_and_of_no_width_are_refused():
    assert window_means([], width=5) == []
    with pytest.raises(ConfigError, match="width is 0"):
        window_means([1.0], width=0)
