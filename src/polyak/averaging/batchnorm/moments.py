"""Mean and variance of what arrives in batches, on one process or on several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh


@dataclass(slots=True)
class Moments:
    """Count, mean and summed squared deviation of one layer's inputs, per channel, in float64."""

    count: float = 0.0
    mean_c: Tensor = field(default_factory=lambda: torch.zeros((), device="cpu"))
    deviation_c: Tensor = field(default_factory=lambda: torch.zeros((), device="cpu"))
    batches: int = 0
    batch_means_c: Tensor = field(default_factory=lambda: torch.zeros((), device="cpu"))
    """Sum of the batches' means."""
    batch_variances_c: Tensor = field(default_factory=lambda: torch.zeros((), device="cpu"))
    """Sum of the batches' variances."""

    def add(self, count: int, mean_c: Tensor, variance_c: Tensor) -> None:
        """Pool with a batch, given its unbiased variance; that of one value counts for nothing.

            M ← M + M_b + δ²·n·n_b/(n + n_b),   δ = mean_b − mean

        Source:
            Chan, Golub & LeVeque 1979.
        """
        mean_c, variance_c = mean_c.double(), variance_c.double()
        varies = int(count > 1)
        self.batches += varies
        self.batch_means_c = self.batch_means_c.to(mean_c) + mean_c * varies
        self.batch_variances_c = self.batch_variances_c.to(mean_c) + variance_c * varies
        total = self.count + count
        delta_c = mean_c - self.mean_c.to(mean_c)
        between_c = delta_c**2 * (self.count * count / total)
        self.deviation_c = self.deviation_c.to(mean_c) + variance_c * (count - 1) + between_c
        self.mean_c = self.mean_c.to(mean_c) + delta_c * (count / total)
        self.count = total

    def add_instances(self, count: int, mean_c: Tensor, variance_c: Tensor) -> None:
        """Count the samples of a batch, each by itself, given the means of their statistics.

        mean = Σ_i mean_i / n,   var = Σ_i var_i / n
        """
        mean_c, variance_c = mean_c.double(), variance_c.double()
        self.count += count
        self.batches += count
        self.batch_means_c = self.batch_means_c.to(mean_c) + mean_c * count
        self.batch_variances_c = self.batch_variances_c.to(mean_c) + variance_c * count
        # Not asked for; of the shape and the device that a sum over processes needs.
        self.mean_c, self.deviation_c = mean_c, torch.zeros_like(mean_c)

    @property
    def variance_c(self) -> Tensor:
        """The unbiased variance of everything added, shape (channels,)."""
        return self.deviation_c / (self.count - 1)


def groups_of(model: nn.Module, mesh: "DeviceMesh | None") -> "list[ProcessGroup]":
    """The groups that together hold all processes which train a model; empty for a plain one.

    Args:
        model: Its wrapper of DistributedDataParallel has the group, if there is one.
        mesh: That of its DTensors, if it has any.
    """
    inner = getattr(model, "_orig_mod", model)
    if isinstance(inner, nn.parallel.DistributedDataParallel):
        return [inner.process_group]
    return [] if mesh is None else mesh.get_all_groups()


def pool_ranks(
    moments: Mapping[str, Moments], channels: Mapping[str, int], groups: "Sequence[ProcessGroup]"
) -> dict[str, Moments]:
    """The moments of all processes' values, equal on all of them.

        n = Σ n_r,   mean = Σ n_r·mean_r / n,   M = Σ M_r + n_r·(mean_r − mean)²

    Two all-reduces, whatever the number of layers: deviations are summed around the mean of all,
    since a difference of raw squares would lose digits.

    Args:
        moments: Of this process's values, by layer; a layer that saw none may be missing.
        channels: Every layer's number of channels, in the same order on every process.
        groups: From `groups_of`.
    """
    if not groups or not channels:
        return dict(moments)
    device = next((m.mean_c.device for m in moments.values()), torch.device("cpu"))
    own = [moments.get(name) or _nothing(c, device) for name, c in channels.items()]
    sizes = list(channels.values())
    repeats = torch.tensor(sizes, device=device)
    counts_2l = torch.tensor(
        [[m.count for m in own], [float(m.batches) for m in own]],
        dtype=torch.float64,
        device=device,
    )
    count_c = counts_2l[0].repeat_interleave(repeats)
    mean_c = torch.cat([m.mean_c for m in own])
    batch_c = [torch.cat([m.batch_means_c for m in own])]
    batch_c += [torch.cat([m.batch_variances_c for m in own])]
    sums = _summed(torch.cat([counts_2l.flatten(), count_c * mean_c, *batch_c]), groups)
    counts_2l = sums[: 2 * len(own)].view(2, -1)
    total_c, means_c, variances_c = sums[2 * len(own) :].view(3, -1)
    all_mean_c = total_c / counts_2l[0].repeat_interleave(repeats)
    deviation_c = torch.cat([m.deviation_c for m in own])
    deviation_c = _summed(deviation_c + count_c * (mean_c - all_mean_c) ** 2, groups)
    parts = zip(
        channels,
        counts_2l.T.tolist(),
        *(torch.split(x, sizes) for x in (all_mean_c, deviation_c, means_c, variances_c)),
        strict=True,
    )
    seen = {
        name: Moments(n, mean, deviation, int(batches), means, variances)
        for name, (n, batches), mean, deviation, means, variances in parts
        if n
    }
    return {**moments, **seen}


def _nothing(channels: int, device: torch.device) -> Moments:
    zeros_c = torch.zeros(channels, dtype=torch.float64, device=device)
    return Moments(0.0, zeros_c, zeros_c, 0, zeros_c, zeros_c)


def _summed(values: Tensor, groups: "Sequence[ProcessGroup]") -> Tensor:
    # Group after group reaches every process of a mesh.
    for group in groups:
        torch.distributed.all_reduce(values, group=group)
    return values
