"""Only the images that limits keep are decoded, and runs see the same as if all were."""

import os
from dataclasses import fields, replace

import PIL.Image
import pytest
import torch

from polyak.data import DataConfig, ImageSet, load, partition, prepare
from polyak.data.cache import cache_root
from polyak.data.config import EVERYTHING, Limits
from polyak.errors import DataError


@pytest.fixture
def pictures(tmp_path, pixels):
    """Writes a class folder of coloured pictures, four classes that take turns."""

    def write(**splits):
        for seed, (split, n) in enumerate(splits.items()):
            for i, image in enumerate(pixels(n, 8, 8, 3, seed=seed)):
                folder = tmp_path / "set" / split / f"class {i % 4}"
                folder.mkdir(parents=True, exist_ok=True)
                PIL.Image.fromarray(image).save(folder / f"{i:03}.png")
        return DataConfig(source=str(tmp_path / "set"), train_limit=32, test_limit=8)

    return write


def decoded(config):
    """What is decoded, and the prepared configuration."""
    seen = [(0, 0)]
    prepared = prepare(config, on_decoded=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    return seen[-1][0], prepared


def equal(one, other):
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, field.name


@pytest.mark.parametrize(
    ("splits", "settings"),
    [
        ({"train": 60, "test": 20}, {}),
        ({"train": 80}, {"test_split": 0.25}),
        ({"train": 60, "val": 16, "test": 20}, {}),
        ({"train": 60, "test": 20}, {"resize": 6}),
    ],
    ids=["test set", "test split", "own hold-out", "resized"],
)
def test_what_limits_keep_is_what_it_is_of_the_whole(pictures, monkeypatch, splits, settings):
    config = replace(pictures(**splits), **settings)
    count, prepared = decoded(config)
    assert count == config.train_limit + config.test_limit
    holdout = "val" not in splits
    some = partition(load(prepared), prepared, holdout=holdout)
    monkeypatch.setenv("POLYAK_CACHE", os.environ["POLYAK_CACHE"] + "-whole")
    count, whole = decoded(config.images_only())
    assert count == sum(splits.values())
    assert whole.fingerprint == prepared.fingerprint
    equal(some, partition(load(prepared), prepared, holdout=holdout))


def test_the_fingerprint_and_later_limits_are_served_by_what_is_there(pictures):
    config = pictures(train=60, test=20)
    first, prepared = decoded(config)
    assert first == 40
    smaller = replace(config, train_limit=20, test_limit=4)
    assert decoded(smaller) == (0, replace(smaller, fingerprint=prepared.fingerprint))
    assert decoded(replace(config, train_limit=40))[0] == 48
    assert decoded(replace(config, train_limit=None))[0] == 68
    assert decoded(config.images_only())[0] == 80
    assert decoded(replace(config, train_limit=50, test_limit=None))[0] == 0


def test_a_limit_above_what_is_there_keeps_all_of_it(pictures):
    config = replace(pictures(train=60, test=20), train_limit=500)
    assert decoded(config)[0] == 68
    assert decoded(replace(config, train_limit=None))[0] == 0


def test_grey_pictures_are_all_decoded_since_one_may_be_coloured(pictures, tmp_path):
    config = pictures(train=60, test=20)
    for path in sorted((tmp_path / "set").rglob("*.png"))[1:]:
        PIL.Image.open(path).convert("L").save(path)
    train = load(decoded(config)[1]).train
    assert train.images_nchw.shape == (60, 3, 8, 8)


def test_a_damaged_part_is_replaced(pictures):
    config = pictures(train=60, test=20)
    _, prepared = decoded(config)
    [file] = (cache_root() / "data").rglob("train_images.npy")
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    assert decoded(replace(prepared, train_limit=20))[0] == 40
    assert len(list((cache_root() / "data").iterdir())) == 1


def test_an_image_beyond_the_limits_is_refused(pictures):
    _, prepared = decoded(pictures(train=60, test=20))
    train = load(prepared).train
    assert len(train) == 60
    with pytest.raises(DataError, match="28 of 60 images are not decoded; expected all"):
        train.images_at(torch.arange(60))


@pytest.mark.parametrize("seed", range(3))
def test_a_part_of_a_part_is_that_part_of_the_whole(image_set, seed):
    whole = image_set(20)
    draws = torch.Generator().manual_seed(seed)
    places_n = torch.randperm(20, generator=draws)[:9].sort().values
    part = replace(whole, images_nchw=whole.images_nchw[places_n], places_n=places_n)
    indices = torch.randperm(20, generator=draws)[:12]
    taken: ImageSet = part.take(indices)
    taken.check("part")
    assert torch.equal(taken.labels_n, whole.labels_n[indices])
    there = torch.isin(indices, places_n)
    assert torch.equal(
        taken.images_at(there.nonzero().flatten()), whole.images_nchw[indices[there]]
    )


@pytest.mark.parametrize(
    ("own", "asked", "covers"),
    [
        (EVERYTHING, Limits(3, None), True),
        (Limits(3, 3), EVERYTHING, False),
        (Limits(3, 3), Limits(3, 2), True),
        (Limits(3, 3), Limits(2, None), False),
        (Limits(None, 3), Limits(5, 3), True),
    ],
)
def test_larger_limits_cover_smaller_ones(own, asked, covers):
    assert own.covers(asked) is covers
