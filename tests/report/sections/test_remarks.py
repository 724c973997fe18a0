from polyak.records.runs import EpochRecord, Score, run_folder
from polyak.records.studies import RowRecord
from polyak.report.sections.remarks import overlaps

NAMES = ("ema_0.5", "ema_0.9", "ema_0.99")


def write(out, run_id, lists):
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
    run_folder(out, run_id).write_epochs(records)


def row(*run_ids):
    return RowRecord(
        label="r",
        dataset="d",
        architecture="a",
        seeds=(0,),
        learning_rates=(0.1,),
        averages=NAMES,
        paper_averages=NAMES,
        search={"0.1": {str(i): run_id for i, run_id in enumerate(run_ids)}},
    )


def test_groups_that_split_one_after_another_are_one_sentence(tmp_path):
    write(tmp_path, "a", [(0.1, 0.1, 0.1), (0.2, 0.3, 0.3), (0.3, 0.4, 0.5)])
    assert overlaps(tmp_path, row("a")) == [
        "In the search, EMA 0.9 and EMA 0.99 have equal scores until epoch 2; "
        "EMA 0.5 too in epoch 1."
    ]


def test_averages_that_never_differ_are_said_to(tmp_path):
    write(tmp_path, "a", [(0.1, 0.1, 0.2), (0.2, 0.2, 0.3)])
    assert overlaps(tmp_path, row("a")) == [
        "In the search, EMA 0.5 and EMA 0.9 have equal scores in all 2 epochs of a run."
    ]


def test_the_longest_coincidence_of_any_run_counts(tmp_path):
    write(tmp_path, "a", [(0.1, 0.1, 0.2), (0.2, 0.3, 0.4), (0.2, 0.3, 0.4)])
    write(tmp_path, "b", [(0.1, 0.1, 0.2), (0.3, 0.3, 0.4), (0.2, 0.3, 0.4)])
    assert overlaps(tmp_path, row("a", "b")) == [
        "In the search, EMA 0.5 and EMA 0.9 have equal scores until epoch 2."
    ]


def test_nothing_is_said_where_lines_differ_or_meet_later(tmp_path):
    write(tmp_path, "a", [(0.1, 0.2, 0.3), (0.5, 0.5, 0.5)])
    assert overlaps(tmp_path, row("a")) == []
