import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Generator
from torch.utils.data import random_split

from polyak.data.labels import asymmetric_noise, split, stratified_order, symmetric_noise
from polyak.errors import ConfigError, DataError

sizes = st.integers(1, 300)
shares = st.floats(0, 1)
seeds = st.integers(0, 2**31)


@given(n=sizes, holdout=shares, seed=seeds)
def test_split_gives_every_index_once(n, holdout, seed):
    train, held = split(n, holdout=holdout, seed=seed)
    assert sorted([*train.tolist(), *held.tolist()]) == list(range(n))
    assert len(train) == round((1 - holdout) * n)


@given(n=st.integers(10, 300), holdout=st.floats(0.1, 0.9), seed=seeds)
@example(n=50_000, holdout=0.2, seed=42)
def test_split_is_that_of_random_split(n, holdout, seed):
    train, held = split(n, holdout=holdout, seed=seed)
    theirs = random_split(
        range(n), [len(train), len(held)], generator=Generator().manual_seed(seed)
    )
    assert [train.tolist(), held.tolist()] == [list(part.indices) for part in theirs]


@given(n=sizes, classes=st.integers(2, 20), rate=shares, seed=seeds)
def test_symmetric_noise_makes_exactly_the_asked_share_wrong(n, classes, rate, seed):
    clean = torch.arange(n) % classes
    generator = Generator().manual_seed(seed)
    noisy = symmetric_noise(clean, classes=classes, rate=rate, generator=generator)
    assert int((noisy != clean).sum()) == round(rate * n)
    assert bool(((noisy >= 0) & (noisy < classes)).all())
    assert torch.equal(clean, torch.arange(n) % classes)  # its input is as it was


def test_symmetric_noise_is_uniform_over_the_other_classes():
    n, classes = 30_000, 4
    clean = torch.full((n,), 2)
    noisy = symmetric_noise(clean, classes=classes, rate=1.0, generator=Generator().manual_seed(1))
    counts = noisy.bincount(minlength=classes)
    assert counts[2] == 0
    # Expected 10,000 each with a standard deviation of 82.
    assert bool(((counts[[0, 1, 3]] - n / 3).abs() < 5 * 82).all())


@given(n=sizes, classes=st.integers(2, 20), rate=shares, seed=seeds)
def test_asymmetric_noise_goes_to_the_next_class(n, classes, rate, seed):
    clean = torch.arange(n) % classes
    generator = Generator().manual_seed(seed)
    noisy = asymmetric_noise(clean, classes=classes, rate=rate, generator=generator)
    wrong = noisy != clean
    assert int(wrong.sum()) == round(rate * n)
    assert torch.equal(noisy[wrong], (clean[wrong] + 1) % classes)


@given(classes=st.integers(1, 12), each=st.integers(1, 20), seed=seeds, data=st.data())
def test_every_beginning_of_a_stratified_order_is_balanced(classes, each, seed, data):
    labels = torch.arange(classes * each) % classes
    order = stratified_order(labels, generator=Generator().manual_seed(seed))
    assert sorted(order.tolist()) == list(range(classes * each))
    n = data.draw(st.integers(0, classes * each))
    counts = labels[order[:n]].bincount(minlength=classes)
    assert int(counts.max() - counts.min()) <= 1


def test_a_stratified_order_keeps_unequal_shares():
    labels = torch.tensor([0] * 900 + [1] * 90 + [2] * 10)
    order = stratified_order(labels, generator=Generator().manual_seed(3))
    assert labels[order[:100]].bincount().tolist() == [90, 9, 1]


def test_rates_and_class_counts_outside_the_range_are_refused():
    labels = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ConfigError, match=r"noise\.rate is 1\.1"):
        symmetric_noise(labels, classes=2, rate=1.1, generator=Generator())
    with pytest.raises(DataError, match="expected at least 2"):
        asymmetric_noise(labels, classes=1, rate=0.1, generator=Generator())
    with pytest.raises(ConfigError, match=r"holdout is -0\.1"):
        split(4, holdout=-0.1, seed=0)


@pytest.mark.parametrize(("n", "classes"), [(1, 1), (40, 3), (997, 300), (5000, 10)])
def test_the_stratified_order_is_its_definition_written_out_class_by_class(n, classes):
    labels_n = torch.randint(0, classes, (n,), generator=Generator().manual_seed(n))
    shuffled = torch.randperm(n, generator=Generator().manual_seed(3)).tolist()
    place = {}
    for label in range(classes):
        members = [index for index in shuffled if labels_n[index] == label]
        place |= {index: (j + 0.5) / len(members) for j, index in enumerate(members)}
    expected = sorted(shuffled, key=lambda index: place[index])
    found = stratified_order(labels_n, generator=Generator().manual_seed(3))
    assert found.tolist() == expected
