from dataclasses import replace

import pytest
import torch

from polyak.data import DataSet, ImageSet
from polyak.errors import DataError


def test_take_gives_images_and_labels_in_the_asked_order(image_set):
    images = image_set(6)
    taken = images.take(torch.tensor([5, 0]))
    assert len(taken) == 2
    assert taken.labels_n.tolist() == [images.labels_n[5], images.labels_n[0]]
    assert torch.equal(taken.images_nchw, images.images_nchw[[5, 0]])


def test_all_faults_are_in_one_message():
    broken = ImageSet(
        images_nchw=torch.zeros(3, 1, 2, 2), labels_n=torch.zeros(2), classes=("a", "b")
    )
    with pytest.raises(DataError) as caught:
        broken.check("train")
    message = str(caught.value)
    assert "expected torch.uint8 (n, c, h, w)" in message
    assert "expected torch.int64 (n,)" in message
    assert "train has 3 images; expected 2" in message


@pytest.mark.parametrize("labels", [[0, 4], [-1, 0]])
def test_labels_outside_the_classes_are_refused(image_set, labels):
    images = replace(image_set(2), labels_n=torch.tensor(labels))
    with pytest.raises(DataError, match=r"labels are -?\d\.\.\d; expected 0\.\.3"):
        images.check("test")


def test_an_empty_class_is_a_fault_of_training_sets_only(image_set):
    images = image_set(3)  # of four classes
    images.check("test")
    with pytest.raises(DataError, match=r"no image of 1 classes \(class 3\)"):
        images.check("train", every_class=True)


def test_arrays_of_numpy_are_refused_by_name(pixels):
    images = ImageSet(images_nchw=pixels(1, 1, 2, 2), labels_n=torch.tensor([0]), classes=("a",))
    with pytest.raises(DataError, match=r"images are a numpy\.ndarray"):
        images.check("train")


def test_images_without_pixels_are_refused(image_set):
    with pytest.raises(DataError, match="at least one pixel"):
        image_set(4).take(torch.tensor([], dtype=torch.int64)).check("train")


def test_a_data_set_whose_parts_do_not_fit_names_both_faults(image_set):
    other = replace(image_set(8, channels=3), classes=("a", "b", "c", "d"))
    with pytest.raises(DataError) as caught:
        DataSet(train=image_set(8), test=other).check()
    assert "test has the classes a, b, c, …; expected those of train" in str(caught.value)
    assert "test has images of shape (3, 6, 6); expected train's (1, 6, 6)" in str(caught.value)


def test_class_names_that_come_twice_are_refused(image_set):
    with pytest.raises(DataError, match="no name twice"):
        replace(image_set(4), classes=("a", "a", "b", "c")).check("train")
