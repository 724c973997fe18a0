"""What frozen weights are held against: as they were built, tracked, adopted, or loaded."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

from polyak import Averager
from polyak.averaging.model.frozen import Loads
from polyak.errors import WeightMismatchError

WAYS = ["state_dict", "assign", "part by part"]
LOOKS = ["step", "update", "tensors", "module", "applied", "state_dict"]


def frozen_base() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), nn.Linear(3, 2))
    model[0].requires_grad_(False)
    return model


def load_into(model: nn.Sequential, how: str) -> None:
    state = {name: x + 1 for name, x in model.state_dict().items()}
    if how == "part by part":
        for key, part in model.named_children():
            own = {n.removeprefix(f"{key}."): x for n, x in state.items() if n.startswith(key)}
            part.load_state_dict(own)
    else:
        model.load_state_dict(state, assign=how == "assign")


@torch.no_grad()
def move(model: nn.Sequential) -> None:
    model[0][0].weight.add_(1)


def look(averager: Averager, how: str) -> None:
    if how in ("step", "update", "state_dict"):
        getattr(averager, how)()
    elif how == "applied":
        with averager.applied("ema_0.9"):
            pass
    else:
        getattr(averager, how)("ema_0.9")


def resume(averager: Averager, how: str) -> None:
    if how == "adopt":
        averager.adopt({"ema_0.9": averager.tensors("ema_0.9")}, steps=3)
    else:
        averager.load_state_dict(averager.state_dict())


@pytest.mark.parametrize("call", LOOKS)
@pytest.mark.parametrize("how", ["load_state_dict", "adopt"])
def test_a_frozen_weight_that_moves_right_after_a_resume_is_refused_by_name(how, call):
    model = frozen_base()
    averager = Averager(model, [0.9])
    resume(averager, how)
    move(model)
    with pytest.raises(WeightMismatchError, match=r"0\.0\.weight has moved"):
        look(averager, call)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("how", ["load_state_dict", "adopt"])
def test_a_model_may_be_loaded_after_its_averages(how, way):
    model = frozen_base()
    averager = Averager(model, [0.9])
    resume(averager, how)
    load_into(model, way)
    averager.attach(torch.optim.SGD(model[1].parameters(), lr=0.1))
    load_into(model, way)
    for call in ("update", "tensors", "module", "applied"):
        look(averager, call)
    move(model)
    with pytest.raises(WeightMismatchError, match=r"0\.0\.weight has moved"):
        averager.tensors("ema_0.9")


@pytest.mark.parametrize("way", WAYS)
def test_what_moves_after_the_model_was_loaded_is_refused(way):
    model = frozen_base()
    averager = Averager(model, [0.9])
    resume(averager, "load_state_dict")
    load_into(model, way)
    move(model)
    with pytest.raises(WeightMismatchError, match=r"0\.0\.weight has moved"):
        averager.tensors("ema_0.9")


@pytest.mark.parametrize("call", [*LOOKS, "optimizer.step"])
def test_what_is_loaded_once_training_or_reading_went_on_is_a_movement(call):
    """Also while no update was due."""
    model = frozen_base()
    averager = Averager(model, [0.9], every=100)
    resume(averager, "load_state_dict")
    if call == "optimizer.step":
        optimizer = torch.optim.SGD(model[1].parameters(), lr=0.1)
        averager.attach(optimizer)
        optimizer.step()
    else:
        look(averager, call)
    load_into(model, "state_dict")
    with pytest.raises(WeightMismatchError, match="has moved"):
        averager.tensors("ema_0.9")


def test_a_tied_weight_may_be_loaded_under_its_second_name():
    """Found by the state machine: the second name's values are loaded last."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    model[1].weight = model[0].weight
    model[0].requires_grad_(False)
    averager = Averager(model, [0.9])
    resume(averager, "load_state_dict")
    state = {name: x + number for number, (name, x) in enumerate(model.state_dict().items())}
    model.load_state_dict(state)
    averager.step()
    assert torch.equal(averager.tensors("ema_0.9")["0.weight"], state["1.weight"])


def test_a_model_keeps_no_hook_and_its_copies_tell_nobody():
    model = frozen_base()
    averager = Averager(model, [0.9])
    resume(averager, "load_state_dict")
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        load_into(copied, "state_dict")
    averager.tensors("ema_0.9")
    assert not any(module._load_state_dict_post_hooks for module in model.modules())
    resume(averager, "load_state_dict")
    resume(averager, "load_state_dict")
    assert all(len(module._load_state_dict_post_hooks) == 1 for module in model.modules())


def test_parts_of_torchscript_are_told_by_what_is_above_them():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = nn.Sequential(torch.jit.script(nn.Sequential(nn.Linear(2, 2))), nn.Linear(2, 2))
    told = []
    loads = Loads(model, lambda name, x: told.append(name))
    model.load_state_dict(model.state_dict())
    assert sorted(told) == sorted(name for name, _ in model.named_parameters())
    loads.end()
    model.load_state_dict(model.state_dict())
    assert len(told) == 4
