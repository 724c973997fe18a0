import dataclasses
import inspect
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyak.errors import DataError
from polyak.records.runs import EpochRecord, MonitorRecord, Score
from polyak.records.vocabulary import RULES
from polyak.training import selection
from polyak.training.selection import choose_learning_rate, choose_stop

NAMES = ("ema_0.5", "ema_0.9", "ema_0.99")
# Few values, so that ties are frequent.
few_scores = st.builds(
    Score, loss=st.sampled_from([0.5, 1.0, 2.0]), accuracy=st.sampled_from([0.25, 0.5, 0.75])
)
holdouts = st.fixed_dictionaries({name: few_scores for name in ("sgd", *NAMES)})


def _records(*by_epoch: dict[str, Score]) -> list[EpochRecord]:
    return [
        EpochRecord(
            epoch=epoch,
            step=10 * epoch,
            learning_rate=0.1,
            train=Score(0.0, 1.0),
            seconds=0.0,
            holdout=scores,
        )
        for epoch, scores in enumerate(by_epoch, start=1)
    ]


histories = st.lists(holdouts, min_size=1, max_size=6).map(lambda values: _records(*values))


def _brute(records: list[EpochRecord], rule: str) -> tuple[int, str]:
    """Walks forward and replaces its choice only by what is better."""
    names = ("sgd",) if rule == "sgd" else NAMES
    best, choice = None, None
    for record in records:
        for name in names:
            score = record.holdout[name]
            value = -score.loss if rule == "loss" else score.accuracy
            if best is None or value > best:
                best, choice = value, (record.epoch, name)
    return choice


@given(histories, st.sampled_from(RULES))
def test_a_stop_is_the_best_of_all_epochs_and_averages(records, rule):
    stop = choose_stop(records, rule=rule, averages=NAMES)
    assert (stop.epoch, stop.average) == _brute(records, rule)
    assert stop.rule == rule


@given(histories, st.sampled_from(RULES), st.randoms())
def test_the_order_of_records_does_not_matter(records, rule, random):
    shuffled = random.sample(records, len(records))
    assert choose_stop(shuffled, rule=rule, averages=NAMES) == choose_stop(
        records, rule=rule, averages=NAMES
    )


def test_a_tie_goes_to_the_earliest_epoch_then_to_the_shortest_window():
    same = dict.fromkeys(("sgd", *NAMES), Score(1.0, 0.5))
    worse = dict.fromkeys(("sgd", *NAMES), Score(2.0, 0.25))
    for rule in RULES:
        stop = choose_stop(_records(worse, same, same), rule=rule, averages=NAMES)
        assert (stop.epoch, stop.average) == (2, "sgd" if rule == "sgd" else NAMES[0])


def test_accuracy_and_loss_may_choose_different_weights():
    first = {"sgd": Score(9, 0), "ema_0.5": Score(3.0, 0.9), "ema_0.9": Score(1.0, 0.1)}
    records = _records(first)
    names = ("ema_0.5", "ema_0.9")
    assert choose_stop(records, rule="acc", averages=names).average == "ema_0.5"
    assert choose_stop(records, rule="loss", averages=names).average == "ema_0.9"


def test_sgd_is_no_candidate_where_averages_are_chosen():
    records = _records({"sgd": Score(0.0, 1.0), **dict.fromkeys(NAMES, Score(5.0, 0.1))})
    assert choose_stop(records, rule="acc", averages=NAMES).average in NAMES
    assert choose_stop(records, rule="loss", averages=NAMES).average in NAMES


@given(histories, st.integers(1, 6), st.sampled_from(RULES))
def test_a_running_choice_that_stays_is_the_final_one(records, length, rule):
    """Choosing after each epoch, as the loop does, ends at the choice over all epochs."""
    kept = None
    for end in range(1, len(records) + 1):
        stop = choose_stop(records[:end], rule=rule, averages=NAMES)
        if stop.epoch == end:
            kept = stop
    assert kept == choose_stop(records, rule=rule, averages=NAMES)


