"""The rows of the paper's tables: which data, which network, and what a scale makes of them."""

from collections.abc import Mapping
from dataclasses import dataclass

from polyak.data import DataConfig, NoiseConfig
from polyak.models import ModelConfig
from polyak.records.vocabulary import Monitor
from polyak.study.fitting import fit_decays, updates
from polyak.study.paper.datasets import IMAGES, LABELS, title_of
from polyak.study.paper.scales import SCALES, Scale, Training
from polyak.study.plan import Row
from polyak.training.config import PAPER_DECAYS, AveragingConfig, OptimConfig, RunConfig

ARCHITECTURES = {
    "resnet8": "ResNet-8",
    "resnet20": "ResNet-20",
    "resnet18": "ResNet-18",
    "resnet34": "ResNet-34",
    "vgg16": "VGG-16",
    "wrn28_10": "WRN-28-10",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperRow:
    """A data set and a network of the paper."""

    images: str
    """Place of the images, in `IMAGES`."""

    labels: str | None = None
    """Place of wrong labels for them, in `LABELS`."""

    search_monitors: tuple[Monitor, ...] = ()
    """Of all studies that have the row, so that they share its runs."""


PAPER_ROWS = {
    "cifar100-resnet18": PaperRow(images="cifar100"),
    "cifar100-vgg16": PaperRow(images="cifar100"),
    "cifar100-wrn28_10": PaperRow(images="cifar100"),
    "cifar10-resnet18": PaperRow(images="cifar10"),
    "tiny-imagenet-resnet18": PaperRow(images="tiny-imagenet"),
    "cifar10n-resnet34": PaperRow(images="cifar10", labels="cifar10n"),
    # Figure 2 needs the monitor; that table 2 has it too costs less than training twice.
    "cifar100n-resnet34": PaperRow(
        images="cifar100", labels="cifar100n", search_monitors=("test",)
    ),
}


GENERALISATION = (
    "cifar100-resnet18",
    "cifar100-vgg16",
    "cifar100-wrn28_10",
    "cifar10-resnet18",
    "tiny-imagenet-resnet18",
)
LABEL_NOISE = ("cifar10n-resnet34", "cifar100n-resnet34")


def paper_row(name: str, scale: Scale, given: Mapping[str, str]) -> Row:
    """A row at a scale, with what a user put in its data's place."""
    paper, training = PAPER_ROWS[name], scale.trainings[name]
    dataset = _dataset(paper, given)
    architecture = architecture_name(training.model)
    row = Row(
        label=", ".join(
            (
                _standing_for(dataset, _dataset(paper, {})),
                _standing_for(architecture, architecture_name(_published(name).model)),
            )
        ),
        dataset=dataset,
        architecture=architecture,
        config=RunConfig(
            data=_data(paper, scale, given, train_limit=training.train_limit),
            model=training.model,
            optim=OptimConfig(
                weight_decay=training.weight_decay, warmup_epochs=scale.warmup_epochs
            ),
            averaging=AveragingConfig(every=scale.every),
            epochs=training.epochs,
            batch_size=scale.batch_size,
        ),
        learning_rates=training.learning_rates,
        seeds=scale.seeds,
        paper_decays=PAPER_DECAYS,
        paper_updates=None if scale is SCALES["paper"] else papers_updates(name),
        search_monitors=paper.search_monitors,
    )
    return fit_decays(row, train_images=IMAGES[paper.images].train_images)


def target(place: str, scale: Scale, given: Mapping[str, str]) -> DataConfig:
    """A target of the linear probe: clean labels, as many images as its own row has."""
    training = next(
        scale.trainings[name]
        for name, row in PAPER_ROWS.items()
        if row.images == place and row.labels is None
    )
    return DataConfig(
        source=given.get(place, place),
        train_limit=training.train_limit,
        test_limit=scale.test_limit,
    )


def architecture_name(model: ModelConfig) -> str:
    """A network as tables call it.

    Example:
        >>> architecture_name(ModelConfig(name="resnet8", width=4))
        'ResNet-8 of width 4'
    """
    name = ARCHITECTURES[model.name]
    return name if model.width in (None, 16) else f"{name} of width {model.width}"


def _published(name: str) -> Training:
    return SCALES["paper"].trainings[name]


def papers_updates(name: str) -> int:
    """Updates of the averages in the paper's run of a row, of all training images."""
    paper = SCALES["paper"]
    return updates(
        IMAGES[PAPER_ROWS[name].images].train_images,
        batch_size=paper.batch_size,
        epochs=_published(name).epochs,
        every=paper.every,
    )


def _data(
    row: PaperRow, scale: Scale, given: Mapping[str, str], *, train_limit: int | None
) -> DataConfig:
    noise = NoiseConfig()
    if row.labels is not None:
        place = LABELS[row.labels]
        file = given.get(row.labels, place.file)
        noise = NoiseConfig(kind="file", file=file, key=place.key)
    return DataConfig(
        source=given.get(row.images, row.images),
        train_limit=train_limit,
        test_limit=scale.test_limit,
        noise=noise,
    )


def _dataset(row: PaperRow, given: Mapping[str, str]) -> str:
    images = title_of(row.images, given)
    if row.labels is None:
        return images
    place = LABELS[row.labels]
    # The file is accepted only beside the images that it was made for, whatever they are called.
    return place.title if images == IMAGES[row.images].title else f"{images}, {place.key}"


def _standing_for(ours: str, papers: str) -> str:
    return ours if ours == papers else f"{ours} for {papers}"
