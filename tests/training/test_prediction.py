from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from polyak.errors import NonFiniteError
from polyak.models import resnet8
from polyak.training.prediction import (
    EVALUATION_BATCH,
    Augmentation,
    memory_format_for,
    predict,
    score,
)
from polyak.training.randomness import generator


def test_predictions_do_not_depend_on_the_batch():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Dropout(0.9))
    images_nchw = torch.randn(2 * EVALUATION_BATCH + 3, 1, 2, 2)
    one_by_one = torch.cat([model.eval()(x[None]) for x in images_nchw]).detach()
    logits_nk = predict(model.train(), images_nchw)
    assert torch.allclose(logits_nk, one_by_one, atol=1e-6)
    assert not logits_nk.requires_grad
    assert not logits_nk.is_inference()


def test_predicting_changes_no_flag_and_no_statistic():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    model[1].eval()
    before = {key: x.clone() for key, x in model.state_dict().items()}
    predict(model, torch.randn(5, 1, 2, 2))
    assert [module.training for module in model] == [True, False, True, True]
    assert all(torch.equal(before[key], x) for key, x in model.state_dict().items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_refused(value):
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.bias[0] = value
    with pytest.raises(NonFiniteError, match=r"the logits hold NaN or infinity; .*Lower"):
        predict(model, torch.zeros(3, 2))
    assert model.training


def test_a_score_is_mean_cross_entropy_and_the_share_that_is_right():
    logits_nk, labels_n = torch.randn(50, 4), torch.randint(4, (50,))
    found = score(logits_nk, labels_n)
    assert found.loss == pytest.approx(F.cross_entropy(logits_nk, labels_n).item(), rel=1e-5)
    right = sum(int(x.argmax()) == y for x, y in zip(logits_nk, labels_n.tolist(), strict=True))
    assert found.accuracy == right / 50


def _batches(augmentation: Augmentation, *, order: int, draws: int):
    return list(
        augmentation.batches(16, order=generator(order, "order"), draws=generator(draws, "draws"))
    )


def test_order_and_augmentation_are_drawn_apart(tiny, start):
    """The order decides which labels come, the draws only how the images look."""
    augmentation = start(tiny).augmentation
    first, redrawn = (_batches(augmentation, order=0, draws=draws) for draws in (0, 1))
    for (x, labels), (y, same_labels) in zip(first, redrawn, strict=True):
        assert torch.equal(labels, same_labels)
        assert not torch.equal(x, y)


def test_ready_images_are_normalised_and_channels_last(tiny, start):
    run = start(tiny)
    pixels_nchw = run.data.train_images_nchw
    ready_nchw = run.augmentation.ready(pixels_nchw)
    assert ready_nchw.mean().item() == pytest.approx(0, abs=1e-5)
    assert ready_nchw.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert ready_nchw.is_contiguous(memory_format=torch.channels_last)


def test_the_holdout_is_normalised_by_the_training_part(tiny, start):
    run = start(tiny)
    mean = run.data.train_images_nchw.double().mean() / 255
    assert run.data.normalisation.mean == pytest.approx((mean.item(),))
    other = start(replace(tiny, holdout=False)).data.normalisation
    assert other.mean != run.data.normalisation.mean


@pytest.mark.parametrize(
    ("width", "size", "expected"),
    [
        (4, 64, torch.contiguous_format),
        (8, 64, torch.contiguous_format),
        (16, 64, torch.channels_last),
        (4, 32, torch.channels_last),
    ],
)
def test_narrow_networks_on_large_images_keep_the_plain_layout(width, size, expected):
    """In channels last they crashed; see `memory_format_for`."""
    model = resnet8(classes=2, channels=3, width=width)
    found = memory_format_for(model, image_size=size, device=torch.device("cpu"))
    assert found == expected
