"""The arithmetic of an update against a loop in float64.

Shape suffixes: m averages, i tensors.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.small_networks import generator

from polyak.averaging import kernels
from polyak.averaging.kernels import all_finite, finite_flag, lerp_all
from polyak.averaging.storage.cpu_blocks import PACK

shapes = st.lists(st.lists(st.integers(0, 5), max_size=4), min_size=1, max_size=6)
lerp_weights = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=5)


def draw(shapes, *, seed, dtype=torch.float64):
    draws = generator(seed)
    return [torch.randn(shape, generator=draws, dtype=torch.float64).to(dtype) for shape in shapes]


@given(shapes=shapes, weights=lerp_weights)
def test_every_average_moves_by_its_own_weight(shapes, weights):
    live = draw(shapes, seed=0)
    averages_mi = [draw(shapes, seed=1 + j) for j in range(len(weights))]
    expected_mi = [
        [m + w * (x - m) for m, x in zip(average, live, strict=True)]
        for w, average in zip(weights, averages_mi, strict=True)
    ]
    lerp_all(averages_mi, live, weights)
    torch.testing.assert_close(averages_mi, expected_mi, rtol=1e-12, atol=1e-12)


@given(shapes=shapes, weights=lerp_weights)
def test_a_bank_moves_as_its_members_would_alone_bit_for_bit(shapes, weights):
    live = draw(shapes, seed=0, dtype=torch.float32)
    bank = [draw(shapes, seed=1 + j, dtype=torch.float32) for j in range(len(weights))]
    alone = [[m.clone() for m in average] for average in bank]
    lerp_all(bank, live, weights)
    for average, w in zip(alone, weights, strict=True):
        for m, x in zip(average, live, strict=True):
            lerp_all([[m]], [x], [w])
    for got, expected in zip(bank, alone, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@given(shapes=shapes)
def test_weight_zero_keeps_and_weight_one_takes_every_bit(shapes):
    live = draw(shapes, seed=0, dtype=torch.float32)
    kept, taken = (draw(shapes, seed=s, dtype=torch.float32) for s in (1, 2))
    before = [m.clone() for m in kept]
    lerp_all([kept, taken], live, [0.0, 1.0])
    assert all(torch.equal(m, x) for m, x in zip(kept, before, strict=True))
    assert all(torch.equal(m, x) for m, x in zip(taken, live, strict=True))


def test_live_tensors_are_read_only_and_never_shared():
    """C6: ignite's buffers share storage with the model's, so writing to one writes to both."""
    live = draw([[3], [2, 2]], seed=0)
    before = [x.clone() for x in live]
    average = [torch.zeros_like(x) for x in live]
    lerp_all([average], live, [1.0])
    for m in average:
        m.add_(1)
    assert all(torch.equal(x, b) for x, b in zip(live, before, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_move_a_float32_average(dtype):
    """C7: timm and torch raise here."""
    live = draw([[4], []], seed=0, dtype=dtype)
    average = [torch.ones(x.shape) for x in live]
    expected = [1 + 0.001 * (x.double() - 1) for x in live]
    lerp_all([average], live, [0.001])
    assert all(m.dtype == torch.float32 for m in average)
    torch.testing.assert_close(average, [x.float() for x in expected])


def test_dtypes_may_differ_within_one_bank():
    live = [torch.ones(2), torch.ones(2, dtype=torch.float64), torch.ones(2, dtype=torch.bfloat16)]
    average = [torch.zeros(2), torch.zeros(2, dtype=torch.float64), torch.zeros(2)]
    lerp_all([average], live, [0.25])
    assert all((m == 0.25).all() for m in average)


def test_complex_weights_are_averaged():
    average = [torch.zeros(2, dtype=torch.complex64)]
    lerp_all([average], [torch.full((2,), 1 + 2j)], [0.25])
    torch.testing.assert_close(average[0], torch.full((2,), 0.25 + 0.5j))


def test_memory_formats_may_differ():
    x = draw([[2, 3, 4, 4]], seed=0)[0]
    live = [x.to(memory_format=torch.channels_last), x[:, :, ::2], x.mT]
    average = [torch.zeros(t.shape, dtype=t.dtype) for t in live]
    lerp_all([average], live, [0.5])
    torch.testing.assert_close(average, [t / 2 for t in live])


def test_parameters_are_taken_without_a_graph():
    parameter = torch.nn.Parameter(torch.ones(2))
    average = [torch.zeros(2)]
    lerp_all([average], [parameter], [0.5])
    assert not average[0].requires_grad


def test_nothing_to_average_is_no_fault():
    lerp_all([[], []], [], [0.1, 0.2])
    lerp_all([], [torch.ones(2)], [])


# all_finite


@given(shapes=shapes)
def test_finite_tensors_are_finite(shapes):
    assert all_finite(draw(shapes, seed=0, dtype=torch.float32))


@given(
    size=st.integers(1, 50),
    place=st.integers(0, 49),
    value=st.sampled_from([torch.nan, torch.inf, -torch.inf]),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
def test_one_bad_value_anywhere_is_found(size, place, value, dtype):
    good, bad = draw([[size], [size]], seed=0, dtype=dtype)
    bad[place % size] = value
    assert all_finite([good])
    assert not all_finite([good, bad])


def test_opposite_infinities_do_not_cancel():
    assert not all_finite([torch.tensor([torch.inf, -torch.inf, 0.0])])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_huge_values_are_finite_although_their_sum_is_not(dtype):
    assert all_finite([torch.full((100,), torch.finfo(dtype).max, dtype=dtype)])


def test_complex_and_empty_tensors_are_judged():
    assert all_finite([])
    assert all_finite([torch.zeros(0), torch.ones(2, dtype=torch.complex64)])
    assert not all_finite([torch.tensor([complex(0, torch.inf)])])


@pytest.mark.parametrize("largest", [1e300, -1e300, torch.inf, torch.nan])
def test_float64_beyond_float32_is_finite_on_a_device_as_on_the_host(largest):
    tensors = [torch.ones(3), torch.tensor([0.0, largest], dtype=torch.float64)]
    assert bool(finite_flag(tensors)) is all_finite(tensors)


# finite_products


def seen_finite(x):
    pairs = kernels.halves_of(x)
    assert pairs is not None
    return kernels.finite_products(pairs)


SIZES = st.one_of(
    st.integers(1, 50),
    st.sampled_from([kernels.GRAIN - 1, 3 * kernels.GRAIN + 5, kernels.TILE, kernels.TILE + 3]),
)


@given(
    size=SIZES,
    place=st.integers(0, 10**6),
    value=st.sampled_from([torch.nan, torch.inf, -torch.inf]),
    other=st.sampled_from([0.0, -1.0, torch.inf]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_products_of_halves_find_what_a_look_at_every_value_finds(size, place, value, other, dtype):
    """Whatever a bad value is multiplied by, zero and another infinity included."""
    [x] = draw([[size]], seed=0, dtype=dtype)
    assert seen_finite(x)
    x.fill_(other if other != torch.inf else 1.0)
    x[place % size] = value
    if other == torch.inf:
        x[-1 - place % size] = -value
    assert not bool(torch.isfinite(x).all())
    assert not seen_finite(x)


@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    step=st.integers(1, 3),
    place=st.integers(0, 10**6),
)
def test_products_see_every_value_of_a_tensor_with_gaps(shape, step, place):
    whole = torch.ones(*shape[:-1], shape[-1] * step)
    x = whole[..., ::step].mT if len(shape) > 1 else whole[::step]
    assert seen_finite(x)
    at = torch.zeros_like(x, dtype=torch.bool).flatten()
    at[place % x.numel()] = True
    x.masked_fill_(at.reshape(x.shape), torch.nan)
    assert not seen_finite(x)


def test_what_cannot_be_multiplied_is_left_to_a_sum():
    """Half precision and complex numbers, and a column of a wide matrix."""
    odd = [torch.ones(3, dtype=torch.bfloat16), torch.ones(3, dtype=torch.complex64)]
    odd += [torch.ones(50, 50)[:, 0], torch.zeros(0)]
    assert [kernels.halves_of(x) for x in odd] == [None] * 4


def test_no_vector_of_a_small_tensor_is_divided_among_threads():
    for size in (1, kernels.GRAIN - 1, PACK):
        pairs = kernels.halves_of(torch.ones(size))
        assert max(len(a) for a, _ in pairs) < 8_192


# lerp_block


@given(
    count=st.integers(1, 5),
    n=st.sampled_from([1, 7, 16, 33, 1000, kernels.GRAIN, kernels.TILE + 3]),
    w=st.one_of(st.floats(0.0, 1.0), st.sampled_from([0.5, 0.4999999, 0.002])),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    packed=st.booleans(),
)
def test_numbers_columns_and_pieces_give_the_same_bits(count, n, w, dtype, packed):
    """One average by a number, several by a column, in whatever pieces: as one call for each."""
    x, m = draw([[n], [n]], seed=0, dtype=dtype)
    expected = m.clone().lerp_(x, torch.tensor(w, dtype=dtype))
    values_mn = m.repeat(count, 1)
    column = torch.full((count, 1), w, dtype=dtype)
    pieces = kernels.pieces_of(values_mn, x, packed=packed)
    kernels.lerp_block(pieces, w if count == 1 else column)
    assert all(torch.equal(row, expected) for row in values_mn)


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_a_pack_is_cut_so_that_torch_uses_no_threads(count):
    pieces = kernels.pieces_of(torch.zeros(count, 100_000), torch.zeros(100_000), packed=True)
    assert all(values.numel() < kernels.GRAIN for values, _ in pieces)
    assert sum(x.numel() for _, x in pieces) == 100_000
