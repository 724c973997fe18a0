"""Copies of the last weights that an average took in, for those that are their mean."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from polyak.averaging.kernels import wide

SnapshotShares = Callable[[int], Sequence[float] | None]
"""The shares of so many snapshots in their mean, the oldest first; None for equal ones."""


class Snapshots:
    """The snapshots of one window, oldest first, and their mean.

    Args:
        last: How many are kept.
        device: Where; None means beside the weights.
        shares: Of each in the mean; None for the plain one.
    """

    def __init__(
        self,
        last: int,
        device: torch.device | str | None,
        shares: SnapshotShares | None = None,
    ) -> None:
        self.last = last
        self._device = device
        self._shares = shares
        self._kept: list[dict[str, Tensor]] = []

    def take(self, weights: Mapping[str, Tensor]) -> None:
        """Keep exact copies of these weights, in the memory of the oldest once that goes."""
        memory = self._kept.pop(0) if len(self._kept) == self.last else {}
        self._kept.append({key: self._copy(x, memory.get(key)) for key, x in weights.items()})

    def mean(self, dtypes: Mapping[str, torch.dtype]) -> Iterator[tuple[str, Tensor]]:
        """The mean in these dtypes, weight by weight: a sum from the oldest on, divided once."""
        first, *others = self._kept
        shares = self._shares(len(self._kept)) if self._shares else None
        for key, x in first.items():
            total = x.to(wide(dtypes[key]), copy=True)
            if shares is None:
                for other in others:
                    total += other[key]
                yield key, total.div_(len(self._kept))
                continue
            total *= shares[0]
            for other, share in zip(others, shares[1:], strict=True):
                total.add_(other[key].to(total.dtype), alpha=share)
            yield key, total

    def track(self, weights: Mapping[str, Tensor]) -> None:
        """Let every snapshot have these weights; those frozen until now are unchanged in it."""
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
            # Written to again later: an inference tensor could not be, outside inference mode.
            with torch.inference_mode(False):
                memory = torch.empty_like(x, device=self._device)
        return memory.copy_(x)
