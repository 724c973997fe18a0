"""Sizes and data of the studies beyond the paper, and how one is made of rows."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from polyak.data import DataConfig, NoiseConfig
from polyak.errors import ConfigError, unknown
from polyak.records.claims import Claim
from polyak.study.fitting import scaled_decays, updates
from polyak.study.paper.datasets import LABELS, own_data
from polyak.study.plan import Row, Study
from polyak.training.config import AveragingConfig

PLACES = ("cifar10", "cifar10n")
"""Where a user may put data."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """How large a part of a study is."""

    train_limit: int
    """Images, or windows of text, to train on, hold-out included."""

    epochs: int
    warmup_epochs: float
    batch_size: int
    every: int
    seeds: tuple[int, ...]
    test_limit: int | None = None

    def averages(self) -> AveragingConfig:
        """Windows whose mean age is 0.6, 1.3, 2.6, 5.1 and 10 % of the run, as the paper's are."""
        length = updates(
            self.train_limit, batch_size=self.batch_size, epochs=self.epochs, every=self.every
        )
        return AveragingConfig(decays=scaled_decays(length), every=self.every)

    def data(self, given: Mapping[str, str], *, wrong: bool = False) -> DataConfig:
        """CIFAR-10, or what stands in its place; with human labels, many of them wrong."""
        labels = LABELS["cifar10n"]
        file = given.get("cifar10n", labels.file)
        return DataConfig(
            source=given.get("cifar10", "cifar10"),
            train_limit=self.train_limit,
            test_limit=self.test_limit,
            noise=NoiseConfig(kind="file", file=file, key=labels.key) if wrong else NoiseConfig(),
        )


IMAGES = {
    "small": Size(
        train_limit=8_000,
        epochs=25,
        warmup_epochs=3,
        batch_size=64,
        every=2,
        seeds=(0, 1, 2, 3, 4),
    ),
    "tiny": Size(
        train_limit=500,
        epochs=2,
        warmup_epochs=1,
        batch_size=8,
        every=1,
        seeds=(0, 1, 2),
        test_limit=200,
    ),
}
"""By scale."""
TEXT = {
    "small": Size(
        train_limit=1_600,
        epochs=10,
        warmup_epochs=0.5,
        batch_size=8,
        every=2,
        seeds=tuple(range(10)),
        # 4,096 positions: of each arm the disagreement of 45 pairs of runs is computed, over all
        # bytes, and logits are kept.
        test_limit=32,
    ),
    "tiny": Size(
        train_limit=100,
        epochs=2,
        warmup_epochs=1,
        batch_size=8,
        every=1,
        seeds=(0, 1, 2),
        test_limit=4,
    ),
}
"""Of the byte model, by scale."""
SCALES = tuple(IMAGES)


def check_scale(name: str, scale: str | None, given: Mapping[str, str]) -> str:
    """The scale of a study, which is one of `SCALES`.

    Raises:
        ConfigError: for a scale or a place of data that it does not have.
    """
    if scale not in SCALES:
        raise ConfigError(unknown("scale", scale or "", SCALES) + " Give it with --scale.")
    strange = [place for place in given if place not in PLACES]
    if strange:
        raise ConfigError(unknown(f"data of {name}", strange[0], PLACES))
    return scale


def study_of(
    name: str,
    scale: str | None,
    given: Mapping[str, str],
    *,
    title: str,
    hours: str,
    rows: Callable[[str, Mapping[str, str]], Iterable[Row]],
    claims: Iterable[Claim],
) -> Study:
    """A study of a scale, which takes so many hours at `small`.

    Args:
        name: Of the preset.
        scale: One of `SCALES`.
        given: Data that a user puts into places.
        title: In words, without the scale.
        hours: In words.
        rows: Of a scale and such data.
        claims: About these rows.

    Raises:
        ConfigError: for a scale or a place of data that it does not have.
    """
    scale = check_scale(name, scale, given)
    return Study(
        name="-".join((name, scale, *own_data(("cifar10",), given))),
        title=f"{title}, scale {scale}",
        cost=f"{hours} on one core" if scale == "small" else "minutes",
        rows=tuple(rows(scale, given)),
        preset=name,
        scale=scale,
        source=" ".join(f"{place}={given[place]}" for place in sorted(given)) or None,
        claims=tuple(claims),
    )
