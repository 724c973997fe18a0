from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from shutil import which

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from polyak.errors import ConfigError
from polyak.models import ModelConfig, build
from polyak.training.config import PRECISIONS
from polyak.training.loop import Run
from polyak.training.optim import OptimConfig, build_optimizer, set_learning_rate
from polyak.training.steps import (
    BACKENDS,
    GraphedStep,
    build_step,
    choose_backend,
    lowered,
    remembered,
)

CPU = torch.device("cpu")
RATE = OptimConfig(lr=0.1)

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

# Said once in a process: by torch with CUDA when waits are made errors, and by some versions of
# the only way to choose TF32 that all have.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
    pytest.mark.filterwarnings("ignore:Please use the new API settings to control TF32"),
]


def _network(device: torch.device = CPU) -> nn.Module:
    size = ModelConfig(name="resnet8", width=4)
    model = build(size, classes=10, channels=1, image_size=8, generator_seed=0)
    return model.to(device)


def _batches(count: int, *, size: int = 6, device: torch.device = CPU):
    draws = torch.Generator().manual_seed(1)
    for _ in range(count):
        x_bchw = torch.randn(size, 1, 8, 8, generator=draws)
        labels_b = torch.randint(0, 10, (size,), generator=draws)
        yield x_bchw.to(device), labels_b.to(device)


def _same(a: nn.Module, b: nn.Module) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(x, theirs[key]) for key, x in a.state_dict().items())


def test_a_step_is_that_of_a_plain_loop_bit_for_bit():
    model, twin = _network(), _network()
    optimizer, plain = (build_optimizer(m, RATE) for m in (model, twin))
    step = build_step("eager", model, optimizer, device=CPU, precision="float32")
    for x_bchw, labels_b in _batches(5):
        loss, right = step(x_bchw, labels_b)
        plain.zero_grad()
        logits_bk = twin(x_bchw)
        expected = F.cross_entropy(logits_bk, labels_b)
        expected.backward()
        plain.step()
        assert torch.equal(loss, expected)
        assert right == (logits_bk.argmax(dim=1) == labels_b).sum()
        assert not loss.requires_grad
    assert _same(model, twin)


def test_fused_sgd_is_the_reference_up_to_rounding():
    """What GPUs use; here its kernel for CPUs."""
    model, twin = _network(), _network()
    reference = build_optimizer(model, RATE)
    assert reference.param_groups[0]["fused"] is None
    settings = {k: reference.defaults[k] for k in ("lr", "momentum", "weight_decay", "nesterov")}
    rate = torch.tensor(settings.pop("lr"))
    fused = torch.optim.SGD(twin.parameters(), lr=rate, fused=True, **settings)
    steps = [
        build_step("eager", m, o, device=CPU, precision="float32")
        for m, o in ((model, reference), (twin, fused))
    ]
    for index, batch in enumerate(_batches(8)):
        for optimizer, step in zip((reference, fused), steps, strict=True):
            set_learning_rate(optimizer, 0.1 / (index + 1))
            step(*batch)
    assert fused.param_groups[0]["lr"] is rate
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_rate_that_is_a_tensor_keeps_its_place():
    """A CUDA graph reads it there."""
    rate = torch.tensor(0.1)
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=rate)
    place = rate.data_ptr()
    set_learning_rate(optimizer, 0.25)
    assert optimizer.param_groups[0]["lr"].data_ptr() == place
    assert rate.item() == 0.25


@pytest.mark.parametrize("begun", [False, True], ids=["at the start", "in the middle"])
def test_steps_that_were_undone_leave_no_trace(begun):
    """As when a graph is captured: what it warms up with is no part of the run."""
    model, twin = _network(), _network()
    optimizer, other = (build_optimizer(m, RATE) for m in (model, twin))
    step, plain = (
        build_step("eager", m, o, device=CPU, precision="float32")
        for m, o in ((model, optimizer), (twin, other))
    )
    batches = list(_batches(4))
    for batch in batches[: 2 if begun else 0]:
        step(*batch)
        plain(*batch)
    places = [x.data_ptr() for x in model.state_dict().values()]
    undo = remembered(model, optimizer)
    momenta = [state["momentum_buffer"].data_ptr() for state in optimizer.state.values()]
    for batch in batches:
        step(*batch)
    assert not _same(model, twin)
    undo()
    assert _same(model, twin)
    for batch in batches[2:]:
        step(*batch)
        plain(*batch)
    assert _same(model, twin)
    # A graph writes to the addresses that it was captured with.
    assert [x.data_ptr() for x in model.state_dict().values()] == places
    assert [s["momentum_buffer"].data_ptr() for s in optimizer.state.values()] == momenta


@pytest.mark.parametrize("precision", PRECISIONS)
def test_products_are_computed_in_the_precision_asked_for(precision):
    with lowered(CPU, precision)():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == getattr(torch, precision)


def test_a_bfloat16_step_changes_float32_weights_by_float32_gradients_of_a_float32_loss():
    model, twin = _network(), _network()
    optimizer = build_optimizer(model, RATE)
    step = build_step("eager", model, optimizer, device=CPU, precision="bfloat16")
    (batch,) = _batches(1)
    loss, _ = step(*batch)
    exact, _ = build_step(
        "eager", twin, build_optimizer(twin, RATE), device=CPU, precision="float32"
    )(*batch)
    assert loss.dtype == torch.float32
    assert loss != exact
    assert loss == pytest.approx(exact.item(), rel=0.02)
    tensors = [*model.parameters(), *(p.grad for p in model.parameters())]
    statistics = [x for x in model.buffers() if x.is_floating_point()]
    assert {x.dtype for x in (*tensors, *statistics)} == {torch.float32}


