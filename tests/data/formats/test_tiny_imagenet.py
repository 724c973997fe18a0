import shutil

import numpy as np
import pytest
import torch
from support.decoded import decoded

from polyak.data import DataConfig
from polyak.data.sources import find
from polyak.errors import DataError


def test_tiny_imagenets_validation_split_is_the_test_set(tiny_imagenet_folder, pixels):
    train, test = decoded(tiny_imagenet_folder)
    assert train.classes == ("n01443537", "n01629819")
    assert train.images_nchw.shape == (6, 3, 64, 64)  # the grey picture became RGB
    assert train.labels_n.tolist() == [0, 0, 0, 1, 1, 1]
    assert train.images_nchw.float().mean((1, 2, 3)).tolist() == pytest.approx(
        [0, 10, 20, 40, 50, 60], abs=1
    )
    # val_0 belongs to the second class: labels come from the annotations, not from an order.
    assert test.labels_n.tolist() == [1, 0]
    noise = torch.from_numpy(np.stack([pixels(64, 64, 3, seed=s) for s in (1, 0)]))
    near = (test.images_nchw.float() - noise.permute(0, 3, 1, 2)).abs().mean((1, 2, 3))
    crossed = (test.images_nchw.flip(0).float() - noise.permute(0, 3, 1, 2)).abs().mean((1, 2, 3))
    assert bool((near < crossed).all())


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        (lambda f: (f / "val" / "val_annotations.txt").unlink(), "not a complete Tiny-ImageNet"),
        (lambda f: shutil.rmtree(f / "val" / "images"), "not a complete Tiny-ImageNet"),
        (lambda f: (f / "val" / "images" / "val_0.JPEG").unlink(),
         r"disagree on 1 images \(val/images/val_0.JPEG\)"),
        (lambda f: (f / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn9\t0\n"),
         "'n9'; expected a class of train"),
    ],
)  # fmt: skip
def test_an_incomplete_tiny_imagenet_is_refused(tiny_imagenet_folder, change, phrase):
    change(tiny_imagenet_folder)
    with pytest.raises(DataError, match=phrase):
        decoded(tiny_imagenet_folder)


def test_class_folders_that_hold_a_folder_called_images_are_no_tiny_imagenet(tmp_path, write_image):
    for split in ("train", "test"):
        write_image(tmp_path / split / "cat" / "images" / "0.png", np.zeros((2, 2), np.uint8))
    with pytest.raises(
        DataError, match=r"pictures in folders inside class folders \(cat/images; 1 in all"
    ):
        find(DataConfig(source=str(tmp_path)))
