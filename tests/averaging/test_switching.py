"""docs/switching.md: the same average, and leaving another tool in mid-run changes nothing."""

import re
from collections.abc import Callable
from math import exp
from pathlib import Path
from typing import Any

import pytest
import torch
from support.small_networks import drift, net
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import polyak
from polyak import EMA, Averager, Schedule, Uniform
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
        ({"multi_avg_fn": get_ema_multi_avg_fn(0.9)}, EMA(0.9, None, start=1)),
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


def constant(decay: float, *, copies: int = 0) -> Callable[[int], float]:
    """The weight of the n-th update's weights, n from 1: all of them at first, then 1 − d."""
    return lambda n: 1.0 if n <= copies else 1 - decay


def unbiased(decay: float) -> Callable[[int], float]:
    """ModuleDictEMA.step of audiocraft (bf70522): 1 over a count that decays as the average."""
    counts = [0.0]

    def weight(n: int) -> float:
        counts.append(counts[-1] * decay + 1)
        return 1 / counts[n]

    return weight


D = 0.9
FROM_SCRATCH = {
    # torch 2.13: n_averaged == 0 copies. Lightning 2.6 (0b35b0a) and timm with step= (0a044bf) too.
    "torch": (EMA(D, None, start=1), constant(D, copies=1), 1),
    "torch at a period": (EMA(D, None, start=1), constant(D, copies=1), 4),
    "torch at a period from step 9": (EMA(D, None, start=9), constant(D, copies=3), 4),
    "torch swa": (Uniform(), lambda n: 1 / n, 3),
    "torch-ema": (EMA(D, "torch_ema"), lambda n: 1 - min(D, (1 + n) / (10 + n)), 1),
    "torch-ema without num_updates": (EMA(D, warmup=None), constant(D), 1),
    "timm v2, v3 without step": (EMA(D, warmup=None), constant(D), 1),
    "timm v3 with step": (EMA(D, None, start=6), constant(D, copies=6), 1),
    "timm v3 with warm-up": (
        EMA(D, "inverse_gamma"),
        lambda n: 1 - min(D, 1 - n ** (-2 / 3)) if n > 1 else 1.0,
        1,
    ),
    "timm v3 with warm-up from step 5": (
        EMA(D, "inverse_gamma", start=5),
        lambda n: 1 - min(D, 1 - (n - 5) ** (-2 / 3)) if n > 6 else 1.0,
        1,
    ),
    "lightning from step 7": (
        EMA(D, None, start=8),
        # Its steps count from 0: the first that counts is the eighth.
        constant(D, copies=8),
        1,
    ),
    # BaseAveragedModel (1168850) copies at steps == 0; EMAHook (02f1880) begins at iter + 1 >= b.
    "mmengine": (EMA(1 - 0.1, None, start=1), constant(D, copies=1), 1),
    "mmengine from iteration 5": (
        EMA(1 - 0.1, None, start=5),
        constant(D, copies=5),
        1,
    ),
    "mmengine swa": (Uniform(), lambda n: 1 / n, 1),
    "litema": (EMA(D, "torch_ema"), lambda n: 1 - min(D, (1 + n) / (10 + n)), 1),
    "audiocraft": (
        Schedule(lambda update: (1 - D) / (1 - D ** (update.index + 1)), name="unbiased"),
        unbiased(D),
        1,
    ),
}


