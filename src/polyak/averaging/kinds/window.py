"""The mean of the last few snapshots of the weights (LAWA)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from polyak.averaging.kernels import wide
from polyak.averaging.kinds.ema import Update
from polyak.errors import ConfigError


@dataclass(frozen=True)
class Window:
    """The plain mean of the last few snapshots, the older ones forgotten entirely.

        m = (1/n)·Σ of the last n snapshots,   n = min(last, snapshots so far)

    The snapshots are kept as they are and every mean is computed from them anew, so nothing
    drifts: beside the average lie `last` copies of the weights. Initial weights never count;
    before the first snapshot the average holds them.

    Args:
        last: Snapshots in the mean, ≥ 1.
        every: Optimizer steps from one snapshot to the next, a multiple of the bank's period.
            None takes one at every update.
        name: `window_<last>`, with `_every_<every>` where that is given, if None.

    Raises:
        ConfigError: for a value outside its range.

    Source:
        Kaddour 2022, "Stop Wasting My Time! Saving Days of ImageNet and BERT Training with
        Latest Weight Averaging": the last k checkpoints at the ends of epochs.

    Example:
        >>> Window(5).label, Window(5, every=390).label
        ('window_5', 'window_5_every_390')
        >>> [round(Window(2).weight(Update(n, n + 1, 1), folded=n), 2) for n in range(3)]
        [1.0, 0.5, 0.5]
    """

    last: int
    every: int | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        faults = [
            f"{setting} is {value!r}; expected a whole number >= 1"
            for setting, value in (("last", self.last), ("every", self.every))
            if value is not None or setting == "last"
            if isinstance(value, bool) or not isinstance(value, int) or value < 1
        ]
        if faults:
            raise ConfigError.of("Window", faults)

    @property
    def label(self) -> str:
        """The name in the bank."""
        spacing = "" if self.every is None else f"_every_{self.every}"
        return self.name or f"window_{self.last}{spacing}"

    def at_period(self, every: int) -> "Window":
        """Itself, if snapshots can be taken at updates every so many steps.

        Raises:
            ConfigError: for a spacing that is no multiple of the period.
        """
        if self.every is not None and self.every % every:
            raise ConfigError(
                f"every of {self.label!r} is {self.every}; expected a multiple of the averager's "
                f"period, {every}. Snapshots are taken at its updates."
            )
        return replace(self, name=self.label)

    def due(self, update: Update) -> bool:
        """Whether an update takes a snapshot: the first at or after each multiple of `every`."""
        if self.every is None:
            return True
        return update.step // self.every > (update.step - update.since) // self.every

    def weight(self, update: Update, folded: int) -> float:
        """Share of the current weights in the new mean, 0 where no snapshot is taken."""
        return 1.0 / min(folded + 1, self.last) if self.due(update) else 0.0

    def ages(self, *, updates: int, every: int) -> list[int]:
        """How many updates ago each snapshot of the mean was taken, the newest first."""

        def found() -> Iterator[int]:
            for age in range(updates):
                index = updates - 1 - age
                if self.due(Update(index, (index + 1) * every, every)):
                    yield age

        return list(islice(found(), self.last))


class Snapshots:
    """The snapshots of one window, oldest first, and their mean.

    Args:
        last: How many are kept.
        device: Where; None means beside the weights.
    """

    def __init__(self, last: int, device: torch.device | str | None) -> None:
        self.last = last
        self._device = device
        self._kept: list[dict[str, Tensor]] = []

    def take(self, weights: Mapping[str, Tensor]) -> None:
        """Keep exact copies of these weights, in the memory of the oldest once that goes."""
        memory = self._kept.pop(0) if len(self._kept) == self.last else {}
        self._kept.append({key: self._copy(x, memory.get(key)) for key, x in weights.items()})

    def mean(self, dtypes: Mapping[str, torch.dtype]) -> Iterator[tuple[str, Tensor]]:
        """The mean in these dtypes, weight by weight: a sum from the oldest on, divided once."""
        first, *others = self._kept
        for key, x in first.items():
            total = x.to(wide(dtypes[key]), copy=True)
            for other in others:
                total += other[key]
            yield key, total.div_(len(self._kept))

    def track(self, weights: Mapping[str, Tensor]) -> None:
        """Let every snapshot have these weights; those that were frozen till now are as ever."""
        self._kept = [
            {key: kept[key] if key in kept else self._copy(x, None) for key, x in weights.items()}
            for kept in self._kept
        ]

    def record(self) -> dict[str, Tensor]:
        """The snapshots themselves under `<number>/<key>`, numbered from the oldest."""
        return {f"{i}/{key}": x for i, kept in enumerate(self._kept) for key, x in kept.items()}

    def restore(self, record: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
        """Take over the snapshots of `record()`, laid out as the model's weights are."""
        kept: dict[int, dict[str, Tensor]] = {}
        for numbered, x in record.items():
            number, _, key = numbered.partition("/")
            like = torch.empty_like(weights[key].detach(), dtype=x.dtype, device=self._device)
            kept.setdefault(int(number), {})[key] = like.copy_(x)
        self._kept = [kept[number] for number in sorted(kept)]

    def _copy(self, x: Tensor, memory: Tensor | None) -> Tensor:
        x = x.detach()
        if memory is None or memory.dtype != x.dtype or memory.shape != x.shape:
            # To be written to again, and not only in the mode of this moment.
            with torch.inference_mode(False):
                memory = torch.empty_like(x, device=self._device)
        return memory.copy_(x)
