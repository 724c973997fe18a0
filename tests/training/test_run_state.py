"""A run's state, without files: what another run needs to go on from there."""

from copy import deepcopy

import pytest
import torch
from support.resumed_runs import Paused, assert_same_run

from polyak.training.run_state import optimizer_tensors, restore_optimizer


def paused(run, rests):
    """The state of a run after so many places to stop."""
    seen = []

    def rest():
        seen.append(1)
        if len(seen) == rests:
            raise Paused

    with pytest.raises(Paused):
        run.train(lambda record: None, on_rest=rest)
    return deepcopy(run.state_dict())


@pytest.mark.parametrize("rests", [3, 8])
def test_a_run_that_loads_anothers_state_ends_as_that_would_have(tiny, start, rests):
    whole, again = start(tiny), start(tiny)
    whole.train(lambda record: None)
    again.load_state_dict(paused(start(tiny), rests))
    again.train(lambda record: None)
    assert_same_run(again, whole)


def test_a_state_holds_plain_values_beside_tensors_and_kept_weights(tiny, start):
    state = paused(start(tiny), 8)
    assert state.keys() == {"tensors", "facts", "kept"}
    assert set(state["tensors"]) >= {"model", "momentum", "generators", "epoch", "torch"}
    assert set(state["kept"]) == {"sgd", "acc", "loss"}
    assert (state["facts"]["step"], state["facts"]["batch"]) == (7, 2)


def test_momenta_take_the_layout_of_their_parameters():
    x = torch.nn.Parameter(torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last))
    optimizer = torch.optim.SGD([x], lr=0.1, momentum=0.9)
    assert optimizer_tensors(optimizer) == {}
    momentum = torch.randn(2, 3, 4, 4)
    restore_optimizer(optimizer, {"0": momentum})
    found = optimizer_tensors(optimizer)["0"]
    assert torch.equal(found, momentum)
    assert found.is_contiguous(memory_format=torch.channels_last)
