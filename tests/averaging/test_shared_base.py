"""A frozen base, as under adapters, is copied and written once, however many averages there are."""

from collections.abc import Iterable, Mapping

import pytest
import torch
from support.small_networks import assert_same_bits
from torch import Tensor, nn

import polyak
from polyak import EMA, Averager
from polyak.errors import ConfigError

DECAYS = [0.5, 0.8, 0.9, 0.95, 0.99]
BASE = 512 * 512 * 4
"""Bytes of the base: a megabyte."""
ADAPTER = 2 * 512 * 4 * 4


class Adapted(nn.Module):
    """A frozen layer with an adapter of rank 4, as LoRA; the head is tied to the base."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(512, 512, bias=False).requires_grad_(False)
        self.head = nn.Linear(512, 512, bias=False)
        self.head.weight = self.base.weight
        self.down = nn.Linear(512, 4, bias=False)
        self.up = nn.Linear(4, 512, bias=False)
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("scale", torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.base(x) + self.up(self.down(x)))


@pytest.fixture
def averager() -> Averager:
    torch.manual_seed(0)
    model = Adapted()
    averager = Averager(model, [EMA(d, warmup=None) for d in DECAYS])
    for _ in range(3):
        with torch.no_grad():
            model.down.weight.add_(torch.randn(4, 512))
            model.scale.mul_(2)
        model.count.add_(1)
        averager.step()
    return averager


def bytes_of(states: Iterable[Mapping[str, Tensor]]) -> int:
    """Of all memory that these hold, each piece once."""
    storages = (x.untyped_storage() for state in states for x in state.values())
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


AT_MOST = BASE + len(DECAYS) * ADAPTER + 20_000
"""With what a file says of itself."""


def test_five_averages_of_adapters_take_the_base_once_on_disk_and_in_memory(averager, tmp_path):
    polyak.save(averager, tmp_path / "five.safetensors")
    assert BASE < (tmp_path / "five.safetensors").stat().st_size < AT_MOST
    for states in (averager.all_tensors(), polyak.load(tmp_path / "five.safetensors")):
        assert BASE < bytes_of(states.values()) < AT_MOST
    assert BASE < bytes_of(polyak.gathered(averager).values()) < AT_MOST


def test_what_is_loaded_is_what_each_average_shows_on_its_own(averager, tmp_path):
    alone = {name: averager.tensors(name) for name in averager.names}
    path = tmp_path / "five.safetensors"
    polyak.save(averager, path)
    for states in (polyak.load(path), averager.all_tensors(), polyak.gathered(averager)):
        assert list(states) == list(averager.names)
        for name, state in states.items():
            assert list(state) == list(alone[name]) == list(averager.model.state_dict())
            assert_same_bits(state, alone[name])


def test_saving_what_was_loaded_writes_the_base_once_again(averager, tmp_path):
    polyak.save(averager, tmp_path / "one.safetensors")
    polyak.save(polyak.load(tmp_path / "one.safetensors"), tmp_path / "two.safetensors")
    one, two = ((tmp_path / f"{x}.safetensors").stat().st_size for x in ("one", "two"))
    assert abs(one - two) < 200


def test_refreshed_statistics_stay_with_their_average(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    averager = Averager(model, DECAYS[:2], buffers="copy")
    averager.step()
    averager.refresh_batchnorm([torch.randn(8, 3)], names="ema_0.5")
    one, two = averager.all_tensors().values()
    assert not torch.equal(one["1.running_mean"], two["1.running_mean"])
    assert one["1.num_batches_tracked"] is two["1.num_batches_tracked"]
    assert_same_bits(one, averager.tensors("ema_0.5"))


def test_vectors_of_spectral_norm_stay_with_their_average():
    torch.manual_seed(0)
    model = nn.utils.spectral_norm(nn.Linear(4, 4))
    averager = Averager(model, [EMA(d, warmup=None) for d in (0.1, 0.9)])
    with torch.no_grad():
        model.weight_orig.add_(torch.randn(4, 4))
    averager.step()
    one, two = averager.all_tensors().values()
    assert not torch.equal(one["weight_u"], two["weight_u"])


def test_all_tensors_are_copies_and_of_known_names_only(averager):
    state = averager.all_tensors(["ema_0.9"])
    assert list(state) == ["ema_0.9"]
    state["ema_0.9"]["base.weight"].zero_()
    assert bool(averager.model.base.weight.any())
    with pytest.raises(ConfigError, match=r"ema_0\.7"):
        averager.all_tensors(["ema_0.7"])


@pytest.mark.parametrize("shared", [False, True])
def test_a_module_may_lie_on_the_models_own_base(averager, shared):
    model = averager.model
    copied = averager.module("ema_0.9", share_frozen=shared)
    assert_same_bits(dict(copied.state_dict()), averager.tensors("ema_0.9"))
    assert (copied.base.weight.data_ptr() == model.base.weight.data_ptr()) is shared
    assert copied.base.weight is copied.head.weight
    assert copied.base.weight is not model.base.weight
    assert copied.down.weight.data_ptr() != model.down.weight.data_ptr()
    assert not any(x.requires_grad for x in copied.parameters())
    model.base.weight.requires_grad_(True)
    copied.double()
    assert model.base.weight.dtype is torch.float32
    assert not copied.base.weight.requires_grad
