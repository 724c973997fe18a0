"""Small models, moves and slow twins that the tests of averaging share."""

import io
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from polyak import EMA, Averager, PowerEMA, Uniform
from polyak.averaging.kinds import Average

State = dict[str, Tensor]

EVERY_KIND = (
    EMA(0.9),
    EMA(0.7, warmup=None),
    EMA(0.99, warmup_counts="steps", name="by_steps"),
    EMA.per_step(0.95, warmup=None),
    EMA.halflife(steps=9),
    EMA(0.8, start=7),
    PowerEMA(sigma_rel=0.1),
    PowerEMA(gamma=2.0),
    Uniform(),
    Uniform(start=7),
)
"""One average of each sort, and with each setting that changes its weights."""


class OneHot(nn.Module):
    """One number per update and one for the start; `mark(i)` makes number i the weights."""

    def __init__(self, updates: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(updates + 1, dtype=torch.float64))
        self.mark(0)

    def mark(self, i: int) -> None:
        with torch.no_grad():
            self.w.zero_()[i] = 1.0


class Scalar(nn.Module):
    """One float64 parameter, so that an average can be compared with arithmetic."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(value, dtype=torch.float64))

    def set(self, value: float) -> None:
        with torch.no_grad():
            self.w.fill_(value)


class Tied(nn.Module):
    """Input and output share one weight, as in language models."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5)
        self.head.weight = self.embedding.weight

    def forward(self, index_b: Tensor) -> Tensor:
        return self.head(self.embedding(index_b))


def net(*, dropout: float = 0.0) -> nn.Sequential:
    """Weights, BatchNorm's float and integer buffers, and optionally dropout."""
    return nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(dropout), nn.Linear(4, 2)
    )


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(seed: int, size: int = 8) -> Tensor:
    return torch.randn(size, 3, generator=generator(seed))


def drift(model: nn.Module, seed: int) -> None:
    """Move what trains and buffers as a step of training would: floats a bit, integers by 1."""
    draws = generator(seed)
    with torch.no_grad():
        for x in [*model.parameters(), *model.buffers()]:
            if x.is_floating_point():
                move = 0.3 * torch.randn(x.shape, generator=draws).to(x.dtype)
                x += move if x.requires_grad or not isinstance(x, nn.Parameter) else 0
            else:
                x += 1


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    """One step of SGD on a batch of its own."""
    optimizer.zero_grad()
    model(batch(seed)).square().mean().backward()
    optimizer.step()


def walk(averager: Averager, model: nn.Module, seeds: range) -> None:
    for seed in seeds:
        drift(model, seed)
        averager.step()


def snapshot(model: nn.Module) -> State:
    return {name: x.detach().clone() for name, x in model.state_dict().items()}


def assert_same_bits(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, x in expected.items():
        assert got[name].dtype == x.dtype, name
        assert torch.equal(got[name], x), name


def use(averager: Averager, call: str, name: str) -> None:
    """Use an averager in one of the ways that `call` names."""
    if call == "step":
        averager.step()
    elif call == "applied":
        with averager.applied(name):
            pass
    else:
        getattr(averager, call)(name)


def raising(*_: object, **__: object) -> None:
    raise RuntimeError("on purpose")


def lerp_weight(kind: Average, *, every: int, index: int, step: int, folded: int) -> float:
    """The lerp weight of an update by the formulas of the design, written a second time."""
    if isinstance(kind, EMA):
        decay = kind.decay**every if kind.per == "step" else kind.decay
        if kind.start:
            # The first update at or after the start is what a bank of its own would begin with.
            begun = next(i for i in range(kind.start + 1) if (i + 1) * every >= kind.start)
            if index <= begun:
                return 1.0
            index, step = index - begun - 1, step - kind.start
        if kind.warmup is None:
            return 1 - decay
        t = index if kind.warmup_counts == "updates" else step - 1
        return 1 - min(decay, (1 + t) / (10 + t))
    if isinstance(kind, PowerEMA):
        return 1 - (1 - every / step) ** (kind.exponent + 1)
    assert isinstance(kind, Uniform)
    return 1 / (folded + 1) if step > kind.start else 0.0


def profile(kind: Average, *, every: int, updates: int) -> list[float]:
    """The share of the initial weights, then of those at each update, in the average.

    Item i is w_i·Π_{j>i}(1 − w_j): a sum written out, not a recurrence.
    """
    weights = [1.0]
    folded = 0
    for index in range(updates):
        step = (index + 1) * every
        w = lerp_weight(kind, every=every, index=index, step=step, folded=folded)
        folded += w > 0
        weights.append(w)
    shares, kept = [], 1.0
    for w in reversed(weights):
        shares.append(w * kept)
        kept *= 1 - w
    return shares[::-1]


def mean_of(states: Sequence[State], shares: Sequence[float]) -> State:
    """Σ share·state in float64; integers are those of the last state."""
    found = {}
    for name, last in states[-1].items():
        if last.is_floating_point():
            found[name] = sum(s * x[name].double() for s, x in zip(shares, states, strict=True))
        else:
            found[name] = last
    return found


def moved(make: Callable[[], nn.Module], steps: int) -> list[State]:
    """The states of a fresh model at the start and after each of some moves."""
    model = make()
    states = [snapshot(model)]
    for seed in range(1, steps + 1):
        drift(model, seed)
        states.append(snapshot(model))
    return states


def through_a_file(state: object) -> object:
    """A state as `torch.save` writes it and `torch.load` reads it back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)  # plain values only: nothing is executed
