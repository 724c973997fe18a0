"""A user's own lerp weights: what is folded in, what is refused, what a record holds."""

import json
import math
from fractions import Fraction

import pytest
import torch

from polyak import Averager, PowerEMA, Schedule, Uniform
from polyak.averaging import profile
from polyak.averaging.kinds import Update
from polyak.averaging.kinds.records import from_record, to_record
from polyak.errors import ConfigError


def test_a_schedule_gives_the_weights_of_its_function():
    seen = []
    schedule = Schedule(lambda update: seen.append(update) or 0.25, name="quarter")
    assert schedule.weight(Update(3, 32, 8), folded=2) == 0.25
    assert seen == [Update(3, 32, 8)]
    assert schedule.at_period(16) is schedule


def test_any_kind_can_be_written_as_a_schedule():
    mean = Schedule(lambda update: 1 / (update.index + 1), name="mean")
    assert profile(mean, updates=9) == profile(Uniform(), updates=9)
    power = Schedule(lambda u: 1 - (1 - u.since / u.step) ** 4, name="cube")
    assert profile(power, updates=9, every=5) == profile(PowerEMA(gamma=3.0), updates=9, every=5)


@pytest.mark.parametrize("w", [0, 1, True, 0.5, Fraction(1, 2)])
def test_the_ends_of_the_range_and_other_numbers_are_weights(w):
    got = Schedule(lambda _: w, name="w").weight(Update(0, 1, 1), 0)
    assert type(got) is float
    assert got == w


@pytest.mark.parametrize("w", [-0.1, 1.0000001, math.nan, math.inf, None, "0.5", torch.tensor(0.5)])
def test_a_weight_outside_its_range_is_refused_before_an_average_changes(w):
    model = torch.nn.Linear(2, 1)
    schedule = Schedule(lambda update: w if update.index == 1 else 0.5, name="mine")
    averager = Averager(model, [0.9, schedule], every=4)
    for _ in range(7):
        averager.step()
    held = {name: averager.tensors(name) for name in averager.names}
    with torch.no_grad():
        model.weight.add_(1.0)
    with pytest.raises(ConfigError, match=r"weight of 'mine' at update 1 \(step 8\) is .*\[0, 1\]"):
        averager.step()
    assert averager.updates == 1
    for name, tensors in held.items():
        assert all(torch.equal(x, averager.tensors(name)[key]) for key, x in tensors.items())


def test_a_schedule_needs_a_function_and_a_name():
    with pytest.raises(ConfigError, match=r"weight is 0.5; .*name is ''"):
        Schedule(0.5, name="")


def test_the_record_of_a_schedule_is_its_name_and_no_function_comes_back():
    record = to_record(Schedule(lambda _: 0.5, name="mine"))
    assert json.loads(json.dumps(record)) == {"kind": "schedule", "name": "mine"}
    with pytest.raises(ConfigError, match=r"the schedule 'mine'; .*Build Schedule\(weight="):
        from_record(record)


@pytest.mark.parametrize(("name", "refused"), [("mine", False), ("another", True)])
def test_a_resumed_schedule_is_known_by_its_name_alone(name, refused):
    """As documented: another function under the same name cannot be noticed."""
    first = Averager(torch.nn.Linear(2, 1), [Schedule(lambda _: 0.5, name="mine")])
    first.step()
    second = Averager(torch.nn.Linear(2, 1), [Schedule(lambda _: 0.25, name=name)])
    if refused:
        with pytest.raises(ConfigError, match="saved averages are"):
            second.load_state_dict(first.state_dict())
    else:
        second.load_state_dict(first.state_dict())
        assert second.updates == 1
