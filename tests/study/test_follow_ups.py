from dataclasses import replace

import pytest

from polyak.records.studies import RowRecord
from polyak.records.vocabulary import Stop
from polyak.study import plan
from polyak.study.follow_ups import follow_ups

STOPS = {
    str(seed): tuple(
        Stop(rule=rule, epoch=epoch, average=average)
        for rule, epoch, average in (("sgd", 3, "sgd"), ("acc", acc, "ema_0.9"))
    )
    for seed, acc in ((0, 2), (1, 3))
}


def chosen(row, stops=STOPS):
    return RowRecord(
        label=row.label,
        dataset=row.dataset,
        architecture=row.architecture,
        seeds=row.seeds,
        learning_rates=row.learning_rates,
        averages=row.config.averaging.names,
        paper_averages=row.config.averaging.names,
        refits=row.refits,
        chosen_learning_rate=0.1,
        stops=stops,
    )


@pytest.fixture
def followed(row):
    config = replace(row.config, epochs=4, optim=replace(row.config.optim, warmup_epochs=0))
    return replace(row, config=config, follow_ups=("annealed",))


def test_the_refit_is_annealed_in_each_seeds_epochs_its_stops_at_the_same_share(followed):
    runs = follow_ups(followed, chosen(followed))["annealed"]
    assert {seed: run.epochs for seed, run in runs.items()} == {0: 2, 1: 3}
    refits = plan.refit(followed, 0.1, {int(seed): stops for seed, stops in STOPS.items()})
    for seed, run in runs.items():
        assert run == replace(refits[seed], epochs=run.epochs, stops=run.stops)
        assert [stop.epoch for stop in run.stops] == [
            max(1, round(stop.epoch * run.epochs / 4)) for stop in refits[seed].stops
        ]
        run.check()


def test_where_nothing_is_refitted_the_search_is_annealed_and_chooses_on_its_own_hold_out(followed):
    searched = replace(followed, refits=False, transfer=())
    assert searched.faults() == []
    runs = follow_ups(searched, chosen(searched))["annealed"]
    searches = plan.search(searched)[0.1]
    assert {seed: run.epochs for seed, run in runs.items()} == {0: 2, 1: 3}
    for seed, run in runs.items():
        assert run == replace(searches[seed], epochs=run.epochs)
        assert run.holdout
        assert not run.stops
        run.check()


def test_a_row_without_a_choice_is_followed_by_nothing(followed):
    assert follow_ups(followed, chosen(followed, stops={})) == {}
