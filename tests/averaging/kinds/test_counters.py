"""The counts of a bank, and when its next update takes place."""

import json

from hypothesis import given
from hypothesis import strategies as st

from polyak.averaging.kinds import EMA, Uniform, Update, lerp_weights
from polyak.averaging.kinds.counters import Counters

KINDS = {"m": EMA(0.9), "late": Uniform(start=4)}


def counted(every, steps):
    """Counters after updates at these steps."""
    counters = Counters.at_start(KINDS, every=every)
    for at in steps:
        moment = counters.next_update(steps=at)
        weights = lerp_weights(KINDS, moment, counters.folded)
        counters.count(moment, weights, steps=at, kinds=KINDS)
        counters.steps = at
    return counters


def test_an_update_stands_for_the_steps_since_the_last():
    counters = counted(2, [2, 4])
    assert counters.next_update(steps=7) == Update(index=2, step=7, since=3)


def test_an_update_without_new_steps_stands_for_a_period():
    """Made by hand; later updates then lie a period further on."""
    counters = counted(2, [2, 2, 4])
    assert (counters.updates, counters.position, counters.steps_at_update) == (3, 6, 4)


@given(every=st.integers(1, 3), updates=st.integers(0, 8))
def test_what_is_left_of_the_initial_weights_is_a_product(every, updates):
    counters = counted(every, range(every, every * updates + 1, every))
    left = {"m": 1.0, "late": 1.0}
    folded = {"m": 0, "late": 0}
    for index in range(updates):
        w = lerp_weights(KINDS, Update(index, (index + 1) * every, every), folded)
        left = {name: left[name] * (1 - w[name]) for name in KINDS}
        folded = {name: folded[name] + (w[name] > 0) for name in KINDS}
    assert (counters.initial_share, counters.folded) == (left, folded)


def test_counts_come_back_from_their_record_and_are_not_shared():
    counters = counted(2, [2, 4, 6])
    other = Counters.at_start(KINDS, every=2)
    other.restore(json.loads(json.dumps(counters.record())))
    assert other == counters
    other.count(other.next_update(steps=8), {"m": 0.5, "late": 0.5}, steps=8, kinds=KINDS)
    assert other != counters
