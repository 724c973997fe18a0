"""What an average gives back: under which names, and to how many digits."""

import pytest
import torch
from torch import Tensor, nn
from toys import assert_same_bits

import polyak
from polyak import Averager


class Scaled(nn.Linear):
    """Keeps its scale where only `state_dict()` shows it."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__(2, 2)
        self.scale = torch.tensor(scale)

    def get_extra_state(self) -> Tensor:
        return self.scale

    def set_extra_state(self, state: Tensor) -> None:
        self.scale = state


class Counted(nn.Linear):
    """Its extra state is no tensor."""

    def __init__(self) -> None:
        super().__init__(2, 2)

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": 3}

    def set_extra_state(self, state: dict[str, int]) -> None:
        raise AssertionError("there is none")


@pytest.mark.parametrize("make", [Scaled, lambda: nn.Sequential(nn.Linear(2, 2), Scaled())])
def test_an_extra_state_that_is_a_tensor_is_the_models_so_that_loading_is_strict(make, tmp_path):
    model = make()
    averager = Averager(model, [0.9])
    [scaled] = [module for module in model.modules() if isinstance(module, Scaled)]
    scaled.scale = torch.tensor(7.0)
    tensors = averager.tensors("ema_0.9")
    assert tensors.keys() == model.state_dict().keys()
    polyak.save(averager, tmp_path / "file")
    for state in (tensors, polyak.load(tmp_path / "file")["ema_0.9"]):
        other = make()
        other.load_state_dict(state, strict=True)
        assert_same_bits(other.state_dict(), model.state_dict())
    scaled.scale += 1
    assert [x.item() for key, x in tensors.items() if key.endswith("_extra_state")] == [7.0]


def test_an_extra_state_that_is_no_tensor_is_left_out():
    tensors = Averager(Counted(), [0.9]).tensors("ema_0.9")
    assert tensors.keys() == {"weight", "bias"}
    assert Counted().load_state_dict(tensors, strict=False).missing_keys == ["_extra_state"]
