"""polyak export --as: other tools load the file by their own loader and go on with the average."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.small_networks import assert_same_bits, drift, net
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import polyak
from polyak import EMA, Averager, PowerEMA, Uniform
from polyak.averaging import InverseGamma
from polyak.averaging.files.export import read_kept, write_as
from polyak.averaging.files.layouts.written import TOOLS, parameters_of
from polyak.errors import ConfigError

BEFORE, AFTER = 23, 30
State = dict[str, torch.Tensor]


def handed_over(
    path: Any,
    tool: str,
    average: Any,
    load: Callable[[nn.Module, dict[str, Any]], Callable[[], Any]],
    *,
    every: int = 1,
    raw: bool = False,
) -> tuple[State, nn.Module]:
    """Our average at the end of a run that the other tool has gone on with in the middle.

    `load` gives the tool what was read and the model, and gets a call for each step back.
    """
    model = net()
    averager = Averager(model, [average], every=every)
    for seed in range(BEFORE):
        drift(model, seed)
        averager.step()
    [name] = averager.names
    if raw:
        own = {key: x.clone() for key, x in model.state_dict().items()}
        polyak.save({name: averager.tensors(name), "raw": own}, path, manifest=facts(averager))
    else:
        polyak.save(averager, path)
    read, kept = read_kept(path, name)
    assert read == name
    write_as(tool, kept, path.with_suffix(".pt"))
    update = load(model, torch.load(path.with_suffix(".pt"), weights_only=True))
    for seed in range(BEFORE, BEFORE + AFTER):
        drift(model, seed)
        averager.step()
        update()
    return averager.tensors(name), model


def facts(averager: Averager) -> dict[str, Any]:
    state = averager.state_dict()
    counts = {key: state["history"][key] for key in ("steps", "updates", "every")}
    return {"averages": state["averages"], **counts}


def same(theirs: State, ours: State) -> None:
    assert theirs
    # Integers are copied at the moments of updates, which a tool's script decides.
    for key, x in theirs.items():
        if not x.is_floating_point():
            continue
        torch.testing.assert_close(x, ours[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("average", "settings"),
    [
        (EMA(0.9, None), {"multi_avg_fn": get_ema_multi_avg_fn(0.9)}),
        (EMA(0.9, None, start=1), {"multi_avg_fn": get_ema_multi_avg_fn(0.9)}),
        (EMA(0.9, None, start=40), {"multi_avg_fn": get_ema_multi_avg_fn(0.9)}),
        (Uniform(), {}),
        (Uniform(start=10), {}),
    ],
    ids=["ema", "ema from 1", "ema from 40", "uniform", "uniform from 10"],
)
def test_torchs_averaged_model_goes_on(tmp_path, average, settings):
    def load(model, content):
        averaged = AveragedModel(model, use_buffers=True, **settings)
        averaged.load_state_dict(content)
        loaded.append(averaged)
        calls = iter(range(BEFORE + 1, BEFORE + AFTER + 1))
        start = getattr(average, "start", None) or 0
        # It is called from the step on from which it averages.
        return lambda: next(calls) >= start and averaged.update_parameters(model)

    loaded: list[AveragedModel] = []
    ours, _ = handed_over(tmp_path / "a", "torch", average, load)
    same(dict(loaded[0].module.state_dict()), ours)


def joined_later(model):
    """A mean in a bank that had updated before, and how much is in it."""
    before = Averager(model, EMA(0.9, None))
    for seed in range(9):
        drift(model, seed)
        before.step()
    averager = Averager(model, [EMA(0.9, None), Uniform(name="mean")])
    with pytest.warns(RuntimeWarning, match="loaded in part"):
        averager.load_state_dict(before.state_dict(), strict=False)
    for seed in range(9, 14):
        drift(model, seed)
        averager.step()
    return averager, 5


def begun_after_a_skipped_update(model):
    """A mean that begins when an update of its bank was skipped, and how much is in it."""
    averager = Averager(model, Uniform(start=6, name="mean"))
    own = {key: x.clone() for key, x in model.state_dict().items()}
    model.load_state_dict(
        {k: x * float("nan") if x.is_floating_point() else x for k, x in own.items()}
    )
    with pytest.warns(RuntimeWarning, match="hold NaN"):
        averager.step()
    model.load_state_dict(own)
    for seed in range(1, 14):
        drift(model, seed)
        averager.step()
    return averager, 8


@pytest.mark.parametrize("file", ["of save", "checkpoint"])
@pytest.mark.parametrize("bank", [joined_later, begun_after_a_skipped_update])
def test_a_mean_goes_on_with_the_count_of_what_is_in_it(tmp_path, bank, file):
    model = net()
    averager, count = bank(model)
    if file == "of save":
        polyak.save(averager, tmp_path / "a")
    else:
        torch.save({"averager": averager.state_dict()}, tmp_path / "a")
    name = next(x for x in polyak.read_foreign(tmp_path / "a") if x.endswith("mean"))
    write_as("torch", read_kept(tmp_path / "a", name)[1], tmp_path / "a.pt")
    theirs = AveragedModel(model, use_buffers=True)
    theirs.load_state_dict(torch.load(tmp_path / "a.pt", weights_only=True))
    assert theirs.n_averaged == count
    for seed in range(14, 20):
        drift(model, seed)
        averager.step()
        theirs.update_parameters(model)
    same(dict(theirs.module.state_dict()), averager.tensors("mean"))


@pytest.mark.oracle
@pytest.mark.parametrize("warmup", [None, "torch_ema", "paper"])
def test_torch_ema_goes_on(tmp_path, warmup):
    torch_ema = pytest.importorskip("torch_ema")

    def load(model, content):
        parameters = [x for x in model.parameters()]
        theirs = torch_ema.ExponentialMovingAverage(parameters, decay=0.5)
        theirs.load_state_dict(content)
        assert theirs.decay == 0.97
        loaded.append(theirs)
        return lambda: theirs.update(parameters)

    loaded: list[Any] = []
    ours, model = handed_over(tmp_path / "a", "torch-ema", EMA(0.97, warmup), load)
    names = [name for name, _ in model.named_parameters()]
    same(dict(zip(names, loaded[0].shadow_params, strict=True)), ours)


DIFFUSERS = [
    EMA(0.97, None),
    EMA(0.97, "paper"),
    EMA(0.97, "diffusers"),
    EMA(0.97, "inverse_gamma"),
    EMA(0.97, InverseGamma(gamma=2.0, power=0.75, after=3)),
]


@pytest.mark.oracle
@pytest.mark.parametrize("average", DIFFUSERS, ids=repr)
def test_diffusers_goes_on(tmp_path, average):
    utils = pytest.importorskip("diffusers.training_utils")

    def load(model, content):
        theirs = utils.EMAModel(list(model.parameters()), decay=0.5)
        theirs.load_state_dict(content)
        assert (theirs.decay, theirs.optimization_step) == (0.97, BEFORE)
        loaded.append(theirs)
        return lambda: theirs.step(list(model.parameters()))

    loaded: list[Any] = []
    ours, model = handed_over(tmp_path / "a", "diffusers", average, load)
    names = [name for name, _ in model.named_parameters()]
    same(dict(zip(names, loaded[0].shadow_params, strict=True)), ours)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_a_folder_of_diffusers_is_loaded_with_its_counter_and_decay(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    utils = pytest.importorskip("diffusers.training_utils")
    torch.manual_seed(0)
    model = diffusers.AutoencoderKL(
        block_out_channels=(4,), norm_num_groups=2, latent_channels=2, sample_size=8
    )
    averager = Averager(model, EMA(0.97, "diffusers", name="ema"))
    for _ in range(5):
        with torch.no_grad():
            for x in model.parameters():
                x.add_(torch.randn_like(x))
        averager.step()
    polyak.save(averager, tmp_path / "a")
    folder = tmp_path / "unet_ema"
    averager.module().save_pretrained(folder)
    write_as("diffusers", read_kept(tmp_path / "a", "ema")[1], folder)
    theirs = utils.EMAModel.from_pretrained(folder, diffusers.AutoencoderKL)
    assert (theirs.decay, theirs.optimization_step) == (0.97, 5)
    names = [name for name, _ in model.named_parameters()]
    assert_same_bits(
        dict(zip(names, theirs.shadow_params, strict=True)),
        {name: x for name, x in averager.tensors().items() if name in names},
    )
    assert polyak.read_foreign(folder).manifest["updates"] == 5


@pytest.mark.oracle
@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("every", [1, 4])
def test_ema_pytorch_goes_on(tmp_path, every, raw):
    ema_pytorch = pytest.importorskip("ema_pytorch")
    # Of `every` calls the first updates, so that the same steps are k - 1 calls later.
    late = every - 1

    def load(model, content):
        theirs = ema_pytorch.EMA(
            model, beta=0.97, update_every=every, update_after_step=0, include_online_model=raw
        )
        theirs.load_state_dict(content)
        assert theirs.step.item() == BEFORE - late
        loaded.append(theirs)
        return theirs.update

    loaded: list[Any] = []
    average = EMA(0.97, InverseGamma(after=every - 1), warmup_counts="steps")
    ours, _ = handed_over(tmp_path / "a", "ema-pytorch", average, load, every=every, raw=raw)
    same(dict(loaded[0].ema_model.named_parameters()), ours)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("average", "every"),
    [
        (EMA(0.97, None), 1),
        (EMA(0.97, None), 4),
        (EMA(0.97, "inverse_gamma"), 1),
        (EMA(0.97, InverseGamma(2.0, 0.75, 0.1, after=9), warmup_counts="steps"), 4),
        (EMA(0.5, "paper"), 1),
    ],
    ids=repr,
)
def test_ema_pytorch_goes_on_as_built_by_what_is_said(tmp_path, average, every):
    ema_pytorch = pytest.importorskip("ema_pytorch")

    def load(model, content):
        _read, kept = read_kept(tmp_path / "a", None)
        built, _, rest = write_as("ema-pytorch", kept, tmp_path / "b.pt").rpartition(".load")
        assert rest == "_state_dict(…)"
        theirs = eval(built, {"EMA": ema_pytorch.EMA, "model": model})
        theirs.load_state_dict(content)
        loaded.append(theirs)
        return theirs.update

    loaded: list[Any] = []
    ours, _ = handed_over(tmp_path / "a", "ema-pytorch", average, load, every=every)
    same(dict(loaded[0].ema_model.named_parameters()), ours)


@pytest.mark.parametrize("tool", ["torch", "ema-pytorch"])
def test_a_warmup_that_a_tool_will_not_go_on_with_is_said(tmp_path, tool):
    young, old = kept(tmp_path, EMA(0.99, "yolo")), kept(tmp_path, EMA(0.2, "torch_ema"), updates=9)
    assert "the warm-up, which has not ended" in write_as(tool, young, tmp_path / "out.pt")
    assert "warm-up" not in write_as(tool, old, tmp_path / "out.pt")


def test_timm_takes_the_average_by_its_rule(tmp_path):
    """timm cannot be had here: `load_state_dict(path, use_ema)` of its models/_helpers.py."""

    def of_timm(content, use_ema):
        for key in (("state_dict_ema", "model_ema") if use_ema else ()) + ("state_dict", "model"):
            if key in content:
                return {name.removeprefix("module."): x for name, x in content[key].items()}
        raise AssertionError("no weights")

    def load(model, content):
        average, raw = net(), net()
        average.load_state_dict(of_timm(content, True))
        raw.load_state_dict(of_timm(content, False))
        assert_same_bits(raw.state_dict(), model.state_dict())
        loaded.append(average.state_dict())
        return lambda: None

    loaded: list[State] = []
    handed_over(tmp_path / "a", "timm", EMA(0.9), load, raw=True)
    found = polyak.read_foreign(tmp_path / "a.pt")
    assert found.manifest["tool"] == "timm"
    assert_same_bits(found["average"], loaded[0])


@pytest.mark.parametrize("tool", TOOLS)
def test_what_is_written_is_read_back(tmp_path, tool):
    model = net()
    averager = Averager(model, [EMA(0.9, None, name="ema")])
    for seed in range(3):
        drift(model, seed)
        averager.step()
    own = {"ema": averager.tensors("ema"), "raw": model.state_dict()}
    polyak.save(own, tmp_path / "a", manifest=facts(averager))
    write_as(tool, read_kept(tmp_path / "a", "ema")[1], tmp_path / "a.pt")
    found = polyak.read_foreign(tmp_path / "a.pt", model)
    expected = averager.tensors("ema")
    assert found["average"].keys() <= expected.keys()
    for name, x in found["average"].items():
        assert torch.equal(x, expected[name])
    counter = "steps" if tool == "ema-pytorch" else "updates"
    if tool not in ("timm", "torch-ema"):  # the one has none, the other none without a warm-up
        assert found.manifest[counter] == 3


def kept(tmp_path, average, *, updates=3):
    model = net()
    averager = Averager(model, average)
    for seed in range(updates):
        drift(model, seed)
        averager.step()
    polyak.save(averager, tmp_path / "a")
    return read_kept(tmp_path / "a", None)[1]


@pytest.mark.parametrize("tool", ["torch-ema", "diffusers"])
def test_what_a_tools_file_cannot_say_is_refused(tmp_path, tool):
    with pytest.raises(ConfigError, match=r"of kind 'power'; expected an EMA"):
        write_as(tool, kept(tmp_path, PowerEMA(sigma_rel=0.1)), tmp_path / "out.pt")
    young = kept(tmp_path, EMA(0.99, "yolo"))
    with pytest.raises(ConfigError, match=r"the warm-up is .* and has not ended; expected"):
        write_as(tool, young, tmp_path / "out.pt")
    late = kept(tmp_path, EMA(0.5, "torch_ema", start=8), updates=11)
    with pytest.raises(ConfigError, match=r"the warm-up is .* and has not ended; expected"):
        write_as(tool, late, tmp_path / "out.pt")
    old = kept(tmp_path, EMA(0.2, "torch_ema", start=1), updates=9)
    write_as(tool, old, tmp_path / "out.pt")


def test_files_that_say_too_little_and_unknown_tools_are_refused(tmp_path):
    polyak.save({"a": net().state_dict()}, tmp_path / "plain")
    with pytest.raises(ConfigError, match="does not say by which rule"):
        read_kept(tmp_path / "plain", "a")
    with pytest.raises(ConfigError, match=r"as is 'keras'; expected one of torch, timm"):
        write_as("keras", kept(tmp_path, 0.9), tmp_path / "out.pt")
    for tool in ("torch", "diffusers"):
        with pytest.raises(ConfigError, match=r"a folder; expected a file|save_pretrained"):
            write_as(tool, kept(tmp_path, 0.9), tmp_path)


def test_parameters_are_those_of_the_module_in_order_and_tied_ones_once():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    model[2].weight = model[0].weight
    found = parameters_of(model.state_dict())
    expected = list(model.parameters())
    assert [x.data_ptr() for x in found] == [x.data_ptr() for x in expected]
