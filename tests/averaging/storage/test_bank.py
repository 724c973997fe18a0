"""The bank against an average kept tensor by tensor, and what its memory promises."""

import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from polyak.averaging import kernels
from polyak.averaging.storage.bank import Bank
from polyak.averaging.storage.cpu_blocks import PACK, SMALL

SHAPES = st.lists(
    st.sampled_from([(), (0,), (1,), (3,), (2, 5), (4, 3, 3, 3), (SMALL + 1,), (130, 130)]),
    min_size=1,
    max_size=6,
)
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.complex64])


def weights_like(shapes: list[tuple[int, ...]], dtypes: list[torch.dtype]) -> dict[str, Tensor]:
    return {
        f"w{i}": torch.randn(shape, dtype=dtype)
        for i, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=True))
    }


def bank_of(weights: dict[str, Tensor], dtype: torch.dtype | None = None) -> Bank:
    dtypes = {key: dtype or x.dtype for key, x in weights.items()}
    return Bank(["a", "b", "c"], weights, dtypes=dtypes)


@given(shapes=SHAPES, data=st.data(), last=st.booleans())
def test_a_bank_is_its_averages_one_tensor_at_a_time_bit_for_bit(shapes, data, last):
    dtypes = data.draw(st.lists(DTYPES, min_size=len(shapes), max_size=len(shapes)))
    weights = weights_like(shapes, dtypes)
    if last:
        weights = {
            key: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
            for key, x in weights.items()
        }
    bank = bank_of(weights)
    twins = {name: {key: x.clone() for key, x in weights.items()} for name in bank.rows}
    for lerp_weights in ([0.9, 0.1, 0.002], [1.0, 0.5, 0.0]):
        for x in weights.values():
            x.add_(torch.randn_like(x))
        bank.gather()
        assert bank.finite()
        bank.fold(dict(zip(bank.rows, lerp_weights, strict=True)))
        for row, w in zip(twins.values(), lerp_weights, strict=True):
            for key, m in row.items():
                m.lerp_(weights[key], w)
    for name, row in twins.items():
        for key, m in row.items():
            assert torch.equal(bank.rows[name][key], m)
            assert bank.rows[name][key].stride() == m.stride()


@given(shapes=SHAPES, data=st.data())
def test_one_average_alone_is_the_one_among_others_bit_for_bit(shapes, data):
    """It is moved by a number, without a copy where live weights lie otherwise."""
    dtypes = data.draw(st.lists(DTYPES, min_size=len(shapes), max_size=len(shapes)))
    weights = weights_like(shapes, dtypes)
    weights["turned"] = torch.randn(150, 170).mT
    weights["gaps"] = torch.randn(150, 340)[:, ::2]
    weights["narrow"] = torch.randn(3, 4, dtype=torch.bfloat16)
    narrow = data.draw(st.sampled_from([torch.float32, torch.bfloat16]))
    kept = {key: x.dtype for key, x in weights.items()} | {"narrow": narrow}
    among, alone = (Bank(names, weights, dtypes=kept) for names in (["a", "b", "c"], ["b"]))
    for w in (0.1, 0.002, 0.7, 1.0):
        for x in weights.values():
            x.add_(torch.randn_like(x))
        for bank in (among, alone):
            bank.gather()
            assert bank.finite()
            bank.fold({"a": 0.5, "b": w, "c": 0.25})
    for key in weights:
        assert torch.equal(alone.rows["b"][key], among.rows["b"][key])


@pytest.mark.parametrize("name", ["a", "gaps"])
def test_what_lies_in_gaps_is_no_weight(name):
    """The guard reads over gaps, and looks again if it finds something."""
    whole = torch.randn(200, 400)
    weights = {"gaps": whole[:, ::2], "a": torch.randn(SMALL + 1)}
    bank = bank_of(weights)
    whole[:, 1::2] = torch.nan
    bank.gather()
    assert bank.finite()
    weights[name][-1:] = torch.inf
    bank.gather()
    assert not bank.finite()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_whose_products_overflow_are_finite(dtype):
    largest = torch.finfo(dtype).max
    weights = {"big": torch.full((SMALL + 1,), largest, dtype=dtype), "b": torch.ones(2)}
    bank = bank_of(weights)
    bank.gather()
    assert bank.finite()
    weights["big"][5] = torch.nan
    assert not bank.finite()


def test_a_weight_with_gaps_in_memory_is_averaged_too():
    weights = {"gaps": torch.randn(8, 6)[:, ::2], "expanded": torch.randn(1, 4).expand(3, 4)}
    bank = bank_of(weights)
    twins = {key: x.clone() for key, x in weights.items()}
    weights["gaps"].add_(1.0)
    bank.gather()
    bank.fold({"a": 0.25, "b": 0.25, "c": 0.25})
    for key, m in twins.items():
        assert torch.equal(bank.rows["b"][key], m.lerp(weights[key], 0.25))


