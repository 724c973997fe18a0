from polyak.analysis.curves import Coincidence, coinciding
from polyak.records.runs import Score

A, B = Score(1.0, 0.5), Score(1.0, 0.6)


def test_equal_scores_count_from_the_first_epoch_only():
    epochs = [{"x": A, "y": A}, {"x": A, "y": B}, {"x": A, "y": A}]
    assert coinciding(epochs, ("x", "y")) == [Coincidence("x", "y", 1, False)]


def test_a_whole_run_of_equal_scores_is_marked():
    assert coinciding([{"x": A, "y": A}] * 3, ("x", "y")) == [Coincidence("x", "y", 3, True)]


def test_a_difference_in_loss_alone_counts():
    assert coinciding([{"x": A, "y": Score(1.1, 0.5)}], ("x", "y")) == []


def test_weights_without_scores_coincide_with_nothing():
    assert coinciding([{}, {"x": A, "y": A}], ("x", "y")) == []
    assert coinciding([{"x": A}], ("x", "y")) == []
    assert coinciding([], ("x", "y")) == []
