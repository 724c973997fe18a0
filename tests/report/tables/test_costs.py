"""What an average costs beside training, arm by arm."""

import pytest

from polyak.records.vocabulary import ARMS
from polyak.report.names import MORE_ARMS
from polyak.report.tables.costs import cost_of

FREE = ["sgd", "sgd_bn", "swa_bn", "tail_bn", "lawa_bn", "power_bn", "window_7_bn"]


@pytest.mark.parametrize("arm", FREE)
def test_what_stands_at_the_end_of_a_run_needs_no_evaluation(arm):
    assert cost_of(arm, epochs=10, averages=5)[:2] == (0, "nothing")


@pytest.mark.parametrize(
    ("arm", "cost"),
    [
        ("sgd_stopped", (10, "epoch", "")),
        ("sgd_stopped_bn", (10, "epoch", "")),
        ("sgd_at_ema", (50, "epoch, the EMA’s", "")),
        ("ema_loss", (50, "decay and epoch", "")),
        ("ema_loss_bn", (50, "epoch", "decay: the longest of the bank")),
        ("lawa_acc_bn", (50, "epoch, the EMA’s", "six snapshots, an epoch apart")),
        ("window_1_loss_bn", (50, "epoch, the EMA’s", "mean age: 1 % of the run")),
        ("swad_bn", (10, "first and last epoch", "patience 3, tolerance 6, ratio 1.3")),
    ],
)
def test_what_is_chosen_costs_an_evaluation_an_epoch_of_all_it_is_chosen_among(arm, cost):
    assert cost_of(arm, epochs=10, averages=5) == cost


def test_with_recomputed_selection_the_decay_is_chosen_too():
    assert cost_of("ema_acc_bn", epochs=10, averages=5, longest=False) == (
        50,
        "decay and epoch",
        "",
    )


def test_every_average_of_another_kind_names_what_was_fixed():
    for arm in (*ARMS, *MORE_ARMS):
        fixed = cost_of(arm, epochs=10, averages=5)[2]
        assert bool(fixed) is (arm in MORE_ARMS or arm in ("swa_bn", "ema_acc_bn", "ema_loss_bn"))
