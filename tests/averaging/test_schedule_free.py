"""Schedule-free optimizers: what is averaged is y, at which gradients are taken."""

import pytest
import torch
from support.small_networks import assert_same_bits, batch, net, snapshot

from polyak import EMA, Averager
from polyak.errors import StateError

schedulefree = pytest.importorskip("schedulefree")

pytestmark = pytest.mark.oracle
MADE = {
    "sgd": lambda model: schedulefree.SGDScheduleFree(model.parameters(), lr=0.1),
    "adamw": lambda model: schedulefree.AdamWScheduleFree(model.parameters(), lr=0.01),
    "wrapper": lambda model: schedulefree.ScheduleFreeWrapper(
        torch.optim.SGD(model.parameters(), lr=0.1), momentum=0.9
    ),
}


@pytest.mark.parametrize("kind", MADE)
def test_the_average_is_that_of_the_points_where_gradients_are_taken(kind):
    """Within the wrapper's step its base steps z; an average of that would be another one."""
    model = net()
    optimizer = MADE[kind](model)
    optimizer.train()
    average = EMA(0.5, warmup=None, name="y")
    averager, twin = Averager(model, [average]), Averager(model, [average])
    averager.attach(optimizer)
    for count in range(1, 6):
        model.zero_grad()
        model(batch(count)).square().mean().backward()
        optimizer.step()
        twin.step()
        assert averager.steps == count
    assert_same_bits(averager.tensors("y"), twin.tensors("y"))


@pytest.mark.parametrize("kind", MADE)
def test_going_to_x_and_back_changes_no_average(kind):
    model = net()
    optimizer = MADE[kind](model)
    optimizer.train()
    averager = Averager(model, [EMA(0.5, warmup=None, name="y")])
    averager.attach(optimizer)
    model(batch(0)).square().mean().backward()
    optimizer.step()
    held = averager.tensors("y")
    y = snapshot(model)["0.weight"].clone()
    optimizer.eval()
    optimizer.train_mode = True
    with averager.applied("y"), pytest.raises(StateError):
        optimizer.step()
    optimizer.train_mode = False
    optimizer.train()
    assert_same_bits(averager.tensors("y"), held)
    torch.testing.assert_close(model[0].weight.detach(), y)
