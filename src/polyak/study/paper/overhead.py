"""Preset `overhead`: what averages cost the study's own loop, at each scale."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from polyak.study.paper.rows import paper_row
from polyak.study.paper.scales import SCALES
from polyak.study.plan import Measurement
from polyak.training.config import AveragingConfig, OverheadConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """How much is timed."""

    train_limit: int
    """Images, hold-out included: with the batch they make a round of 16 steps, one update of
    T = 16, and the round's evaluation is in proportion to an epoch's as in the study."""

    batch_size: int
    rounds: int


# Six rounds are the fewest whose median has a 95 % interval.
SIZES = {
    "paper": Size(train_limit=2_560, batch_size=128, rounds=10),
    "small": Size(train_limit=1_280, batch_size=64, rounds=10),
    "tiny": Size(train_limit=640, batch_size=32, rounds=6),
}


def overhead(row: str, scale: str, given: Mapping[str, str]) -> Measurement:
    """The measurement beside the training of a row of the paper's."""
    trained, size = paper_row(row, SCALES[scale], given), SIZES[scale]
    config = trained.config
    run = replace(
        config,
        data=replace(config.data, train_limit=size.train_limit),
        optim=replace(config.optim, lr=SCALES[scale].trainings[row].fixed_learning_rate),
        # The run is too short for decays of its own, and costs do not depend on them.
        averaging=AveragingConfig(),
        batch_size=size.batch_size,
    )
    return Measurement(
        label=trained.label,
        dataset=trained.dataset,
        architecture=trained.architecture,
        config=OverheadConfig(run=run, rounds=size.rounds),
    )
