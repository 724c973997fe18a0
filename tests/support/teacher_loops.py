"""Loops with a second model, each twice: by hand, with `deepcopy` and `lerp_`, and by a live model.

A loop is made anew by its function and gives, step by step, its losses; `state_dict` and
`load_state_dict` let it stop and go on. Networks are tiny: what counts is which weights are read
and when.
"""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polyak import EMA, Averager, HardCopy
from polyak.averaging.kinds import Average

Follow = Callable[[nn.Module, nn.Module, int], None]
"""How the second model follows the first after step k = 0, 1, …, written by hand."""


Part = tuple[Callable[[], Tensor], torch.optim.Optimizer]
"""What makes a loss, once the steps before it are taken, and the optimizer that follows it."""


class ByHand:
    """A deep copy in eval mode that follows its model by a function."""

    def __init__(self, model: nn.Module, follow: Follow) -> None:
        self.model, self.follow = model, follow
        self.second = copy.deepcopy(model).eval().requires_grad_(False)
        self.k = 0

    @torch.no_grad()
    def step(self) -> None:
        self.follow(self.second, self.model, self.k)
        self.k += 1

    def state_dict(self) -> dict[str, Any]:
        return {"second": self.second.state_dict(), "k": self.k}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.second.load_state_dict(state["second"])
        self.k = state["k"]


class Live:
    """The same by an averager and its live model."""

    def __init__(self, model: nn.Module, average: Average, **settings: Any) -> None:
        self.averager = Averager(model, average, **settings)
        self.second = self.averager.live()

    def step(self) -> None:
        self.averager.step()

    def state_dict(self) -> dict[str, Any]:
        return self.averager.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.averager.load_state_dict(state)


def lerp(decay: Callable[[int], float], *, buffers: bool = True) -> Follow:
    """m ← m + (1 − d_k)·(x − m) for parameters and floating-point buffers, one by one."""

    def follow(second: nn.Module, first: nn.Module, k: int) -> None:
        for m, x in zip(second.parameters(), first.parameters(), strict=True):
            m.lerp_(x, 1.0 - decay(k))
        for m, x in zip(second.buffers(), first.buffers(), strict=True):
            if m.is_floating_point() and buffers:
                m.lerp_(x, 1.0 - decay(k))
            else:
                m.copy_(x)

    return follow


def copies(every: int) -> Follow:
    """The first's state each so many steps."""

    def follow(second: nn.Module, first: nn.Module, k: int) -> None:
        if (k + 1) % every == 0:
            second.load_state_dict(first.state_dict())

    return follow


def draws(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(inputs: int = 4, outputs: int = 3, *, norm: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    between = nn.BatchNorm1d(8) if norm else nn.Tanh()
    return nn.Sequential(nn.Linear(inputs, 8), between, nn.ReLU(), nn.Linear(8, outputs))


class Loop:
    """Models, second models that follow them, optimizers, and the losses of each step."""

    def __init__(
        self,
        models: list[nn.Module],
        seconds: list[Any],
        loss: Callable[[int], list[Part]],
        optimizers: list[torch.optim.Optimizer],
    ) -> None:
        self.models, self.seconds, self.loss, self.optimizers = models, seconds, loss, optimizers

    def run(self, steps: range) -> Iterator[list[float]]:
        for k in steps:
            losses = []
            for make, optimizer in self.loss(k):
                loss = make()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            for second in self.seconds:
                second.step()
            yield losses

    def state_dict(self) -> dict[str, Any]:
        parts = {"models": self.models, "seconds": self.seconds, "optimizers": self.optimizers}
        return copy.deepcopy({k: [x.state_dict() for x in v] for k, v in parts.items()})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        parts = {"models": self.models, "seconds": self.seconds, "optimizers": self.optimizers}
        for key, own in parts.items():
            for x, saved in zip(own, state[key], strict=True):
                x.load_state_dict(saved)


def second_of(model: nn.Module, follow: Follow, average: Average, *, live: bool, **settings: Any):
    return Live(model, average, **settings) if live else ByHand(model, follow)


def mean_teacher(*, live: bool) -> Loop:
    """Tarvainen & Valpola 2017: consistency with the EMA teacher, which is in train mode, too.

    What it writes to its statistics there is forgotten, as here by hand.
    """
    student = network()
    second = second_of(student, lerp(lambda k: 0.99), EMA(0.99, None), live=live)
    second.second.train()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9)

    def loss(k: int) -> list[Part]:
        x, y = draws(k, 16, 4), torch.arange(16) % 3
        own = {name: b.clone() for name, b in second.second.named_buffers()}
        with torch.no_grad():
            target = second.second(x + 0.1 * draws(k + 1000, 16, 4)).softmax(1)
        if not live:
            for name, b in second.second.named_buffers():
                b.copy_(own[name])
        out = student(x)
        value = F.cross_entropy(out, y) + F.mse_loss(out.softmax(1), target)
        return [(lambda: value, optimizer)]

    return Loop([student], [second], loss, [optimizer])


def byol(*, live: bool) -> Loop:
    """Grill et al. 2020: an online network with a predictor, a target on a cosine, two views."""
    online, predictor = network(), network(3, 3)
    steps = 30

    def tau(k: int) -> float:
        return 1 - (1 - 0.9) * (math.cos(math.pi * k / steps) + 1) / 2

    second = second_of(online, lerp(tau), EMA.cosine(0.9, 1.0, steps), live=live)
    optimizer = torch.optim.AdamW([*online.parameters(), *predictor.parameters()], lr=1e-2)

    def loss(k: int) -> list[Part]:
        one, two = draws(k, 16, 4), draws(k + 500, 16, 4)
        with torch.no_grad():
            targets = second.second(two), second.second(one)
        outs = predictor(online(one)), predictor(online(two))
        pairs = zip(outs, targets, strict=True)
        value = sum(2 - 2 * F.cosine_similarity(a, b).mean() for a, b in pairs)
        return [(lambda: value, optimizer)]

    return Loop([online, predictor], [second], loss, [optimizer])


def dino(*, live: bool) -> Loop:
    """Caron et al. 2021: momentum from 0.996 to 1, sharpened targets, many crops in one call."""
    student = network(norm=False)
    steps, centre = 30, torch.zeros(3)

    def momentum(k: int) -> float:
        return 1.0 - (1.0 - 0.996) * (math.cos(math.pi * k / steps) + 1) / 2

    second = second_of(student, lerp(momentum), EMA.cosine(0.996, 1.0, steps), live=live)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)

    def loss(k: int) -> list[Part]:
        crops = draws(k, 32, 4)
        with torch.no_grad():
            out = second.second(crops[:16])
            target = ((out - centre) / 0.04).softmax(1)
        logs = (student(crops) / 0.1).log_softmax(1)
        value = -(target * (logs[:16] + logs[16:])).sum(1).mean()
        return [(lambda: value, optimizer)]

    return Loop([student], [second], loss, [optimizer])


