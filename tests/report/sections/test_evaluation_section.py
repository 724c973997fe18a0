from polyak.analysis.results import Result
from polyak.report.sections.evaluation import evaluation_lines


def number(phase, arm, seed, value, metric="accuracy"):
    return Result(
        row="row", phase=phase, target="x", arm=arm, seed=str(seed), metric=metric, value=value
    )


def both(phase, arm, accuracies):
    """Loss is a hundredth of the errors in percent."""
    return [
        made
        for seed, value in enumerate(accuracies)
        for made in (
            number(phase, arm, seed, value),
            number(phase, arm, seed, 1 - value, "loss"),
        )
    ]


def test_differences_are_paired_by_seed_with_their_interval():
    """2 and 3 points: 2.5 ± t(0.975, 1) · 0.707/√2 = 2.5 ± 6.35."""
    results = both("search", "sgd", (0.60, 0.70)) + both("search", "ema_acc_bn", (0.62, 0.73))
    heading, columns, sgd, average = evaluation_lines("row", results)
    assert heading == "row: models of the search, 2 seeds"
    assert columns.split() == ["accuracy,", "%", "−", "SGD", "loss,", "nats", "−", "SGD"]
    assert sgd.split() == ["SGD", "65.0", "0.350"]
    assert " ".join(average.split()) == (
        "EMA (acc.) + BN 67.5 +2.5 [−3.9, 8.9] 0.325 −0.025 [−0.089, 0.039]"
    )


def test_models_of_all_images_meet_the_sgd_that_annealed_in_as_many_epochs_too():
    results = [
        *both("refit", "sgd", (0.60,)),
        *both("refit", "ema_acc_bn", (0.66,)),
        *both("annealed", "sgd", (0.65,)),
        number("refit", "sgd", "0-1", 0.5, metric="churn"),
    ]
    lines = [" ".join(line.split()) for line in evaluation_lines("row", results)]
    assert lines[0] == "row: models of all training data, 1 seed"
    assert lines[3] == "EMA (acc.) + BN 66.0 +6.0 0.340 −0.060"
    assert "models of all training data against SGD annealed early" in lines[7]
    assert lines[-2] == "SGD 60.0 −5.0 0.400 +0.050"
    assert lines[-1] == "EMA (acc.) + BN 66.0 +1.0 0.340 −0.010"


def test_where_nothing_is_refitted_the_searchs_models_meet_it():
    results = [
        *both("search", "sgd", (0.60,)),
        *both("search", "ema_acc_bn", (0.66,)),
        *both("annealed", "sgd", (0.65,)),
    ]
    lines = [" ".join(x.split()) for x in evaluation_lines("row", results, judged="search")]
    assert lines[-4] == "row: models of the search against SGD annealed early, 1 seed"
    assert lines[-1] == "EMA (acc.) + BN 66.0 +1.0 0.340 −0.010"
    assert not any("against" in line for line in evaluation_lines("row", results))


def test_seeds_that_one_side_lacks_are_left_out_of_the_difference():
    results = both("search", "sgd", (0.60,)) + both("search", "ema_acc_bn", (0.62, 0.90))
    *_, average = evaluation_lines("row", results)
    assert " ".join(average.split()) == "EMA (acc.) + BN 76.0 +2.0 0.240 −0.020"


def test_other_rows_are_not_shown():
    assert list(evaluation_lines("another", both("search", "sgd", (0.6,)))) == []
