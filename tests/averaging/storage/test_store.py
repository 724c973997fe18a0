"""What an average gives back: under which names, and to how many digits."""

import pytest
import torch
from support.small_networks import assert_same_bits, batch, net, snapshot, walk
from torch import Tensor, nn

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


def split_and_exact(dtype: torch.dtype = torch.float32) -> tuple[Averager, Averager]:
    """A bfloat16 average and a float32 one of models that moved alike."""
    first, second = net().to(dtype), net().to(dtype)
    second.load_state_dict(first.state_dict())
    split, exact = Averager(first, [0.9], dtype=torch.bfloat16), Averager(second, [0.9])
    for averager in (split, exact):
        walk(averager, averager.model, range(5))
    return split, exact


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_a_bfloat16_average_is_lent_and_read_to_all_its_digits(dtype, tmp_path):
    split, exact = split_and_exact(dtype)
    own = snapshot(split.model)
    with split.applied("ema_0.9"), exact.applied("ema_0.9"):
        lent, expected = snapshot(split.model), snapshot(exact.model)
    polyak.save(split, tmp_path / "file")
    read = split.tensors("ema_0.9")
    assert_same_bits(polyak.load(tmp_path / "file")["ema_0.9"], read)
    assert_same_bits(snapshot(split.module("ema_0.9")), lent)
    # bfloat16 alone would be off by up to 4e-3.
    near = {"rtol": 2e-3 if dtype == torch.float16 else 1e-6, "atol": 1e-6}
    for key, x in expected.items():
        assert lent[key].dtype == x.dtype
        torch.testing.assert_close(lent[key], x, **near)
        torch.testing.assert_close(read[key].to(x.dtype), x, **near)
    assert_same_bits(snapshot(split.model), own)


def test_fresh_statistics_of_a_bfloat16_average_keep_their_digits():
    split, exact = split_and_exact()
    for averager in (split, exact):
        averager.refresh_batchnorm([batch(0)])
    torch.testing.assert_close(
        split.tensors("ema_0.9")["1.running_var"], exact.tensors("ema_0.9")["1.running_var"]
    )


def test_a_bfloat16_average_of_a_bfloat16_model_is_lent_without_a_copy():
    model = nn.Linear(3, 3).to(torch.bfloat16)
    averager = Averager(model, [0.9], dtype=torch.bfloat16)
    stored = averager.state_dict()["tensors"]["ema_0.9"]
    with averager.applied("ema_0.9"):
        assert all(p.data_ptr() == stored[key].data_ptr() for key, p in model.named_parameters())
    assert averager.tensors("ema_0.9")["weight"].dtype == torch.bfloat16
