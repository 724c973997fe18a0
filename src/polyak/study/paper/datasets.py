"""The data sets that the paper's studies name, and what a user puts in their place."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from polyak.data import DataConfig
from polyak.data.config import name_of
from polyak.errors import ConfigError, unknown


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagePlace:
    """A data set of the paper."""

    title: str
    """As the paper calls it."""

    train_images: int
    test_images: int
    image_size: int
    """Height and width in pixels."""

    official: str | None = None
    """Name of the folder that its makers' archive unpacks to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelPlace:
    """A file of human labels for one of them."""

    images: str
    """Which."""

    title: str
    """As the paper calls the images with these labels."""

    file: str
    """The authors' file, looked for in the current folder."""

    key: str
    """Which labels of it."""


# Their names are sources of polyak.data too: what is read unless a user says otherwise.
IMAGES = {
    "cifar10": ImagePlace(title="CIFAR-10", train_images=50_000, test_images=10_000, image_size=32),
    "cifar100": ImagePlace(
        title="CIFAR-100", train_images=50_000, test_images=10_000, image_size=32
    ),
    "tiny-imagenet": ImagePlace(
        title="TinyImageNet",
        train_images=100_000,
        test_images=10_000,
        image_size=64,
        official="tiny-imagenet-200",
    ),
}

LABELS = {
    "cifar10n": LabelPlace(
        images="cifar10", title="CIFAR-10N(Worse)", file="CIFAR-10_human.pt", key="worse_label"
    ),
    "cifar100n": LabelPlace(
        images="cifar100", title="CIFAR-100N", file="CIFAR-100_human.pt", key="noisy_label"
    ),
}

PLACES = (*IMAGES, *LABELS)


def parse_places(pairs: Sequence[str]) -> dict[str, str]:
    """What to put in which place, from texts `NAME=SOURCE`.

    Raises:
        ConfigError: for a text without both, a name twice, or an unknown name, with the choices.

    Example:
        >>> parse_places(["cifar100=data/cifar100", "cifar10=fashion-mnist"])
        {'cifar100': 'data/cifar100', 'cifar10': 'fashion-mnist'}
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, _, source = pair.partition("=")
        if not name or not source:
            raise ConfigError(
                f"data is {pair!r}; expected NAME=SOURCE with a name of {', '.join(PLACES)}."
            )
        if name not in PLACES:
            raise ConfigError(unknown("data", name, PLACES))
        if name in found:
            raise ConfigError(f"data {name!r} is given twice; expected it once.")
        found[name] = source
    return found


def title_of(place: str, given: Mapping[str, str]) -> str:
    """What to call the data in a place of `IMAGES`.

    The paper's name where nothing was put there, or a source that has this name or the one its
    makers gave it: its numbers stand beside no other data.

    Example:
        >>> title_of("cifar10", {"cifar10": "data/CIFAR-10"})
        'CIFAR-10'
        >>> title_of("cifar10", {"cifar10": "data/cifar10-jpeg"})
        'cifar10-jpeg'
    """
    title, official = IMAGES[place].title, IMAGES[place].official
    name = name_of(given[place]) if place in given else title
    return title if name == official or _letters(name) == _letters(title) else name


def own_data(places: Sequence[str], given: Mapping[str, str]) -> tuple[str, ...]:
    """Names of the data that stands in the paper's place, for the name of the study's folder.

    Example:
        >>> own_data(["cifar100", "cifar10"], {"cifar10": "data/JPEGs", "cifar100": "cifar100"})
        ('jpegs',)
    """
    titles = {place: title_of(place, given) for place in places}
    found = [title for place, title in titles.items() if title != IMAGES[place].title]
    words = ("".join(c if c.isalnum() else "-" for c in t.casefold()).strip("-") for t in found)
    return tuple(dict.fromkeys(words))


def hints(given: Mapping[str, str]) -> Callable[[DataConfig], str]:
    """What to add to the message where a configuration's source, or file of labels, is missing.

    Args:
        given: What a user put in which place.

    Example:
        >>> hints({})(DataConfig(source="cifar10"))
        ' Give it with --data cifar10=FOLDER.'
        >>> hints({"cifar10": "/nope"})(DataConfig(source="/nope"))
        ' That is --data cifar10=/nope.'
    """

    def hint(config: DataConfig) -> str:
        for name, source in given.items():
            if source in (config.source, config.noise.file):
                return f" That is --data {name}={source}."
        for name, place in LABELS.items():
            if config.noise.file == place.file:
                return f" Give it with --data {name}=path/to/{place.file}."
        if config.source in IMAGES and config.noise.file is None:
            return f" Give it with --data {config.source}=FOLDER."
        return ""

    return hint


def _letters(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())
