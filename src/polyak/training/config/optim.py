"""The optimiser and its schedule, as settings."""

from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from polyak.errors import unknown

Schedule = Literal["cosine", "step", "held", "constant"]


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """SGD with Nesterov momentum: linear warm-up, then a schedule.

    Defaults are the paper's; `lr` is meant to be searched. It is the learning rate, under the name
    that config.json and the command line have for it.
    """

    lr: float = 0.4
    """Peak learning rate for the batch size as given: never rescaled behind your back."""

    momentum: float = 0.9
    """Nesterov momentum, in [0, 1)."""

    weight_decay: float = 1e-4
    """L2 coefficient added to the gradient, BatchNorm and biases included."""

    warmup_epochs: float = 5.0
    """Length of the linear rise to `lr`. Epochs, fractions allowed."""

    schedule: Schedule = "cosine"
    """After warm-up: cosine to 0; step: ÷ `drop` at each of `milestones`; held: cosine until
    `hold_epoch`, then unchanged; constant."""

    milestones: tuple[float, ...] = ()
    """Epochs at which schedule "step" drops. Fractions allowed."""

    drop: float = 5.0
    """Divisor of schedule "step"."""

    hold_epoch: int | None = None
    """Epoch from which schedule "held" keeps its learning rate."""

    def faults(self) -> list[str]:
        """All settings outside their range."""
        found = []
        if not self.lr > 0:
            found.append(f"lr is {self.lr!r}; expected > 0")
        if not 0 <= self.momentum < 1:
            found.append(f"momentum is {self.momentum!r}; expected 0 <= momentum < 1")
        if not self.weight_decay >= 0:
            found.append(f"weight_decay is {self.weight_decay!r}; expected >= 0")
        if not self.warmup_epochs >= 0:
            found.append(f"warmup_epochs is {self.warmup_epochs!r}; expected >= 0")
        if not self.drop > 1:
            found.append(f"drop is {self.drop!r}; expected > 1")
        if (self.schedule == "step") != bool(self.milestones):
            found.append(f"milestones is {self.milestones!r} with schedule {self.schedule!r}")
        if (self.schedule == "held") != (self.hold_epoch is not None):
            found.append(f"hold_epoch is {self.hold_epoch!r} with schedule {self.schedule!r}")
        elif self.hold_epoch is not None and self.hold_epoch < self.warmup_epochs:
            found.append(
                f"hold_epoch is {self.hold_epoch!r}; expected >= warmup_epochs "
                f"({self.warmup_epochs!r})"
            )
        return found + unknown_settings(self)


def unknown_settings(config: Any) -> list[str]:
    """The fields of a dataclass whose value is not among those that their type lists."""
    hints = get_type_hints(type(config))
    return [
        unknown(name, getattr(config, name), get_args(hint))
        for name, hint in hints.items()
        if get_origin(hint) is Literal and getattr(config, name) not in get_args(hint)
    ]