def dqn(*, live: bool) -> Loop:
    """Mnih et al. 2015: a target network that is a copy of each fifth step."""
    q = network(outputs=2, norm=False)
    second = second_of(q, copies(5), HardCopy(5), live=live)
    optimizer = torch.optim.Adam(q.parameters(), lr=1e-2)

    def loss(k: int) -> list[Part]:
        state, following = draws(k, 16, 4), draws(k + 100, 16, 4)
        action, reward = torch.arange(16) % 2, draws(k + 200, 16)
        with torch.no_grad():
            target = reward + 0.99 * second.second(following).max(1).values
        got = q(state).gather(1, action[:, None]).squeeze(1)
        return [(lambda: F.smooth_l1_loss(got, target), optimizer)]

    return Loop([q], [second], loss, [optimizer])


def td3(*, live: bool) -> Loop:
    """Fujimoto et al. 2018: twin critics, a delayed policy, soft updates every second step.

    Actor and critics share one averager each, with tau 0.005.
    """
    actor, critics = (
        network(outputs=1, norm=False),
        nn.ModuleList([network(5, 1, norm=False), network(5, 1, norm=False)]),
    )

    def follow(second: nn.Module, first: nn.Module, k: int) -> None:
        if (k + 1) % 2 == 0:
            lerp(lambda _: 1 - 0.005)(second, first, k)

    seconds = [
        second_of(model, follow, EMA.tau(0.005), live=live, **({"every": 2} if live else {}))
        for model in (actor, critics)
    ]
    targets = [second.second for second in seconds]
    by_actor = torch.optim.Adam(actor.parameters(), lr=1e-3)
    by_critics = torch.optim.Adam(critics.parameters(), lr=1e-3)

    def loss(k: int) -> list[Part]:
        state, following = draws(k, 16, 4), draws(k + 100, 16, 4)
        action, reward = draws(k + 300, 16, 1), draws(k + 200, 16, 1)
        with torch.no_grad():
            then = targets[0](following) + 0.2 * draws(k + 400, 16, 1).clamp(-0.5, 0.5)
            value = torch.min(*(q(torch.cat([following, then], 1)) for q in targets[1]))
            target = reward + 0.99 * value
        got = [q(torch.cat([state, action], 1)) for q in critics]

        def of_actor() -> Tensor:
            return -critics[0](torch.cat([state, actor(state)], 1)).mean()

        of_critics = (lambda: sum(F.mse_loss(q, target) for q in got), by_critics)
        return [of_critics, (of_actor, by_actor)] if k % 2 else [of_critics]

    return Loop([actor, critics], seconds, loss, [by_actor, by_critics])


LOOPS = {"mean teacher": mean_teacher, "BYOL": byol, "DINO": dino, "DQN": dqn, "TD3": td3}
