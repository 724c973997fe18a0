"""The same recurrence as other tools', step by step, where they define the same average."""

import pytest
import torch
from torch import nn

from polyak import EMA, Averager
from polyak.averaging import InverseGamma

STEPS = 60


def wander(model: nn.Module, generator: torch.Generator) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))


@pytest.mark.oracle
def test_a_constant_decay_is_torch_emas() -> None:
    torch_ema = pytest.importorskip("torch_ema")
    draws = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    peer = torch_ema.ExponentialMovingAverage(model.parameters(), decay=0.9, use_num_updates=False)
    averager = Averager(model, [EMA(0.9, warmup=None)])
    for _ in range(STEPS):
        wander(model, draws)
        peer.update()
        averager.update()
    ours = averager.tensors("ema_0.9").values()
    torch.testing.assert_close(list(ours), list(peer.shadow_params), rtol=1e-5, atol=1e-6)


@pytest.mark.oracle
def test_a_constant_decay_is_ema_pytorchs() -> None:
    ema_pytorch = pytest.importorskip("ema_pytorch")
    draws = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    # Its warm-up is 1 − (1 + step)^(−power), clamped from below by min_value.
    peer = ema_pytorch.EMA(model, beta=0.9, min_value=0.9, update_after_step=0, update_every=1)
    peer.update()  # the first update only copies
    averager = Averager(model, [EMA(0.9, warmup=None)])
    for _ in range(STEPS):
        wander(model, draws)
        peer.update()
        averager.update()
    ours = averager.module("ema_0.9").state_dict()
    theirs = peer.ema_model.state_dict()
    for name in dict(model.named_parameters()):
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6)


@pytest.mark.oracle
@pytest.mark.parametrize("decay", [0.7, 0.9999])
def test_the_warm_up_of_torch_ema(decay: float) -> None:
    torch_ema = pytest.importorskip("torch_ema")
    draws = torch.Generator().manual_seed(0)
    model = nn.Linear(3, 4)
    peer = torch_ema.ExponentialMovingAverage(model.parameters(), decay=decay)
    averager = Averager(model, [EMA(decay, "torch_ema", name="ours"), EMA(decay, name="paper")])
    for _ in range(STEPS):
        wander(model, draws)
        peer.update()
        averager.update()
    ours, papers = (list(averager.tensors(name).values()) for name in ("ours", "paper"))
    torch.testing.assert_close(ours, list(peer.shadow_params), rtol=1e-5, atol=1e-6)
    if decay > 0.9:  # the paper's, one update behind, is another average while it lasts
        assert not torch.allclose(papers[0], peer.shadow_params[0], rtol=1e-5, atol=1e-6)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("settings", "warmup"),
    [
        ({"update_after_step": 0}, "inverse_gamma"),
        ({"update_after_step": 7, "power": 0.75}, InverseGamma(power=0.75, after=7)),
        (
            {"update_after_step": 3, "inv_gamma": 4.0, "power": 1.0, "min_value": 0.3},
            InverseGamma(gamma=4.0, power=1.0, min_decay=0.3, after=3),
        ),
    ],
)
def test_the_warm_up_of_ema_pytorch(settings: dict[str, float], warmup: object) -> None:
    ema_pytorch = pytest.importorskip("ema_pytorch")
    draws = torch.Generator().manual_seed(0)
    model = nn.Linear(3, 4)
    peer = ema_pytorch.EMA(model, beta=0.9, update_every=1, **settings)
    averager = Averager(model, [EMA(0.9, warmup, name="ours")])
    for _ in range(STEPS):
        wander(model, draws)
        peer.update()
        averager.update()
    theirs = peer.ema_model.state_dict()
    for name, x in averager.tensors("ours").items():
        torch.testing.assert_close(x, theirs[name], rtol=1e-5, atol=1e-6)
