"""What a run is: the whole of what determines its result, and the id made from it."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from polyak.averaging.kinds import EMA, Average
from polyak.data.config import DataConfig
from polyak.errors import ConfigError, unknown
from polyak.models.config import ModelConfig
from polyak.records.paper_code import OF_RUNS, in_order
from polyak.records.vocabulary import (
    BASELINE,
    BESIDE_THE_BANK,
    MONITORS,
    RULES,
    SWITCH,
    Monitor,
    MoreAverage,
    Selection,
    Stop,
    Switch,
)
from polyak.training.config.optim import OptimConfig, unknown_settings
from polyak.userfile import parse_reference

Keep = Literal["every", "chosen"]
Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
AskedPrecision = Literal["float32", "bfloat16", "auto"]
PAPER_DECAYS = (0.968, 0.984, 0.992, 0.996, 0.998)


@dataclass(frozen=True, kw_only=True, slots=True)
class AveragingConfig:
    """The bank of EMAs beside the run."""

    decays: tuple[float, ...] = PAPER_DECAYS
    """Weights of the old average at an update, from the shortest window to the longest."""

    every: int = 16
    """Optimizer steps per update: the paper's T."""

    warmup: Literal["paper", "none"] = "paper"
    """Decay min(decay, (t+1)/(t+10)), or `decay` from the first update on."""

    warmup_counts: Literal["updates", "steps"] = "updates"
    """What t counts."""

    buffers: Literal["average", "copy"] = "average"
    """What happens to BatchNorm's running statistics."""

    swa: bool = True
    """Also average the epoch ends of the second half uniformly."""

    def faults(self) -> list[str]:
        """All settings outside their range."""
        found = [
            f"decay is {decay!r}; expected 0 <= decay < 1"
            for decay in self.decays
            if not 0 <= decay < 1
        ]
        if not self.decays or list(self.decays) != sorted(set(self.decays)):
            found.append(f"decays is {self.decays!r}; expected at least one, rising")
        if self.every < 1:
            found.append(f"every is {self.every!r}; expected >= 1 step")
        return found + unknown_settings(self)

    def averages(self) -> list[Average]:
        """The bank's averages."""
        warmup = None if self.warmup == "none" else self.warmup
        return [EMA(d, warmup=warmup, warmup_counts=self.warmup_counts) for d in self.decays]

    @property
    def names(self) -> tuple[str, ...]:
        """Their names, from the shortest window to the longest."""
        return tuple(average.label for average in self.averages())


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """One training run."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    averaging: AveragingConfig = field(default_factory=AveragingConfig)

    epochs: int = 200
    """Length of the run and of its schedule; stopping never compresses it."""

    batch_size: int = 128
    """Images a step; the last batch of an epoch may be smaller."""

    seed: int = 0
    """Of initialisation, order and augmentation, by a generator each."""

    holdout: bool = True
    """Keep the hold-out apart and choose stops on it (search), or train on everything (refit)."""

    stops: tuple[Stop, ...] = ()
    """Of a run without hold-out: the epochs chosen elsewhere."""

    monitors: tuple[Monitor, ...] = ()
    """Evaluated each epoch for figures; nothing that selects sees them."""

    selection: Selection = "paper"
    """paper: averages are chosen with the BatchNorm statistics that were averaged along. bn_safe:
    with statistics recomputed after each epoch, and the chosen average is what is evaluated."""

    holdout_labels: Literal["given", "clean"] = "given"
    """Which labels of the hold-out choose. clean: an oracle, where training labels are wrong."""

    paper_code: tuple[str, ...] = ()
    """Where the run follows the authors' code: holdout-images, loss-decay, batchnorm, in that
    order."""

    more_averages: tuple[MoreAverage, ...] = ()
    """Averages of other kinds along the same run, evaluated when it is over: uniform over
    its last quarter (tail), over the last six epochs (lawa), a power-function EMA (power), and
    uniform over the epochs that SWAD's rule finds (swad)."""

    swad: tuple[int, int] | None = None
    """Of a run without hold-out: first and last epoch that SWAD averages, chosen elsewhere. None:
    such a run has no SWAD."""

    bootstrap: str | None = None
    """An average that SGD goes on from after each epoch but the last: once all is evaluated, its
    weights and buffers become the model's; momentum stays. None: SGD goes its own way."""

    keep: Keep = "every"
    """What a run with stops is evaluated as at them when it is over: every average, with averaged
    and with recomputed statistics, or only those that were chosen."""

    batchnorm_images: int | None = None
    """Training images from which BatchNorm statistics are recomputed after an epoch, the same ones
    and with the same crops all through the run; a few thousand do. None: all, cropped anew. What
    is evaluated when the run is over always has statistics of all."""

    batchnorm_augmentation: Switch = "on"
    """Whether BatchNorm statistics are recomputed from training images that are cropped and flipped
    as in training, or from the images as they are."""

    fp32: bool = False
    """Compute in float32 on GPUs too, where the default is bfloat16 with float32 weights,
    statistics and averages."""

    precision: AskedPrecision | None = None
    """What passes through the network are computed in on any device, those too whose predictions
    are saved; weights, statistics and averages are float32. auto: whichever is faster in a few
    steps, which is chosen and recorded before the run has its id. None: float32 on CPUs, and on
    GPUs bfloat16 unless `fp32`, with saved predictions in float32."""

    def check(self) -> None:
        """Raise a ConfigError that names every fault of every part."""
        faults = self.faults()
        if faults:
            raise ConfigError.of("run", faults)

    def faults(self) -> list[str]:
        """All settings of all parts that are outside their range or contradict each other."""
        faults = [
            *self.data.faults(),
            *self.model.faults(),
            *self.optim.faults(),
            *self.averaging.faults(),
            *_at_least_one(self, "epochs", "batch_size"),
        ]
        if self.optim.warmup_epochs >= self.epochs >= 1 and self.optim.schedule != "constant":
            faults.append(
                f"warmup_epochs is {self.optim.warmup_epochs!r}; expected < epochs ({self.epochs})"
            )
        if self.batchnorm_images is not None:
            faults += _at_least_one(self, "batchnorm_images")
        if self.batchnorm_augmentation not in SWITCH:
            given = self.batchnorm_augmentation
            faults.append(unknown("batchnorm_augmentation", given, SWITCH))
        faults += [unknown("monitor", m, MONITORS) for m in self.monitors if m not in MONITORS]
        strange = [name for name in self.paper_code if name not in OF_RUNS]
        faults += [unknown("paper_code", name, OF_RUNS) for name in strange]
        ordered = in_order(self.paper_code)
        if not strange and self.paper_code != ordered:
            faults.append(f"paper_code is {self.paper_code!r}; expected {ordered!r}")
        if self.holdout and self.stops:
            faults.append("stops are given; expected none where the hold-out chooses them")
        if not self.holdout and "holdout_bn" in self.monitors:
            faults.append("monitor is 'holdout_bn'; expected a run that keeps a hold-out")
        if len({stop.rule for stop in self.stops}) != len(self.stops):
            faults.append("two stops have one rule; expected at most one for each rule")
        faults += [*unknown_settings(self), *_more_faults(self), *_precision_faults(self)]
        faults += _text_faults(self)
        if self.bootstrap is not None and not self.averaging.faults():
            names = self.averaging.names
            faults += (
                [] if self.bootstrap in names else [unknown("bootstrap", self.bootstrap, names)]
            )
        return faults + [f for stop in self.stops for f in _stop_faults(stop, self)]

    def precision_on(self, device: str) -> Precision:
        """What is computed in on a type of device.

        Example:
            >>> RunConfig().precision_on("cpu"), RunConfig().precision_on("cuda")
            ('float32', 'bfloat16')
        """
        if self.precision is not None:
            return self._settled_precision(self.precision)
        return "bfloat16" if device == "cuda" and not self.fp32 else "float32"

    @property
    def saved_precision(self) -> Precision:
        """What predictions that are saved are computed in, and statistics for them."""
        return self._settled_precision(self.precision or "float32")

    def _settled_precision(self, given: AskedPrecision) -> Precision:
        if given == "auto":
            raise ConfigError(
                f"precision is {given!r}; expected float32 or bfloat16, since the result depends "
                "on it. Let `polyak train` or `polyak study` choose."
            )
        return given

    def record(self) -> dict[str, Any]:
        """The configuration as plain JSON values."""
        return {"kind": "train", **without_defaults(asdict(self))}

    @property
    def id(self) -> str:
        """Name of the run's folder: equal for equal results, whatever the paths are."""
        return digest(self.record())


