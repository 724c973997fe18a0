"""Loops with a teacher or a target network are those written by hand, bit for bit."""

import io

import pytest
import torch
from support.small_networks import assert_same_bits, snapshot
from support.teacher_loops import LOOPS

each_loop = pytest.mark.parametrize("make", LOOPS.values(), ids=LOOPS.keys())
STEPS = 24


@each_loop
def test_losses_and_weights_are_those_of_a_deep_copy_and_lerp(make):
    by_hand, live = make(live=False), make(live=True)
    for k, (want, got) in enumerate(
        zip(by_hand.run(range(STEPS)), live.run(range(STEPS)), strict=True)
    ):
        assert got == want, k
    assert len(set(map(tuple, live.run(range(3))))) == 3  # it trains
    for _ in by_hand.run(range(3)):
        pass
    for one, two in zip(by_hand.seconds, live.seconds, strict=True):
        assert_same_bits(snapshot(two.second), snapshot(one.second))


@each_loop
def test_a_loop_that_stopped_goes_on_as_if_it_had_not(make):
    by_hand, stopped, resumed = make(live=False), make(live=True), make(live=True)
    want = list(by_hand.run(range(STEPS)))
    half = STEPS // 2 + 1  # between two updates of those that update rarely
    got = list(stopped.run(range(half)))
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    got += list(resumed.run(range(half, STEPS)))
    assert got == want
    for one, two in zip(by_hand.seconds, resumed.seconds, strict=True):
        assert_same_bits(snapshot(two.second), snapshot(one.second))
