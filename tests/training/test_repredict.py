from dataclasses import replace

import pytest
import torch

from polyak.errors import DataError
from polyak.training.repredict import refuse_others


def test_images_of_the_same_classes_and_shape_are_taken(tiny, start):
    data = start(tiny).data
    refuse_others(data, data)


def test_classes_in_another_order_are_refused_by_the_first_that_differs(tiny, start):
    data = start(tiny).data
    zero, one, *rest = data.classes
    with pytest.raises(DataError, match="class 0 is '1'; expected '0', as in training"):
        refuse_others(data, replace(data, classes=(one, zero, *rest)))


def test_both_faults_are_named_at_once(tiny, start):
    data = start(tiny).data
    other = replace(
        data,
        classes=("even", "odd"),
        test_images_nchw=torch.zeros(4, 3, 16, 16, dtype=torch.uint8),
    )
    with pytest.raises(DataError, match=r"2 classes \(even, odd\).*3×16×16; expected 1×8×8"):
        refuse_others(data, other)
