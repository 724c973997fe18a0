import pytest
import torch
from support.small_networks import assert_same_bits
from torch import nn

from polyak import EMA, Averager, Uniform
from polyak.averaging.storage.state_dict import flattened, unflattened


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def stepped(averager, model, steps):
    draws = torch.Generator().manual_seed(1)
    for _ in range(steps):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn(parameter.shape, generator=draws)
        averager.step()


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("refreshed", [False, True])
def test_a_state_comes_back_from_one_level_of_tensors_as_it_was(dtype, refreshed):
    model = network()
    averager = Averager(model, [EMA(0.9), Uniform(start=2)], every=2, dtype=dtype)
    stepped(averager, model, 5)
    if refreshed:
        averager.refresh_batchnorm([torch.randn(8, 3)])
    state = averager.state_dict()
    flat = flattened(state)
    assert all(isinstance(x, torch.Tensor) for x in flat.values())
    facts = {key: state[key] for key in ("history", "averages", "dtypes", "buffers")}
    back = unflattened(flat, facts)
    assert back.keys() == state.keys()
    assert flattened(back).keys() == flat.keys()
    for key, x in flattened(back).items():
        assert x is flat[key]
    other = network()
    resumed = Averager(other, [EMA(0.9), Uniform(start=2)], every=2, dtype=dtype)
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(back)
    stepped(averager, model, 3)
    stepped(resumed, other, 3)
    for name in averager.names:
        assert_same_bits(resumed.tensors(name), averager.tensors(name))
