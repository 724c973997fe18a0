"""Images on the device, as a run draws and normalises them."""

from dataclasses import replace

import pytest
import torch

from polyak.data.device_images import DeviceImages
from polyak.training.randomness import generator


def _batches(images: DeviceImages, *, order: int, draws: int):
    return list(
        images.batches(16, order=generator(order, "order"), draws=generator(draws, "draws"))
    )


def test_order_and_augmentation_are_drawn_apart(tiny, start):
    """The order decides which labels come, the draws only how the images look."""
    images = start(tiny).images
    first, redrawn = (_batches(images, order=0, draws=draws) for draws in (0, 1))
    for (x, labels), (y, same_labels) in zip(first, redrawn, strict=True):
        assert torch.equal(labels, same_labels)
        assert not torch.equal(x, y)


def test_images_are_normalised_and_channels_last(tiny, start):
    run = start(tiny)
    pixels_nchw = run.data.train_images_nchw
    ready_nchw = run.images.normalise(pixels_nchw)
    assert ready_nchw.mean().item() == pytest.approx(0, abs=1e-5)
    assert ready_nchw.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert ready_nchw.is_contiguous(memory_format=torch.channels_last)


def test_the_holdout_is_normalised_by_the_training_part(tiny, start):
    run = start(tiny)
    mean = run.data.train_images_nchw.double().mean() / 255
    assert run.data.normalisation.mean == pytest.approx((mean.item(),))
    other = start(replace(tiny, holdout=False)).data.normalisation
    assert other.mean != run.data.normalisation.mean
