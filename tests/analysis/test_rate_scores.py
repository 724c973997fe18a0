import pytest

from polyak.analysis.loaded import LoadedRow, LoadedRun, RunLog
from polyak.analysis.search import rate_scores
from polyak.records.runs import EpochRecord, Score
from polyak.records.studies import RowRecord


def run(run_id, accuracies, ending):
    epochs = [
        EpochRecord(
            epoch=e,
            step=e,
            learning_rate=0.1,
            train=Score(1.0, 0.5),
            seconds=1.0,
            holdout={"sgd": Score(1.0, a), "ema_0.9": Score(0.5, 0.99)},
        )
        for e, a in enumerate(accuracies, start=1)
    ]
    return LoadedRun(id=run_id, ending=ending, log=RunLog(epochs=epochs))


def test_a_rate_is_scored_by_sgds_best_epoch_of_finished_runs():
    runs = [
        run("a", [0.2, 0.6, 0.5], "done"),
        run("b", [0.2, 0.9], "diverged"),
        run("c", [0.3], None),
    ]
    record = RowRecord(
        label="r",
        dataset="d",
        architecture="a",
        seeds=(0, 1),
        learning_rates=(0.1, 1.0),
        averages=("ema_0.9",),
        paper_averages=("ema_0.9",),
        search={"1": {"0": "b", "1": "c"}, "0.1": {"0": "a"}},
        chosen_learning_rate=0.1,
    )
    low, high = rate_scores(LoadedRow(record=record, runs={run.id: run for run in runs}))
    assert (low.learning_rate, low.chosen, low.unfinished) == (0.1, True, {})
    assert low.best == {"0": pytest.approx(0.6)}
    assert (high.learning_rate, high.chosen, high.best) == (1.0, False, {})
    assert high.unfinished == {"0": "diverged", "1": "not finished"}