LATER: dict[str, Any] = {
    "file_sha256": None,
    "selection": "paper",
    "holdout_labels": "given",
    "paper_code": (),
    "batchnorm": "frozen",
    "more_averages": (),
    "swad": None,
    "bootstrap": None,
    "keep": "every",
    "batchnorm_images": None,
    "batchnorm_augmentation": "on",
    "fp32": False,
    "norm": "batch",
    "patch": None,
    "depth": None,
    "optim.name": "sgd",
    "betas": (0.9, 0.999),
    "decayed": "all",
    "clip": None,
    "decay_share": 0.2,
    "decay_shape": "linear",
    "precision": None,
    "test_split": None,
    "test_split_seed": 0,
    "validation": "holdout",
    "resize": None,
    "resize_how": "shorter-side-crop",
    "context": 128,
}
"""Settings that came after the first runs, with their defaults: where a setting has its default
it is not in the record, so that the ids of those runs stay what they were."""


def digest(record: dict[str, Any]) -> str:
    """Twelve hexadecimal digits of what determines a result.

    Where a fingerprint or checksum says what a file holds, its path does not count; 1 and 1.0 are
    one setting.
    """
    text = json.dumps(_canonical(record), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def without_defaults(record: dict[str, Any], part: str = "") -> dict[str, Any]:
    """A record without the settings of `LATER` that have their defaults, at any depth."""
    kept = {}
    for key, value in record.items():
        name = f"{part}.{key}" if f"{part}.{key}" in LATER else key
        if name not in LATER or value != LATER[name]:
            kept[key] = without_defaults(value, key) if isinstance(value, dict) else value
    return kept


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        known = value.get("fingerprint") is not None
        dropped = {"source", "file"} if known else set()
        if value.get("file_sha256") is not None:
            value = {**value, "name": str(value["name"]).rpartition(":")[2]}
        return {k: _canonical(v) for k, v in value.items() if k not in dropped}
    if isinstance(value, list | tuple):
        return [_canonical(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _at_least_one(config: RunConfig, *names: str) -> list[str]:
    values = {name: getattr(config, name) for name in names}
    return [f"{name} is {value!r}; expected >= 1" for name, value in values.items() if value < 1]


def _more_faults(config: RunConfig) -> list[str]:
    found = [
        unknown("more_averages", name, BESIDE_THE_BANK)
        for name in config.more_averages
        if name not in BESIDE_THE_BANK
    ]
    if len(set(config.more_averages)) != len(config.more_averages):
        found.append(f"more_averages is {config.more_averages!r}; expected no name twice")
    if config.swad is None:
        return found
    if config.holdout or "swad" not in config.more_averages:
        found.append("swad is given; expected only with more_averages swad and without hold-out")
    first, last = config.swad
    if not 1 <= first <= last <= config.epochs:
        found.append(f"swad is {config.swad!r}; expected rising epochs, 1 to {config.epochs}")
    return found


def _text_faults(config: RunConfig) -> list[str]:
    """Networks of text with images, and the other way round; what text has no use for."""
    name, own = config.model.name, parse_reference(config.model.name) is not None
    if not config.data.is_text:
        wanted = "text:stdlib or text: and a path, for"
        source = config.data.source
        return [f"data.source is {source!r}; expected {wanted} model gpt"] * (name == "gpt")
    found = []
    if name != "gpt" and not own:
        found.append(f"model.name is {name!r}; expected gpt or file.py:build for text")
    for monitor in config.monitors:
        if monitor.startswith("train_"):
            found.append(f"monitor is {monitor!r}; expected none of train_… for text")
    return found


def _precision_faults(config: RunConfig) -> list[str]:
    if config.precision is None:
        return []
    if config.precision not in get_args(AskedPrecision):
        return [unknown("precision", config.precision, get_args(AskedPrecision))]
    if config.fp32:
        return [f"precision is {config.precision!r} with fp32; expected one of the two"]
    return []


def _stop_faults(stop: Stop, config: RunConfig) -> list[str]:
    found = [] if stop.rule in RULES else [unknown("rule of a stop", stop.rule, RULES)]
    if not 1 <= stop.epoch <= config.epochs:
        found.append(f"stop {stop.rule!r} is at epoch {stop.epoch}; expected 1 to {config.epochs}")
    # A bank with a fault of its own has no names to compare with.
    choices = () if config.averaging.faults() else (BASELINE, *config.averaging.names)
    if choices and stop.average not in choices:
        found.append(unknown(f"average of stop {stop.rule!r}", stop.average, choices))
    return found
