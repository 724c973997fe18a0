"""One optimizer step as a function of a batch: plain, as a CUDA graph, or compiled as well.

A run tries once which way is fastest on its model and card, writes the choice into its
checkpoints and goes on with it, since another way rounds differently.

A step waits for nothing: its learning rate lies where the optimizer computes, and its results
stay there.

Shape suffixes: b batch, c channels, h height, w width, k classes.
"""

import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polyak.errors import ConfigError, unknown
from polyak.training.config import Precision

Backend = Literal["eager", "graph", "compiled"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
WARMUP_STEPS = 3
"""Before a capture, so that libraries have chosen their kernels and taken their memory."""
TRIAL_STEPS = 30
"""Of each backend, to see which is fastest."""

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From a batch of images and labels to its mean loss and how many it got right."""


def build_step(
    backend: Backend,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    device: torch.device,
    precision: Precision,
    clip: float | None = None,
) -> Step:
    """A step of a model in train mode.

    Args:
        backend: eager runs anywhere; graph replays a CUDA graph; compiled replays one of the
            model as torch.compile makes it.
        model: In train mode whenever a step is taken.
        optimizer: Its learning rate must be a tensor on the device, unless "eager".
        device: Where the model is.
        precision: What forward and backward are computed in; weights stay float32.
        clip: Largest norm of the whole gradient, > 0; None leaves it as it is.

    Raises:
        ConfigError: for an unknown backend, or one that the device does not have.
    """
    if backend not in BACKENDS:
        raise ConfigError(unknown("backend", backend, BACKENDS))
    autocast = lowered(device, precision)
    if backend == "eager":
        return EagerStep(model, optimizer, autocast, clip)
    if device.type != "cuda":
        raise ConfigError(f"backend is {backend!r} on {device.type}; expected 'eager' there.")
    forward = torch.compile(model, dynamic=False) if backend == "compiled" else model
    return GraphedStep(EagerStep(forward, optimizer, autocast, clip), model, optimizer)


def lowered(
    device: torch.device, precision: Precision
) -> Callable[[], AbstractContextManager[object]]:
    """Makes blocks in which convolutions and products are computed in a precision.

    Weights, gradients, BatchNorm statistics and averages stay float32, and with "float32" the
    block changes nothing.
    """
    enabled = precision == "bfloat16"
    # A weight that was cast before would be used again after the averager has lent another one,
    # or after a graph's steps.
    return lambda: torch.autocast(
        device.type, dtype=torch.bfloat16, enabled=enabled, cache_enabled=False
    )


@dataclass(frozen=True, slots=True)
class EagerStep:
    """Forward, backward and update, call by call."""

    model: nn.Module | Callable[[Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    lowered: Callable[[], AbstractContextManager[object]]
    clip: float | None = None

    def __call__(self, x_bchw: Tensor, labels_b: Tensor) -> tuple[Tensor, Tensor]:
        self.optimizer.zero_grad()
        with self.lowered():
            logits_bk = in_line(self.model(x_bchw))
            loss = F.cross_entropy(logits_bk, labels_b)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own annotation is missing
        if self.clip is not None:
            weights = [p for group in self.optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(weights, self.clip)
        self.optimizer.step()
        right = (logits_bk.detach().argmax(dim=1) == labels_b).sum()
        return loss.detach(), right


def in_line(logits: Tensor) -> Tensor:
    """Logits (b, k) as they are, and those of every position of windows (b, t, k) one by one."""
    return logits.flatten(end_dim=-2)


@dataclass(slots=True)
class _Capture:
    """A graph with the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    x_bchw: Tensor
    labels_b: Tensor
    results: tuple[Tensor, Tensor]


@dataclass(slots=True)
class GraphedStep:
    """The same as one launch: a CUDA graph for each size of batch, captured at its first.

    The steps that warm up are undone before the capture, so that a run takes exactly the steps
    that it would have taken without.
    """

    eager: EagerStep
    model: nn.Module
    optimizer: torch.optim.Optimizer
    _captures: dict[int, _Capture] = field(default_factory=dict)

    def __call__(self, x_bchw: Tensor, labels_b: Tensor) -> tuple[Tensor, Tensor]:
        size = len(labels_b)
        if size not in self._captures:
            self._captures[size] = self._capture(x_bchw, labels_b)
        capture = self._captures[size]
        capture.x_bchw.copy_(x_bchw)
        capture.labels_b.copy_(labels_b)
        capture.graph.replay()
        return capture.results

    def _capture(self, x_bchw: Tensor, labels_b: Tensor) -> _Capture:
        x_bchw, labels_b = x_bchw.clone(), labels_b.clone()
        undo = remembered(self.model, self.optimizer)
        random = torch.cuda.get_rng_state(x_bchw.device)
        side = torch.cuda.Stream(x_bchw.device)  # type: ignore[no-untyped-call]  # as above
        side.wait_stream(torch.cuda.current_stream(x_bchw.device))
        # A stream carries its device along, which need not be the current one: a graph captured
        # on another would be empty.
        with torch.cuda.stream(side):
            for _ in range(WARMUP_STEPS):
                self.eager(x_bchw, labels_b)
        torch.cuda.current_stream(x_bchw.device).wait_stream(side)
        undo()
        torch.cuda.set_rng_state(random, x_bchw.device)
        # Gradients then lie in the graph's own memory.
        self.optimizer.zero_grad()
        graph = torch.cuda.CUDAGraph()
        # Twice, so that a capture that fails leaves the stream that it found.
        with torch.cuda.stream(side), torch.cuda.graph(graph, stream=side):
            results = self.eager(x_bchw, labels_b)
        return _Capture(graph, x_bchw, labels_b, results)


@torch.no_grad()
def remembered(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """Copy weights, statistics and momenta now; the result writes them back where they lie.

    Momenta that are not there yet begin as zeros, from which the first step makes the same.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if group["momentum"] and optimizer.state[parameter].get("momentum_buffer") is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    places = [*model.state_dict().values()]
    places += [x for state in optimizer.state.values() for x in state.values() if x is not None]
    before = [x.clone() for x in places]

    @torch.no_grad()
    def undo() -> None:
        for place, value in zip(places, before, strict=True):
            place.copy_(value)

    return undo


def choose_backend(
    model: nn.Module,
    build_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    batch: tuple[Tensor, Tensor],
    *,
    precision: Precision,
    clip: float | None = None,
) -> Backend:
    """The backend with the shortest step; "eager" without a trial where there is no GPU.

    Other optimisers than SGD are taken eagerly: only its state is known before a first step, as
    undoing the steps of a capture needs.

    Args:
        model: It is not changed: each trial trains a copy of it.
        build_optimizer: Makes the optimizer of a copy.
        batch: Images and labels of a whole batch, on the device.
        precision: As in `build_step`.
        clip: As there.
    """
    device = batch[0].device
    if device.type != "cuda":
        return "eager"
    random = torch.cuda.get_rng_state(device)
    seconds: dict[Backend, float] = {}
    for backend in BACKENDS:
        copy = deepcopy(model).train()
        try:
            optimizer = build_optimizer(copy)
            if backend != "eager" and not isinstance(optimizer, torch.optim.SGD):
                continue
            step = build_step(
                backend, copy, optimizer, device=device, precision=precision, clip=clip
            )
            seconds[backend] = _seconds(step, batch)
        except Exception:
            # torch.compile needs compilers that may be missing, and may fail on a user's network.
            if backend == "eager":
                raise
    torch.cuda.set_rng_state(random, device)
    return min(seconds, key=lambda backend: seconds[backend])


def settle_kernels(device: torch.device, precision: Precision) -> None:
    """Have cuDNN take kernels by rule and not by trial, and only those that repeat themselves.

    Otherwise a run that was stopped would not go on with the same bits. With "float32" that is
    not rounded to TF32 either.
    """
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        with warnings.catch_warnings():
            # Some versions announce here another setting, which other versions do not have.
            warnings.filterwarnings("ignore", message=".*new API settings")
            torch.backends.cudnn.allow_tf32 = precision == "bfloat16"


def _seconds(step: Step, batch: tuple[Tensor, Tensor]) -> float:
    for _ in range(2):
        step(*batch)
    torch.cuda.synchronize(batch[0].device)
    started = time.perf_counter()
    for _ in range(TRIAL_STEPS):
        step(*batch)
    torch.cuda.synchronize(batch[0].device)
    return time.perf_counter() - started
