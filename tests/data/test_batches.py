import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator

from polyak.data import augment, epoch_batches
from polyak.data.batches import crop_and_flip, draw_crops_and_flips
from polyak.errors import ConfigError


def one_by_one(images_bchw, corner_b2, mirrored_b, *, padding):
    """Each image pasted on its own black canvas, then cut out, then mirrored."""
    results = []
    _, c, h, w = images_bchw.shape
    for image, (top, left), mirrored in zip(images_bchw, corner_b2, mirrored_b, strict=True):
        canvas = torch.zeros(c, h + 2 * padding, w + 2 * padding, dtype=image.dtype)
        canvas[:, padding : padding + h, padding : padding + w] = image
        cut = canvas[:, top : top + h, left : left + w]
        results.append(cut.flip(-1) if mirrored else cut)
    return torch.stack(results)


@given(
    b=st.integers(1, 9),
    c=st.sampled_from([1, 3]),
    h=st.integers(1, 7),
    w=st.integers(1, 7),
    padding=st.integers(0, 4),
    flip=st.booleans(),
    dtype=st.sampled_from([torch.uint8, torch.float32]),
    seed=st.integers(0, 1000),
)
def test_the_batch_equals_image_by_image_on_the_same_draws(b, c, h, w, padding, flip, dtype, seed):
    generator = Generator().manual_seed(seed)
    images = torch.randint(0, 256, (b, c, h, w), generator=generator).to(dtype)
    state = generator.get_state()
    fast = augment(images, padding=padding, flip=flip, generator=generator)
    generator.set_state(state)
    draws = draw_crops_and_flips(b, padding=padding, flip=flip, generator=generator)
    assert fast.dtype == dtype
    assert torch.equal(fast, one_by_one(images, *draws, padding=padding))


def test_draws_reach_every_corner_and_both_sides_equally():
    corners, mirrored = draw_crops_and_flips(
        81_000, padding=4, flip=True, generator=Generator().manual_seed(0)
    )
    counts = (corners[:, 0] * 9 + corners[:, 1]).bincount(minlength=81)
    # Expected 1,000 each with a standard deviation of 31.
    assert len(counts) == 81
    assert bool(((counts - 1000).abs() < 5 * 31.5).all())
    assert abs(mirrored.double().mean().item() - 0.5) < 5 * 0.5 / 81_000**0.5


def test_images_of_one_batch_are_drawn_independently():
    images = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8).expand(200, 1, 8, 8)
    made = augment(images, padding=4, flip=True, generator=Generator().manual_seed(0))
    assert len({tuple(image.flatten().tolist()) for image in made}) > 80  # of 162


def test_without_padding_and_flip_images_stay():
    images = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    assert torch.equal(augment(images, padding=0, flip=False, generator=Generator()), images)


def test_padding_is_black():
    white = torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)
    corner = torch.tensor([[0, 0]])
    made = crop_and_flip(white, corner, torch.tensor([False]), padding=1)
    assert made[0, 0].tolist() == [[0, 0], [0, 255]]


def test_turning_flips_off_leaves_the_crops_as_they_were():
    """So that a run differs from another in nothing but the flips."""
    with_flips, without = (
        draw_crops_and_flips(50, padding=4, flip=flip, generator=Generator().manual_seed(7))
        for flip in (True, False)
    )
    assert torch.equal(with_flips[0], without[0])
    assert not without[1].any()


@given(n=st.integers(0, 200), size=st.integers(1, 64), seed=st.integers(0, 2**31))
def test_every_index_comes_once_an_epoch(n, size, seed):
    batches = list(epoch_batches(n, size, Generator().manual_seed(seed)))
    assert sorted(i for batch in batches for i in batch.tolist()) == list(range(n))
    assert all(len(batch) == size for batch in batches[:-1])
    assert not batches or 1 <= len(batches[-1]) <= size


def test_epochs_of_one_generator_differ_and_those_of_one_seed_agree():
    generator = Generator().manual_seed(3)
    first, second = (torch.cat(list(epoch_batches(100, 7, generator))) for _ in range(2))
    again = torch.cat(list(epoch_batches(100, 7, Generator().manual_seed(3))))
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def test_settings_outside_the_range_are_refused():
    with pytest.raises(ConfigError, match="batch_size is 0"):
        next(epoch_batches(4, 0, Generator()))
    with pytest.raises(ConfigError, match="crop_padding is -1"):
        draw_crops_and_flips(1, padding=-1, flip=True, generator=Generator())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_sees_the_draws_of_the_cpu():
    images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    on_cpu, on_gpu = (
        augment(images.to(device), padding=4, flip=True, generator=Generator().manual_seed(0))
        for device in ("cpu", "cuda")
    )
    assert torch.equal(on_cpu, on_gpu.cpu())