@pytest.mark.parametrize("row", FROM_SCRATCH)
def test_the_same_average_from_the_first_step_on(row):
    """Each row of the page against the tool's rule, written out."""
    average, weight, every = FROM_SCRATCH[row]
    model = net()
    ours = Averager(model, [average], every=every)
    theirs = {name: x.detach().clone() for name, x in model.named_parameters()}
    for step in range(1, 41):
        drift(model, step)
        ours.step()
        if step % every == 0:
            for name, x in model.named_parameters():
                theirs[name].lerp_(x.detach(), weight(step // every))
            same(ours.tensors(ours.names[0]), theirs)


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("late", [False, True])
def test_torchs_average_from_the_first_step_on(every, late):
    """The tool itself: by its start, and by an averager that is built when the tool begins."""
    model = net()
    peer = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(D), use_buffers=True)
    average = EMA(D, None, start=0 if late else 1, name="average")
    ours = None if late else Averager(model, [average], every=every)
    for step in range(1, 41):
        drift(model, step)
        if ours is not None:
            ours.step()
        if step % every == 0:
            peer.update_parameters(model)
            ours = ours or Averager(model, [average], every=every)
    assert ours is not None
    theirs = peer.module.state_dict()
    same(ours.tensors("average"), {k: x for k, x in theirs.items() if x.is_floating_point()})


def test_without_a_start_the_initial_weights_count_which_torch_forgets():
    """0 → 1, 2, 3 with d = 0.9: 1, 1.1, 1.29 in torch, not 0.1, 0.29, 0.561."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    peer = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(D))
    kinds = [EMA(D, None, start=1, name="same"), EMA(D, warmup=None, name="other")]
    ours = Averager(model, kinds)
    for value in (1.0, 2.0, 3.0):
        nn.init.constant_(model.weight, value)
        ours.step()
        peer.update_parameters(model)
    assert ours.tensors("same")["weight"].item() == pytest.approx(1.29)
    assert peer.module.weight.item() == pytest.approx(1.29)
    assert ours.tensors("other")["weight"].item() == pytest.approx(0.561)


def test_every_row_of_the_page_is_about_a_kind_that_can_be_built():
    page = Path(__file__).parents[2] / "docs" / "switching.md"
    table = page.read_text(encoding="utf-8").partition("## The same average")[2]
    table = table.partition("`InverseGamma` is in")[0]
    ours = [row.rpartition("| ")[2] for row in table.splitlines() if row.startswith("|")][2:]
    found = [
        code for cell in ours for code in re.findall(r"`((?:EMA|Uniform|Schedule)\(.*?\)+)`", cell)
    ]
    assert len(found) >= len(ours) - 1  # but that of buffers
    space = {"d": 0.9, "m": 0.1, "a": 3, "k": 2, "s": 5, "b": 4, "g": 1.0, "p": 0.75}
    space |= {"EMA": EMA, "Uniform": Uniform, "Schedule": Schedule, "InverseGamma": InverseGamma}
    for code in found:
        kind = eval(code.replace("…", "7"), space)
        assert Averager(net(), [kind]).names == (kind.label,)


class Rule:
    """Another tool's average by its rule, and the raw weights beside it."""

    def __init__(self, model: nn.Module, weight: Callable[[int], float]) -> None:
        self.model, self.weight, self.updates = model, weight, 0
        self.average = {key: x.clone() for key, x in model.state_dict().items()}

    def update(self) -> None:
        self.updates += 1
        for key, x in self.model.state_dict().items():
            lerp = x.is_floating_point()
            mean = self.average[key]
            mean.copy_(mean.lerp(x, self.weight(self.updates)) if lerp else x)

    def mmengine(self) -> dict[str, Any]:
        raw = {f"module.{key}": x for key, x in self.model.state_dict().items()}
        return {
            "state_dict": self.average,
            "ema_state_dict": {"steps": torch.tensor(self.updates), **raw},
        }

    def rt_detr(self) -> dict[str, Any]:
        ema = {"module": self.average, "updates": self.updates, "warmups": 2000}
        return {"model": self.model.state_dict(), "ema": ema}

    def lit_ema(self) -> dict[str, Any]:
        names = [name for name, _ in self.model.named_parameters()]
        return {
            **{f"model.{key}": x for key, x in self.model.state_dict().items()},
            **{f"model_ema.{name.replace('.', '')}": self.average[name] for name in names},
            "model_ema.decay": torch.tensor(D),
            "model_ema.num_updates": torch.tensor(self.updates),
        }


@pytest.mark.parametrize(
    ("layout", "weight", "average"),
    [
        (Rule.mmengine, constant(D, copies=1), EMA(1 - 0.1, None, start=1)),
        (Rule.rt_detr, lambda n: 1 - D * (1 - exp(-n / 2000)), EMA(D, "yolo")),
        (Rule.lit_ema, lambda n: 1 - min(D, (1 + n) / (10 + n)), EMA(D, "torch_ema")),
    ],
    ids=["mmengine", "rt_detr", "lit_ema"],
)
def test_files_of_tools_whose_rule_is_written_out(tmp_path, layout, weight, average):
    model = net()
    rule = Rule(model, weight)
    ours = switched(
        tmp_path / "peer.pt",
        model,
        rule.update,
        lambda: layout(rule),
        average=average,
        counter="updates",
    )
    names = [name for name, _ in model.named_parameters()]
    same(ours, {name: rule.average[name] for name in names})


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


def test_the_example_of_the_page_goes_on_as_torch_does(tmp_path, monkeypatch):
    page = Path(__file__).parents[2] / "docs" / "switching.md"
    examples = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) == 2
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    for example in examples:
        exec(example, space)
    model, optimizer = space["model"], space["optimizer"]
    for _ in range(20):
        model(torch.randn(16, 8)).square().mean().backward()
        optimizer.step()
        space["theirs"].update_parameters(model)
    assert space["averager"].updates == 120
    same(space["averager"].tensors("average"), dict(space["theirs"].module.named_parameters()))


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
    """ModelEmaV3's rule, written out: `step=` as its training script passes it, 1 at first.

    Without a warm-up the first update copies too; from then on the decay is constant."""
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