def test_a_weight_lent_within_the_block_is_the_one_that_is_computed_with():
    """Autocast's own cache would go on with the first."""
    layer = nn.Linear(2, 2, bias=False)
    x = torch.ones(1, 2)
    with torch.no_grad(), lowered(CPU, "bfloat16")():
        layer.weight.fill_(1.0)
        before = layer(x)
        layer.weight.fill_(2.0)
        assert torch.equal(layer(x), 2 * before)


def test_a_cpu_takes_eager_steps_without_a_trial():
    def refuse(_model):
        raise AssertionError

    assert choose_backend(_network(), refuse, next(_batches(1)), precision="float32") == "eager"


def test_backends_that_are_not_there_are_refused():
    model = _network()
    build = partial(
        build_step, model=model, optimizer=build_optimizer(model, RATE), precision="float32"
    )
    with pytest.raises(ConfigError, match=r"backend is 'graph' on cpu; expected 'eager'"):
        build("graph", device=CPU)
    with pytest.raises(ConfigError, match="backend is 'jit'"):
        build("jit", device=CPU)


def test_a_graph_is_captured_on_the_networks_device_whatever_the_current_one(monkeypatch):
    """On a stream of another device nothing would be captured, and replays would train nothing."""
    entered = []

    class Stream:
        def __init__(self, device=None):
            self.device = device

        def wait_stream(self, other):
            assert other.device == self.device

    @contextmanager
    def on(stream):
        entered.append(stream)
        yield
        assert entered.pop() is stream

    @contextmanager
    def capture(graph, *, stream):
        assert stream.device == CPU
        assert entered[-1] is stream
        yield

    current = Stream(CPU)
    for name, fake in {
        "Stream": Stream,
        "stream": on,
        "graph": capture,
        "current_stream": lambda device: current,
        "CUDAGraph": object,
        "get_rng_state": lambda device: None,
        "set_rng_state": lambda state, device: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    model = _network()
    optimizer = build_optimizer(model, RATE)
    eager = build_step("eager", model, optimizer, device=CPU, precision="float32")
    captured = GraphedStep(eager, model, optimizer)._capture(*next(_batches(1)))
    assert captured.results[0].isfinite()
    assert entered == []


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_graph_is_the_eager_steps_over_fifty_steps_and_two_sizes(precision, monkeypatch):
    # As in a run; what else differs from step to step grows.
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    device = torch.device("cuda")
    models = [_network(device), _network(device)]
    optimizers = [build_optimizer(model, RATE) for model in models]
    steps = [
        build_step(backend, model, optimizer, device=device, precision=precision)
        for backend, model, optimizer in zip(("eager", "graph"), models, optimizers, strict=True)
    ]
    whole = _batches(50, size=64, device=device)
    short = list(_batches(10, size=24, device=device))
    for index, batch in enumerate(whole):
        for part in (batch, short[index // 5]) if index % 5 == 4 else (batch,):
            losses = []
            for optimizer, step in zip(optimizers, steps, strict=True):
                set_learning_rate(optimizer, 0.1 / (index + 1))
                losses.append(step(*part)[0].clone())
            assert torch.allclose(*losses, rtol=1e-2 if precision == "bfloat16" else 1e-4)
    for a, b in zip(*(m.state_dict().values() for m in models), strict=True):
        near = (
            {"rtol": 1e-3, "atol": 1e-4} if precision == "float32" else {"rtol": 1e-2, "atol": 1e-2}
        )
        assert torch.allclose(a, b, **near)


@pytest.mark.gpu
@on_gpu
@pytest.mark.skipif(not any(map(which, ("cc", "gcc", "clang"))), reason="there is no C compiler")
@pytest.mark.filterwarnings("ignore")  # A compiler's advice is none of ours.
def test_a_compiled_graph_takes_the_eager_steps_up_to_rounding(monkeypatch):
    """A trial leaves out in silence what raises; here that is seen."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    device = torch.device("cuda")
    models = [_network(device), _network(device)]
    optimizers = [build_optimizer(model, RATE) for model in models]
    steps = [
        build_step(backend, model, optimizer, device=device, precision="float32")
        for backend, model, optimizer in zip(("eager", "compiled"), models, optimizers, strict=True)
    ]
    for batch in [*_batches(4, size=64, device=device), *_batches(2, size=24, device=device)]:
        one, other = (step(*batch)[0].clone() for step in steps)
        assert torch.allclose(one, other, rtol=1e-3)
    assert models[1].norm.num_batches_tracked == 6


@pytest.mark.gpu
@on_gpu
def test_a_trial_changes_nothing_and_finds_one_of_the_backends():
    device = torch.device("cuda")
    model, twin = _network(device), _network(device)
    build = partial(build_optimizer, config=RATE)
    batch = next(_batches(1, size=64, device=device))
    assert choose_backend(model, build, batch, precision="float32") in BACKENDS
    assert _same(model, twin)


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("backend", ["eager", "graph"])
def test_an_epoch_on_a_gpu_waits_for_it_only_at_its_end(tiny, backend):
    from polyak.data import load, partition

    data = partition(load(tiny.data), tiny.data, holdout=True)
    run = Run(replace(tiny, epochs=4), data, device=torch.device("cuda"))
    run.use_backend(backend)
    run._train_epoch(1)
    run.batch = 0
    batches = run.images.batches(16, order=run.order, draws=run.draws)
    run.model.train()
    try:
        torch.cuda.set_sync_debug_mode("error")
        for batch in batches:
            run._train_batch(*batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert run.losses.isfinite().all()
