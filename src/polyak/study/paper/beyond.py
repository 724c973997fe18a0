"""What the studies beyond the paper have in common: sizes, data, and the words of their claims."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from polyak.data import DataConfig, NoiseConfig
from polyak.errors import ConfigError, unknown
from polyak.records.claims import Claim, Comparison
from polyak.study.fitting import scaled_decays, updates
from polyak.study.paper.datasets import LABELS, own_data
from polyak.study.plan import Row, Study
from polyak.training.config import AveragingConfig

PLACES = ("cifar10", "cifar10n")
"""Where a user may put data."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """How large a study is."""

    images: int
    """To train on, hold-out included."""

    epochs: int
    warmup_epochs: float
    batch_size: int
    every: int
    seeds: tuple[int, ...]
    test_limit: int | None = None

    def averages(self) -> AveragingConfig:
        """Windows whose mean age is 0.6, 1.3, 2.6, 5.1 and 10 % of the run, as the paper's are."""
        length = updates(
            self.images, batch_size=self.batch_size, epochs=self.epochs, every=self.every
        )
        return AveragingConfig(decays=scaled_decays(length), every=self.every)

    def data(self, given: Mapping[str, str], *, wrong: bool = False) -> DataConfig:
        """CIFAR-10, or what stands in its place; with human labels, many of them wrong."""
        labels = LABELS["cifar10n"]
        file = given.get("cifar10n", labels.file)
        return DataConfig(
            source=given.get("cifar10", "cifar10"),
            train_limit=self.images,
            test_limit=self.test_limit,
            noise=NoiseConfig(kind="file", file=file, key=labels.key) if wrong else NoiseConfig(),
        )


SIZES = {
    "small": Size(
        images=8_000, epochs=25, warmup_epochs=3, batch_size=64, every=2, seeds=(0, 1, 2, 3, 4)
    ),
    "tiny": Size(
        images=500,
        epochs=2,
        warmup_epochs=1,
        batch_size=8,
        every=1,
        seeds=(0, 1, 2),
        test_limit=200,
    ),
}


def sized(name: str, scale: str | None, given: Mapping[str, str]) -> Size:
    """The size of a study.

    Raises:
        ConfigError: for a scale or a place of data that it does not have.
    """
    if scale not in SIZES:
        raise ConfigError(unknown("scale", scale or "", SIZES) + " Give it with --scale.")
    strange = [place for place in given if place not in PLACES]
    if strange:
        raise ConfigError(unknown(f"data of {name}", strange[0], PLACES))
    return SIZES[scale]


def study_of(
    name: str,
    scale: str,
    given: Mapping[str, str],
    *,
    title: str,
    hours: str,
    rows: Iterable[Row],
    claims: Iterable[Claim],
) -> Study:
    """A study of a scale, which takes so many hours at `small`."""
    return Study(
        name="-".join((name, scale, *own_data(("cifar10",), given))),
        title=f"{title}, scale {scale}",
        cost=f"{hours} on one core" if scale == "small" else "minutes",
        rows=tuple(rows),
        preset=name,
        scale=scale,
        source=" ".join(f"{place}={given[place]}" for place in sorted(given)) or None,
        claims=tuple(claims),
    )


def claim(name: str, sentence: str, *comparisons: Comparison) -> Claim:
    """A claim about all seeds."""
    return Claim(id=name, sentence=sentence, comparisons=comparisons)


def points(row: str, arm: str, against: str, **terms: Any) -> Comparison:
    """Accuracies, in points: above 0 unless said otherwise."""
    usual: dict[str, Any] = {"metric": "accuracy", "side": "above", "bound": 0.0}
    return Comparison(row=row, arm=arm, against=against, unit="points", **usual | terms)


def nats(row: str, arm: str, against: str, **terms: Any) -> Comparison:
    """Losses, in nats: below 0 unless said otherwise."""
    usual: dict[str, Any] = {"metric": "loss", "side": "below", "bound": 0.0}
    return Comparison(row=row, arm=arm, against=against, unit="nats", **usual | terms)


def early_lead(row: str) -> Claim:
    """The average leads at a tenth and at a quarter of the run."""
    return claim(
        "early-lead",
        "The best average leads at 10 and 25 % of the run.",
        *(points(row, "best average", "sgd", phase="search", at=share) for share in (0.1, 0.25)),
    )
