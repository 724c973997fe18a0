"""Settings of the optimiser and of its schedule."""

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from polyak.errors import unknown

Schedule = Literal["cosine", "step", "held", "constant", "wsd"]


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """An optimiser of torch's: linear warm-up, then a schedule.

    Defaults are the paper's; `lr` is meant to be searched. It is the learning rate, under the name
    that config.json and the command line have for it.
    """

    name: Literal["sgd", "adamw", "muon"] = "sgd"
    """sgd: with Nesterov momentum. adamw. muon: for matrices between a first embedding and the
    head, with AdamW for all else, scaled to AdamW's learning rates."""

    lr: float = 0.4
    """Peak learning rate for the batch size as given: never rescaled behind your back."""

    momentum: float = 0.9
    """Nesterov momentum of sgd and muon, in [0, 1)."""

    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's, of the gradient and of its square, each in [0, 1); not for sgd."""

    weight_decay: float = 1e-4
    """sgd: L2 coefficient added to the gradient. adamw and muon: decoupled, a step takes
    `weight_decay` times the learning rate of each weight."""

    decayed: Literal["all", "matrices"] = "all"
    """What decays: all weights, normalisation and biases included, or only those of two dimensions
    and more."""

    clip: float | None = None
    """Largest norm of the whole gradient, > 0; a larger one is scaled down. None: no limit."""

    warmup_epochs: float = 5.0
    """Length of the linear rise to `lr`. Epochs, fractions allowed."""

    schedule: Schedule = "cosine"
    """After warm-up: cosine to 0; step: ÷ `drop` at each of `milestones`; held: cosine until
    `hold_epoch`, then unchanged; constant; wsd: constant, then to 0 over the last `decay_share` of
    the run."""

    decay_share: float = 0.2
    """Share of the run that the decay of schedule "wsd" takes, in (0, 1]."""

    decay_shape: Literal["linear", "1-sqrt"] = "linear"
    """Learning rate of that decay at its share x: lr·(1 − x) or lr·(1 − √x)."""

    milestones: tuple[float, ...] = ()
    """Epochs at which schedule "step" drops. Fractions allowed."""

    drop: float = 5.0
    """Divisor of schedule "step"."""

    hold_epoch: int | None = None
    """Epoch from which schedule "held" keeps its learning rate."""

    def faults(self) -> list[str]:
        """All settings outside their range."""
        found = [
            f"{name} is {getattr(self, name)!r}; expected {expected}"
            for name, expected, holds in (
                ("lr", "> 0", self.lr > 0),
                ("momentum", "0 <= momentum < 1", 0 <= self.momentum < 1),
                ("betas", "0 <= beta < 1 for both", all(0 <= b < 1 for b in self.betas)),
                ("weight_decay", ">= 0", self.weight_decay >= 0),
                ("clip", "> 0, or None", self.clip is None or self.clip > 0),
                ("warmup_epochs", ">= 0", self.warmup_epochs >= 0),
                ("drop", "> 1", self.drop > 1),
                ("decay_share", "0 < decay_share <= 1", 0 < self.decay_share <= 1),
            )
            if not holds
        ]
        return found + self._schedule_faults() + self._without_use() + unknown_settings(self)

    def _schedule_faults(self) -> list[str]:
        found = []
        if (self.schedule == "step") != bool(self.milestones):
            found.append(f"milestones is {self.milestones!r} with schedule {self.schedule!r}")
        if (self.schedule == "held") != (self.hold_epoch is not None):
            found.append(f"hold_epoch is {self.hold_epoch!r} with schedule {self.schedule!r}")
        elif self.hold_epoch is not None and self.hold_epoch < self.warmup_epochs:
            found.append(
                f"hold_epoch is {self.hold_epoch!r}; expected >= warmup_epochs "
                f"({self.warmup_epochs!r})"
            )
        return found

    def _without_use(self) -> list[str]:
        """Settings that were changed where nothing reads them."""
        unread = {
            "betas": (self.name == "sgd", "optimiser sgd"),
            "momentum": (self.name == "adamw", "optimiser adamw"),
            "decay_share": (self.schedule != "wsd", f"schedule {self.schedule}"),
            "decay_shape": (self.schedule != "wsd", f"schedule {self.schedule}"),
        }
        defaults = {field.name: field.default for field in fields(self)}
        return [
            f"{name} is {getattr(self, name)!r}; expected {defaults[name]!r} for {what}, which "
            "has no such setting"
            for name, (is_unread, what) in unread.items()
            if is_unread and getattr(self, name) != defaults[name]
        ]


def unknown_settings(config: Any) -> list[str]:
    """The fields of a dataclass whose value is not among those that their type lists."""
    hints = get_type_hints(type(config))
    return [
        unknown(name, getattr(config, name), get_args(hint))
        for name, hint in hints.items()
        if get_origin(hint) is Literal and getattr(config, name) not in get_args(hint)
    ]
