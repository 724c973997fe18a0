import pytest

from polyak.data import DataConfig, NoiseConfig
from polyak.data.sources import NAMES
from polyak.errors import ConfigError
from polyak.study.paper.datasets import IMAGES, LABELS, PLACES, hints, parse_places, title_of


def test_a_source_may_hold_an_equals_sign():
    assert parse_places(["cifar10=data/a=b"]) == {"cifar10": "data/a=b"}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["cifar10"], "data is 'cifar10'; expected NAME=SOURCE with a name of cifar10, cifar100"),
        (["=x"], "expected NAME=SOURCE"),
        (["cifar10="], "expected NAME=SOURCE"),
        (["cifar1000n=x"], r"data is 'cifar1000n'; expected one of .* Did you mean 'cifar100n'\?"),
        (["cifar10=x", "cifar10=y"], "data 'cifar10' is given twice"),
    ],
)
def test_what_cannot_be_put_anywhere_is_refused(pairs, message):
    with pytest.raises(ConfigError, match=message):
        parse_places(pairs)


def test_places_are_sources_and_labels_have_images():
    assert set(IMAGES) <= set(NAMES)
    assert {place.images for place in LABELS.values()} <= set(IMAGES)
    assert set(PLACES) == {*IMAGES, *LABELS}


@pytest.mark.parametrize(
    ("source", "title"),
    [
        ("zh-plus/tiny-imagenet", "TinyImageNet"),
        ("data/tiny_imagenet", "TinyImageNet"),
        ("data/tiny-imagenet-200", "TinyImageNet"),
        ("data/tiny-imagenet-100", "tiny-imagenet-100"),
        ("fashion-mnist", "fashion-mnist"),
        ("my.py:load", "my"),
    ],
)
def test_only_a_source_of_the_papers_name_has_the_papers_name(source, title):
    assert title_of("tiny-imagenet", {"tiny-imagenet": source}) == title


def test_a_hint_says_what_to_give_for_what_is_missing():
    assert hints({})(DataConfig(source="cifar100")) == " Give it with --data cifar100=FOLDER."
    file = LABELS["cifar100n"].file
    noise = NoiseConfig(kind="file", file=file, key="noisy_label")
    assert hints({})(DataConfig(source="elsewhere", noise=noise)) == (
        " Give it with --data cifar100n=path/to/CIFAR-100_human.pt."
    )
    assert hints({})(DataConfig(source="elsewhere")) == ""


def test_a_hint_names_the_place_of_what_was_given():
    hint = hints({"cifar10": "/nope", "cifar100n": "labels.pt"})
    assert hint(DataConfig(source="/nope")) == " That is --data cifar10=/nope."
    noise = NoiseConfig(kind="file", file="labels.pt", key="noisy_label")
    assert (
        hint(DataConfig(source="cifar100", noise=noise)) == " That is --data cifar100n=labels.pt."
    )
