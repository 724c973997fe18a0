"""The plain mean of all weights from a step on."""

import math

import pytest

from polyak.averaging.kinds import (
    Uniform,
    Update,
)
from polyak.errors import ConfigError


def test_the_uniform_weights_are_one_over_the_number_folded():
    weights = [Uniform().weight(Update(n, n + 1, 1), folded=n) for n in range(5)]
    assert weights == [1.0, 1 / 2, 1 / 3, 1 / 4, 1 / 5]


def test_a_tail_takes_updates_after_its_start_only():
    tail = Uniform(start=10)
    assert tail.weight(Update(9, 10, 1), folded=0) == 0.0
    assert tail.weight(Update(10, 11, 1), folded=0) == 1.0


@pytest.mark.parametrize("start", [-1, 1.5, math.nan, "10"])
def test_a_start_that_is_no_number_of_steps_is_refused(start):
    with pytest.raises(ConfigError, match="start is"):
        Uniform(start=start)
