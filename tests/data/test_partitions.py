from dataclasses import replace

import pytest
import torch

from polyak.data import DataConfig, DataSet, NoiseConfig, partition
from polyak.data.labels import split
from polyak.errors import ConfigError, DataError

SYMMETRIC = NoiseConfig(kind="symmetric", rate=0.4)


@pytest.fixture
def dataset(image_set):
    return DataSet(train=image_set(100), test=image_set(40, seed=1), fingerprint="f" * 64)


def test_without_hold_out_everything_trains(dataset):
    made = partition(dataset, DataConfig(), holdout=False)
    assert made.holdout_images_nchw is made.holdout_given_n is made.holdout_clean_n is None
    assert made.train_index_n.tolist() == list(range(100))
    # The memory-mapped array itself, no copy.
    assert made.train_images_nchw.data_ptr() == dataset.train.images_nchw.data_ptr()
    assert made.test_images_nchw.data_ptr() == dataset.test.images_nchw.data_ptr()


def test_the_parts_hold_every_image_once_with_its_own_label(dataset):
    made = partition(dataset, DataConfig(), holdout=True)
    train, held = split(100, holdout=0.2, seed=42)
    for index, images, given, clean, expected in (
        (made.train_index_n, made.train_images_nchw, made.train_given_n, made.train_clean_n, train),
        (made.holdout_index_n, made.holdout_images_nchw, made.holdout_given_n,
         made.holdout_clean_n, held),
    ):  # fmt: skip
        assert torch.equal(index, expected)
        assert torch.equal(images, dataset.train.images_nchw[expected])
        assert torch.equal(given, dataset.train.labels_n[expected])
        assert torch.equal(clean, dataset.train.labels_n[expected])


def test_noise_is_the_same_with_and_without_hold_out_and_limit(dataset):
    config = DataConfig(noise=SYMMETRIC)
    whole = partition(dataset, config, holdout=False)
    assert int((whole.train_given_n != whole.train_clean_n).sum()) == 40
    for made in (
        partition(dataset, config, holdout=True),
        partition(dataset, replace(config, train_limit=60), holdout=True),
    ):
        assert torch.equal(made.train_given_n, whole.train_given_n[made.train_index_n])
        assert torch.equal(made.holdout_given_n, whole.train_given_n[made.holdout_index_n])
        assert torch.equal(made.holdout_clean_n, dataset.train.labels_n[made.holdout_index_n])


def test_noise_and_split_of_one_seed_share_no_draw(image_set):
    """With one permutation for both, all wrong labels would fall on the training part."""
    dataset = DataSet(train=image_set(2000), test=image_set(4))
    config = DataConfig(split_seed=7, noise=replace(SYMMETRIC, seed=7))
    made = partition(dataset, config, holdout=True)
    wrong = (made.holdout_given_n != made.holdout_clean_n).double().mean().item()
    assert 0.3 < wrong < 0.5  # 400 images: a standard deviation of 0.022


def test_test_labels_stay_clean_and_limits_keep_classes_balanced(dataset):
    config = DataConfig(noise=SYMMETRIC, train_limit=40, test_limit=20)
    made = partition(dataset, config, holdout=True)
    assert len(made.train_given_n) + len(made.holdout_given_n) == 40
    both = torch.cat([made.train_clean_n, made.holdout_clean_n])
    assert both.bincount().tolist() == [10] * 4
    assert made.test_labels_n.bincount().tolist() == [5] * 4
    for image, label in zip(made.test_images_nchw, made.test_labels_n, strict=True):
        place = (dataset.test.images_nchw == image).flatten(1).all(1).nonzero()
        assert dataset.test.labels_n[place] == label


def test_a_smaller_limit_is_a_subset_of_a_larger_one(dataset):
    kept = [
        set(partition(dataset, DataConfig(train_limit=n), holdout=False).train_index_n.tolist())
        for n in (20, 50)
    ]
    assert kept[0] < kept[1]


def test_asymmetric_noise_is_used(dataset):
    noise = NoiseConfig(kind="asymmetric", rate=0.3)
    made = partition(dataset, DataConfig(noise=noise), holdout=False)
    wrong = made.train_given_n != made.train_clean_n
    assert int(wrong.sum()) == 30
    assert torch.equal(made.train_given_n[wrong], (made.train_clean_n[wrong] + 1) % 4)


def test_normalisation_is_of_the_training_part(dataset):
    made = partition(dataset, DataConfig(holdout=0.5), holdout=True)
    expected = made.train_images_nchw.double().mean().item() / 255
    assert made.normalisation.mean[0] == pytest.approx(expected, abs=1e-9)
    whole = partition(dataset, DataConfig(), holdout=False).normalisation
    assert made.normalisation != whole


def test_all_faulty_settings_come_in_one_message(dataset):
    config = DataConfig(
        holdout=1.0, train_limit=101, test_limit=41, fingerprint="e" * 64, crop_padding=-1
    )
    with pytest.raises(ConfigError) as caught:
        partition(dataset, config, holdout=True)
    for phrase in (
        "holdout is 1.0",
        "train_limit is 101; expected at most 100",
        "test_limit is 41",
        "expected the data set's",
        "crop_padding is -1",
    ):
        assert phrase in str(caught.value)


def test_a_small_hold_out_and_an_empty_class_come_in_one_message(dataset):
    config = DataConfig(holdout=0.5, train_limit=4)
    with pytest.raises(DataError) as caught:
        partition(dataset, config, holdout=True)
    assert "the hold-out has 2 images; expected at least 4" in str(caught.value)
    assert "no image of 2 classes by its clean labels" in str(caught.value)
    assert "no image of 2 classes by its given labels" in str(caught.value)


def test_the_callers_labels_are_never_changed(dataset):
    before = dataset.train.labels_n.clone()
    partition(dataset, DataConfig(noise=SYMMETRIC), holdout=True)
    assert torch.equal(dataset.train.labels_n, before)


def test_a_sources_own_holdout_is_the_holdout_and_trains_in_a_refit(dataset):
    own = replace(dataset, holdout_images=30)
    made = partition(own, DataConfig(), holdout=True)
    assert made.train_index_n.tolist() == list(range(70))
    assert made.holdout_index_n.tolist() == list(range(70, 100))
    assert partition(own, DataConfig(), holdout=False).train_index_n.tolist() == list(range(100))
    limited = partition(own, DataConfig(train_limit=40), holdout=True)
    assert len(limited.train_index_n) + len(limited.holdout_index_n) == 40
    assert int(limited.train_index_n.max()) < 70 <= int(limited.holdout_index_n.min())


def test_noise_falls_on_a_sources_own_holdout_too(dataset):
    own = replace(dataset, holdout_images=50)
    made = partition(own, DataConfig(noise=SYMMETRIC), holdout=True)
    assert bool((made.holdout_given_n != made.holdout_clean_n).any())
