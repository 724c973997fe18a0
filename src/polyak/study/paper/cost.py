"""What a study costs, estimated from its images and networks: nothing is measured here."""

from collections.abc import Mapping, Sequence

from polyak.models import ModelConfig
from polyak.records.vocabulary import AT_STOPS, Monitor
from polyak.study.paper.datasets import IMAGES
from polyak.study.plan import Measurement, Row

# Multiply-adds of one image of 32×32 pixels, forward; resnet8 and resnet20 with 16 channels.
MACS = {
    "resnet8": 12.5e6,
    "resnet20": 40.8e6,
    "resnet18": 555e6,
    "resnet34": 1.16e9,
    "vgg16": 314e6,
    "wrn28_10": 5.24e9,
}

# What one core of a server processor does in this loop, for these networks (2026): 60 billion
# operations a second, and 0.1 ms an image for everything else. Of a GPU: assumptions.
_CORE_SPEED, _CORE_SECONDS_PER_IMAGE = 6e10, 1e-4
_GPU_SPEED, _GPU_SECONDS_PER_IMAGE = 1e13, 4e-5

_ARMS, _RECOMPUTED_ARMS = 8, 3


def macs(model: ModelConfig, image_size: int) -> float:
    """Multiply-adds of one image, forward."""
    width = (model.width or 16) / 16
    return MACS[model.name] * width**2 * (image_size / 32) ** 2


def core_seconds(row: Row, *, place: str) -> float:
    """Time of a row's runs on one core, as if they were the only ones."""
    forward = macs(row.config.model, IMAGES[place].image_size)
    per_image = 2 * forward / _CORE_SPEED + _CORE_SECONDS_PER_IMAGE
    return per_image * forward_passes(row, place=place)


def gpu_seconds(row: Row, *, place: str) -> float:
    """The same on one GPU."""
    forward = macs(row.config.model, IMAGES[place].image_size)
    per_image = 2 * forward / _GPU_SPEED + _GPU_SECONDS_PER_IMAGE
    return per_image * forward_passes(row, place=place)


def forward_passes(row: Row, *, place: str) -> float:
    """Images that a row's searches, refits and follow-ups bring through the network.

    A training step counts as three passes; the hold-out is passed by SGD and every average. A
    follow-up counts as the whole run that it repeats, since its epochs are not chosen yet.
    """
    data, seeds = row.config.data, len(row.seeds)
    images = data.train_limit or IMAGES[place].train_images
    tests = data.test_limit or IMAGES[place].test_images
    held = data.holdout * images
    trained = images - held
    epoch = 3 * trained + (1 + _bank(row)) * held
    epoch += _watched(row, row.search_monitors, images=trained, held=held, tests=tests)
    if row.config.selection == "bn_safe" and "holdout_bn" not in row.search_monitors:
        epoch += _watched(row, ("holdout_bn",), images=trained, held=held, tests=tests)
    search = row.config.epochs * epoch + _evaluated(row, trained, held + tests)
    epoch = 3 * images + _watched(row, row.refit_monitors, images=images, held=0, tests=tests)
    refit = row.config.epochs * epoch + _evaluated(row, images, tests)
    annealed = "annealed" in row.follow_ups
    searches = len(row.learning_rates) + ("held" in row.follow_ups) + (annealed and not row.refits)
    refits = row.refits * (1 + annealed)
    return seeds * (searches * search + refits * refit)


def _bank(row: Row) -> int:
    return len(row.config.averaging.decays)


def _watched(
    row: Row, monitors: Sequence[Monitor], *, images: float, held: float, tests: float
) -> float:
    """What monitors cost each epoch: SGD and every average on parts, one recomputation at most."""
    parts = {"test": tests, "test_bn": tests, "holdout_bn": held}
    passes = sum((1 + _bank(row)) * parts[name] for name in monitors if name in parts)
    if any(name.startswith("train_") for name in monitors):
        passes += (1 + _bank(row)) * images
    if any(name.endswith("_bn") for name in monitors):
        passes += _bank(row) * images
    return passes


def _evaluated(row: Row, images: float, others: float) -> float:
    """What a run is evaluated as when it is over: its arms, and every average at two stops."""
    # Those that mean something at any time are arms at two stops, too.
    more = sum(3 if name in AT_STOPS else 1 for name in row.config.more_averages)
    passes = (_ARMS + more) * (images + others) + (_RECOMPUTED_ARMS + more) * images
    if row.config.keep == "every":
        # At two stops with two kinds of statistics, but for the four that are arms.
        passes += (2 * _bank(row) - 2) * images + (4 * _bank(row) - 4) * others
    return passes


def measurement_words(measurement: Measurement, *, place: str) -> str:
    """What a measurement costs, in words: a round more than counts, all cases in one process."""
    config = measurement.config
    images = config.run.data.train_limit or IMAGES[place].train_images
    held = config.run.data.holdout * images
    passes = sum(3 * (images - held) + (size + 1) * held for size, _ in config.cases())
    passes *= config.rounds + 1
    forward = macs(config.run.model, IMAGES[place].image_size)
    cores = passes * (2 * forward / _CORE_SPEED + _CORE_SECONDS_PER_IMAGE)
    gpu = passes * (2 * forward / _GPU_SPEED + _GPU_SECONDS_PER_IMAGE)
    return f"about {_words(cores)} on one core, {_words(gpu)} on one GPU"


def cost_words(rows: Mapping[str, Row], *, places: Mapping[str, str]) -> str:
    """A study's cost in words.

    Args:
        rows: By name.
        places: The place in `IMAGES` of each row's data.
    """
    cores = sum(core_seconds(row, place=places[name]) for name, row in rows.items())
    gpu = sum(gpu_seconds(row, place=places[name]) for name, row in rows.items())
    return f"about {_words(cores / 2)} on two cores, {_words(gpu)} on one GPU"


def _words(seconds: float) -> str:
    """A rough time.

    Example:
        >>> _words(50), _words(5_400), _words(200_000)
        ('1 minute', '2 hours', '2 days')
    """
    for unit, size, above in (("day", 86_400, 129_600), ("hour", 3_600, 5_400)):
        if seconds >= above:
            return _counted(round(seconds / size), unit)
    return _counted(max(1, round(seconds / 60)), "minute")


def _counted(number: int, unit: str) -> str:
    return f"{number:,} {unit}{'' if number == 1 else 's'}"