def test_split_bfloat16_is_float32_also_for_weights_with_gaps():
    """Those lie outside blocks, as all weights of a GPU do."""
    draws = torch.Generator().manual_seed(0)
    whole = torch.randn(1, 4, generator=draws)
    narrow, wide = (
        Bank(["a"], {"w": whole.expand(3, 4)}, dtypes={"w": dtype})
        for dtype in (torch.bfloat16, torch.float32)
    )
    for _ in range(50):
        whole.add_(0.01)
        for bank in (narrow, wide):
            bank.gather()
            bank.fold({"a": 1e-3})
    high, low = narrow.rows["a"]["w"], narrow.remainder["a"]["w"]
    assert torch.equal(kernels.join(high, low), wide.rows["a"]["w"])


def test_packs_are_split_before_their_scratch_grows():
    weights = {f"w{i}": torch.randn(SMALL) for i in range(PACK // SMALL + 1)}
    bank = bank_of(weights)
    bank.gather()
    bank.fold({"a": 1.0, "b": 0.5, "c": 0.0})
    for key, x in weights.items():
        assert torch.equal(bank.rows["a"][key], x)


def test_each_tensor_owns_its_own_bytes_only():
    """Five averages side by side in memory, and a file that holds one of them."""
    bank = bank_of({"big": torch.randn(SMALL + 1), "small": torch.randn(3)})
    for key in ("big", "small"):
        row = bank.rows["b"][key]
        assert row.untyped_storage().nbytes() == row.numel() * row.element_size()
    file = io.BytesIO()
    torch.save(bank.rows["b"], file)
    assert file.tell() < 1.2 * 4 * (SMALL + 4) + 4096


def test_nonfinite_weights_are_found_in_packs_and_alone():
    for broken in ("big", "small"):
        weights = {"big": torch.randn(SMALL + 1), "small": torch.randn(3), "other": torch.randn(2)}
        bank = bank_of(weights)
        weights[broken][-1] = float("nan")
        bank.gather()
        assert not bank.finite()


@pytest.mark.parametrize("live", [torch.float32, torch.bfloat16])
def test_split_bfloat16_is_the_float32_average_where_plain_bfloat16_stands_still(live):
    """C7: 2,000 updates at d = 0.9999 towards weights that are off by a few percent."""
    draws = torch.Generator().manual_seed(0)
    start = torch.rand(64, 20, generator=draws) - 0.5
    weights = {"w": start.to(live, copy=True), "single": torch.ones(SMALL + 1, dtype=live)}
    narrow, wide = bank_of(weights, torch.bfloat16), bank_of(weights, torch.float32)
    plain = weights["w"].bfloat16().clone()
    weights["w"].copy_(1.1 * start)
    for _ in range(2_000):
        plain.lerp_(weights["w"].bfloat16(), 1e-4)
        for bank in (narrow, wide):
            bank.gather()
            bank.fold({"a": 1e-4, "b": 0.0, "c": 1.0})
    assert torch.equal(plain, start.to(live).bfloat16())
    for name in wide.rows:
        for key, m in wide.rows[name].items():
            assert torch.equal(kernels.join(narrow.rows[name][key], narrow.remainder[name][key]), m)
            # The visible half is the nearest bfloat16; ties may go the other way.
            torch.testing.assert_close(narrow.rows[name][key].float(), m, rtol=2**-8, atol=0.0)


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=30))
def test_a_split_float32_comes_back_exactly(values):
    x = torch.tensor(values, dtype=torch.float32)
    assert torch.equal(kernels.join(*kernels.split(x)), x)


def test_float32_follows_float64_for_ten_thousand_updates_at_0_9999():
    draws = torch.Generator().manual_seed(0)
    weights = {"w": torch.randn(100, generator=draws)}
    bank = bank_of(weights)
    exact = weights["w"].double()
    for _ in range(10_000):
        weights["w"].copy_(torch.randn(100, generator=draws))
        exact.lerp_(weights["w"].double(), 1e-4)
        bank.gather()
        bank.fold({"a": 1e-4, "b": 0.0, "c": 0.0})
    torch.testing.assert_close(bank.rows["a"]["w"].double(), exact, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_bank_of_cuda_weights_is_that_of_their_copies_on_the_cpu(device):
    """Beside the weights, and in host memory."""
    on_cpu = {"big": torch.randn(SMALL + 1), "small": torch.randn(3, 2), "b": torch.randn(5)}
    on_gpu = {key: x.cuda() for key, x in on_cpu.items()}
    dtypes = {key: torch.float32 for key in on_cpu}
    bank = Bank(["a", "b", "c"], on_gpu, dtypes=dtypes, device=device)
    twin = bank_of(on_cpu)
    for key, x in on_cpu.items():
        x.add_(1.0)
        on_gpu[key].add_(1.0)
    for each in (bank, twin):
        each.gather()
        assert each.finite()
        each.fold({"a": 0.5, "b": 0.1, "c": 0.002})
    for name, row in twin.rows.items():
        for key, m in row.items():
            assert bank.rows[name][key].device.type == device
            torch.testing.assert_close(bank.rows[name][key].cpu(), m)
