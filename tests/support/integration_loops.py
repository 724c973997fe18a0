"""A small model, its data, and the plain loop that every integration is compared with."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from polyak import Averager

SAMPLES, BATCH, BATCHES = 24, 4, 6
EVERY = 4
AVERAGES = (0.5, 0.9)


def net() -> nn.Sequential:
    """Weights, and BatchNorm's float and integer buffers; always the same first weights."""
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))


def samples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(SAMPLES, 3, generator=generator), torch.randn(
        SAMPLES, 2, generator=generator
    )


def batches(epochs: int = 1) -> list[tuple[Tensor, Tensor]]:
    x_nf, y_nc = samples()
    return [*zip(x_nf.split(BATCH), y_nc.split(BATCH), strict=True)] * epochs


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def plain(
    epochs: int,
    *,
    accumulate: int = 1,
    every: int = EVERY,
    averages: Sequence[float] = AVERAGES,
    bad: Iterable[int] = (),
) -> tuple[nn.Module, Averager]:
    """The loop as one writes it by hand; batches whose number is in `bad` are left out."""
    model = net()
    optimizer = sgd(model)
    averager = Averager(model, averages, every=every)
    averager.attach(optimizer)
    for number, (x, y) in enumerate(batches(epochs)):
        (nn.functional.mse_loss(model(x), y) / accumulate).backward()
        if (number + 1) % accumulate == 0:
            if number not in set(bad):
                optimizer.step()
            optimizer.zero_grad()
    return model, averager


def assert_same_weights(one: dict[str, Tensor], other: dict[str, Tensor], prefix: str = "") -> None:
    """Bit for bit; `prefix` stands before the names of the first."""
    assert one.keys() == {prefix + key for key in other}
    for key, tensor in other.items():
        assert torch.equal(one[prefix + key], tensor), key


def assert_same_averages(one: Averager, other: Averager, prefix: str = "") -> None:
    assert (one.names, one.steps, one.updates) == (other.names, other.steps, other.updates)
    for name in other.names:
        assert_same_weights(one.tensors(name), other.tensors(name), prefix)
