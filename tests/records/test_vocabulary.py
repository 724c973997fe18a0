"""The words that stages share agree with each other."""

from typing import get_args

from polyak.records.vocabulary import (
    ARMS,
    AVERAGES_RULES,
    BASELINE,
    FOLLOW_UPS,
    PROBED_ARMS,
    RULES,
    STATISTICS,
    Phase,
    variant_name,
)


def test_what_follows_the_choice_is_a_phase():
    assert set(FOLLOW_UPS) < set(get_args(Phase))


def test_probed_arms_are_arms_in_their_order():
    assert [arm for arm in ARMS if arm in PROBED_ARMS] == list(PROBED_ARMS)


def test_every_rule_chooses_the_baseline_or_an_average():
    assert (BASELINE, *AVERAGES_RULES) == RULES


def test_variants_have_different_names_though_decays_have_dots():
    names = [
        variant_name(rule, average, statistics)
        for rule in AVERAGES_RULES
        for average in ("ema_0.9", "ema_0.99")
        for statistics in STATISTICS
    ]
    assert len(set(names)) == 8
    assert names[0].split(".")[0] == "acc"
    assert names[0].rpartition(".")[2] == "averaged"
