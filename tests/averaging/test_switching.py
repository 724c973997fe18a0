"""docs/switching.md: leaving another tool in mid-run, with its file, changes nothing."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.small_networks import drift, net
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import polyak
from polyak import EMA, Averager, Uniform
from polyak.averaging import InverseGamma

BEFORE, AFTER = 23, 30


def switched(
    path: Path,
    model: nn.Module,
    update: Callable[[], Any],
    state: Callable[[], dict[str, Any]],
    *,
    average: Any,
    counter: str,
    late: int = 0,
    **options: Any,
) -> dict[str, torch.Tensor]:
    """Our average at the end of a run that left the other tool after `BEFORE` of its calls."""
    for seed in range(BEFORE):
        drift(model, seed)
        update()
    torch.save(state(), path)
    found = polyak.read_foreign(path, model)
    assert found.manifest[counter] == BEFORE
    averager = Averager(model, [average], **options)
    [name] = averager.names
    averager.adopt({name: found["average"]}, steps=found.manifest[counter] + late)
    for seed in range(BEFORE, BEFORE + AFTER):
        drift(model, seed)
        update()
        averager.step()
    return averager.tensors(name)


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert theirs
    for name, x in theirs.items():
        torch.testing.assert_close(ours[name], x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "average"),
    [
        ({"multi_avg_fn": get_ema_multi_avg_fn(0.9)}, EMA(0.9, warmup=None)),
        ({}, Uniform()),
    ],
    ids=["ema", "swa"],
)
@pytest.mark.parametrize("buffers", ["average", "copy"])
def test_an_averaged_model_of_torch(tmp_path, settings, average, buffers):
    model = net()
    peer = AveragedModel(model, use_buffers=buffers == "average", **settings)
    ours = switched(
        tmp_path / "peer.pt",
        model,
        lambda: peer.update_parameters(model),
        peer.state_dict,
        average=average,
        counter="updates",
        buffers=buffers,
    )
    theirs = peer.module.state_dict()
    same(ours, {key: x for key, x in theirs.items() if x.is_floating_point()})


def test_an_averaged_model_that_is_updated_at_a_period(tmp_path):
    """Its counter counts updates: steps are that times the period."""
    every, model = 4, net()
    peer = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True)
    ours = None
    for step in range(1, 60):
        drift(model, step)
        if step % every == 0:
            peer.update_parameters(model)
        if step == 22:
            torch.save(peer.state_dict(), tmp_path / "peer.pt")
            found = polyak.read_foreign(tmp_path / "peer.pt")
            ours = Averager(model, [EMA(0.8, warmup=None)], every=every)
            # Two steps into the next period.
            steps = found.manifest["updates"] * every + 2
            ours.adopt({"ema_0.8": found["average"]}, steps=steps)
        elif ours is not None:
            ours.step()
    assert ours is not None
    assert (ours.steps, ours.updates) == (59, 14)
    same(ours.tensors("ema_0.8"), dict(peer.module.named_parameters()))


def test_a_mean_of_torch_that_began_late(tmp_path):
    every, start, model = 4, 8, net()
    peer, ours = AveragedModel(model), None
    for step in range(1, 50):
        drift(model, step)
        if step > start and step % every == 0:
            peer.update_parameters(model)
        if step == 24:
            average = {"average": dict(peer.module.named_parameters())}
            ours = Averager(model, [Uniform(start=start, name="average")], every=every)
            ours.adopt(average, steps=start + int(peer.n_averaged) * every)
        elif ours is not None:
            ours.step()
    assert ours is not None
    same(ours.tensors("average"), dict(peer.module.named_parameters()))


def test_the_example_of_the_page_runs(tmp_path, monkeypatch):
    page = Path(__file__).parents[2] / "docs" / "switching.md"
    [example] = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    model = net()
    average = [torch.full_like(x, 2.0) for x in model.parameters()]
    state = {"decay": 0.9999, "num_updates": 70, "shadow_params": average}
    monkeypatch.chdir(tmp_path)
    torch.save({**state, "collected_params": None}, "ema.pt")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    space = {"polyak": polyak, "model": model, "optimizer": optimizer}
    exec(example, space)
    optimizer.step()
    averager = space["averager"]
    assert averager.updates == 71
    d = (70 + 2) / (70 + 11)
    expected = 2.0 * d + model[0].weight * (1 - d)
    torch.testing.assert_close(averager.tensors("average")["0.weight"], expected)


@pytest.mark.oracle
@pytest.mark.parametrize("decay", [0.7, 0.9999])
def test_torch_ema(tmp_path, decay):
    torch_ema = pytest.importorskip("torch_ema")
    model = net()
    peer = torch_ema.ExponentialMovingAverage(model.parameters(), decay=decay)
    ours = switched(
        tmp_path / "peer.pt",
        model,
        peer.update,
        peer.state_dict,
        average=EMA(decay, "torch_ema"),
        counter="updates",
    )
    names = [name for name, _ in model.named_parameters()]
    same(ours, dict(zip(names, peer.shadow_params, strict=True)))


@pytest.mark.oracle
@pytest.mark.parametrize("every", [1, 10])
@pytest.mark.parametrize("after", [0, 15, 100])
def test_ema_pytorch(tmp_path, every, after):
    """Its period begins with the first call, ours ends with the `every`-th step."""
    ema_pytorch = pytest.importorskip("ema_pytorch")
    model, late = net(), every - 1
    peer = ema_pytorch.EMA(model, beta=0.95, update_every=every, update_after_step=after)
    ours = switched(
        tmp_path / "peer.pt",
        model,
        peer.update,
        peer.state_dict,
        average=EMA(0.95, InverseGamma(after=after + late), warmup_counts="steps"),
        counter="steps",
        late=late,
        every=every,
    )
    same(ours, dict(peer.ema_model.named_parameters()))


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("settings", "warmup"),
    [
        ({}, "diffusers"),
        ({"use_ema_warmup": True}, "inverse_gamma"),
        (
            {"use_ema_warmup": True, "update_after_step": 5, "inv_gamma": 2.0, "power": 0.75},
            InverseGamma(gamma=2.0, power=0.75, after=5),
        ),
    ],
)
def test_diffusers(tmp_path, settings, warmup):
    training_utils = pytest.importorskip("diffusers.training_utils")
    model = net()
    peer = training_utils.EMAModel(model.parameters(), decay=0.95, **settings)
    ours = switched(
        tmp_path / "peer.pt",
        model,
        lambda: peer.step(model.parameters()),
        peer.state_dict,
        average=EMA(0.95, warmup),
        counter="updates",
    )
    names = [name for name, _ in model.named_parameters()]
    same(ours, dict(zip(names, peer.shadow_params, strict=True)))


@pytest.mark.parametrize("use_warmup", [False, True])
def test_timm_whose_file_holds_no_counter(tmp_path, use_warmup):
    """ModelEmaV3's rule, written out: `step=` as its training script passes it, 1 at first."""
    model, decay = net(), 0.95
    theirs = {key: x.clone() for key, x in model.state_dict().items()}

    def update(step: int) -> None:
        ramp = 1 - step ** (-2 / 3) if step > 1 else 0.0
        d = min(decay, ramp) if use_warmup else decay
        for key, x in model.state_dict().items():
            theirs[key].copy_(x if not x.is_floating_point() else theirs[key].lerp(x, 1 - d))

    for step in range(1, BEFORE + 1):
        drift(model, step)
        update(step)
    saved = {"state_dict": model.state_dict(), "state_dict_ema": theirs, "epoch": 1}
    torch.save(saved, tmp_path / "last.pth.tar")
    found = polyak.read_foreign(tmp_path / "last.pth.tar")
    warmup = "inverse_gamma" if use_warmup else None
    averager = Averager(model, [EMA(decay, warmup, name="average")])
    averager.adopt({"average": found["average"]}, steps=BEFORE)
    for step in range(BEFORE + 1, BEFORE + AFTER):
        drift(model, step)
        update(step)
        averager.step()
    same(averager.tensors("average"), theirs)