@pytest.mark.parametrize("rule", RULES)
def test_without_a_holdout_nothing_is_chosen(rule):
    with_scores = _records(dict.fromkeys(("sgd", *NAMES), Score(1.0, 0.5)))[0]
    without = dataclasses.replace(with_scores, epoch=2, holdout={})
    for records in ([], [without], [with_scores, without]):
        with pytest.raises(DataError, match="hold no hold-out scores; expected them for every"):
            choose_stop(records, rule=rule, averages=NAMES)


def _search(*accuracies: float) -> list[EpochRecord]:
    return _records(*({"sgd": Score(1.0, accuracy)} for accuracy in accuracies))


rates = st.sampled_from([0.1, 0.2, 0.4, 0.8])
accuracies = st.sampled_from([0.25, 0.5, 0.75])
searches = st.dictionaries(
    rates,
    st.fixed_dictionaries(
        {
            seed: st.sampled_from(["diverged", "failed"])
            | st.lists(accuracies, min_size=1, max_size=3).map(lambda values: _search(*values))
            for seed in (0, 1)
        }
    ),
    min_size=1,
)


@given(searches)
def test_the_learning_rate_has_the_best_mean_of_sgds_best(runs):
    means = {
        rate: sum(max(r.holdout["sgd"].accuracy for r in records) for records in by_seed.values())
        / 2
        for rate, by_seed in runs.items()
        if not {"diverged", "failed"} & {r for r in by_seed.values() if isinstance(r, str)}
    }
    if not means:
        with pytest.raises(DataError, match=r"every learning rate of .* (failed|diverged)"):
            choose_learning_rate(runs)
        return
    best = max(means.values())
    assert choose_learning_rate(runs) == min(rate for rate, mean in means.items() if mean == best)


def test_the_learning_rate_that_is_best_on_average_need_not_be_best_for_any_seed():
    runs = {
        0.1: {0: _search(0.9), 1: _search(0.1)},
        0.2: {0: _search(0.6), 1: _search(0.6)},
        0.4: {0: _search(0.1), 1: _search(0.9)},
    }
    assert choose_learning_rate(runs) == 0.2


def test_the_learning_rate_looks_at_sgd_only():
    low, high = Score(1.0, 0.2), Score(1.0, 0.9)
    runs = {
        0.1: {0: _records({"sgd": high, "ema_0.9": low})},
        0.2: {0: _records({"sgd": low, "ema_0.9": high})},
    }
    assert choose_learning_rate(runs) == 0.1


def test_a_rate_with_one_bad_run_is_out_however_good_the_others_are():
    runs = {0.1: {0: _search(0.3), 1: _search(0.3)}, 0.2: {0: _search(0.9), 1: "failed"}}
    assert choose_learning_rate(runs) == 0.1


@pytest.mark.parametrize(
    ("first", "second", "how", "advice"),
    [
        ("diverged", "diverged", "diverged", "Search smaller learning rates"),
        ("failed", "failed", "failed", "Fix what made the runs fail"),
        ("failed", "diverged", "failed or diverged", "Fix what made the runs fail"),
    ],
)
def test_if_all_rates_are_out_the_message_says_what_to_do(first, second, how, advice):
    with pytest.raises(DataError, match=rf"\[0\.1, 0\.2\] has a run that {how};.*{advice}"):
        choose_learning_rate({0.2: {0: first}, 0.1: {0: second}})


def test_monitors_have_nothing_that_a_choice_reads():
    # A choice reads epoch and holdout; the types share no field that holds scores.
    monitor = MonitorRecord(epoch=1, monitor="test", scores={"sgd": Score(0.0, 1.0)})
    for rule in RULES:
        with pytest.raises(AttributeError, match="holdout"):
            choose_stop([monitor], rule=rule, averages=("sgd",))
    with pytest.raises(AttributeError, match="holdout"):
        choose_learning_rate({0.1: {0: [monitor]}})


def test_everything_that_chooses_is_typed_for_lines_of_the_log_only():
    for _, function in inspect.getmembers(selection, inspect.isfunction):
        if function.__module__ == selection.__name__:
            assert "MonitorRecord" not in str(typing.get_type_hints(function))
    assert not hasattr(selection, "MonitorRecord")
