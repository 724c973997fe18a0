from polyak.analysis.loaded import LoadedRow, LoadedRun, RunLog
from polyak.records.runs import EpochRecord, Score
from polyak.records.studies import RowRecord
from polyak.report.sections.remarks import overlaps

NAMES = ("ema_0.5", "ema_0.9", "ema_0.99")


def run(run_id, lists):
    """A run whose averages have the given accuracies, epoch by epoch."""
    records = [
        EpochRecord(
            epoch=e,
            step=e,
            learning_rate=0.1,
            train=Score(1.0, 0.5),
            seconds=1.0,
            holdout={n: Score(1.0, a) for n, a in zip(NAMES, accuracies, strict=True)},
        )
        for e, accuracies in enumerate(lists, start=1)
    ]
    return LoadedRun(id=run_id, log=RunLog(epochs=records))


def row(*runs):
    record = RowRecord(
        label="r",
        dataset="d",
        architecture="a",
        seeds=(0,),
        learning_rates=(0.1,),
        averages=NAMES,
        paper_averages=NAMES,
        search={"0.1": {str(i): run.id for i, run in enumerate(runs)}},
    )
    return LoadedRow(record=record, runs={run.id: run for run in runs})


def test_groups_that_split_one_after_another_are_one_sentence():
    only = run("a", [(0.1, 0.1, 0.1), (0.2, 0.3, 0.3), (0.3, 0.4, 0.5)])
    assert overlaps(row(only)) == [
        "In the search, EMA 0.9 and EMA 0.99 have equal scores until epoch 2; "
        "EMA 0.5 too in epoch 1."
    ]


def test_averages_that_never_differ_are_said_to():
    only = run("a", [(0.1, 0.1, 0.2), (0.2, 0.2, 0.3)])
    assert overlaps(row(only)) == [
        "In the search, EMA 0.5 and EMA 0.9 have equal scores in all 2 epochs of a run."
    ]


def test_the_longest_coincidence_of_any_run_counts():
    first = run("a", [(0.1, 0.1, 0.2), (0.2, 0.3, 0.4), (0.2, 0.3, 0.4)])
    second = run("b", [(0.1, 0.1, 0.2), (0.3, 0.3, 0.4), (0.2, 0.3, 0.4)])
    assert overlaps(row(first, second)) == [
        "In the search, EMA 0.5 and EMA 0.9 have equal scores until epoch 2."
    ]


def test_nothing_is_said_where_lines_differ_or_meet_later():
    only = run("a", [(0.1, 0.2, 0.3), (0.5, 0.5, 0.5)])
    assert overlaps(row(only)) == []
