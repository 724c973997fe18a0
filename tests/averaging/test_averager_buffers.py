"""What happens to each buffer: averaged, copied or read from the model, by its name."""

import math

import pytest
import torch
from support.small_networks import assert_same_bits, through_a_file
from torch import Tensor, nn

import polyak
from polyak import EMA, Averager, Uniform
from polyak.errors import ConfigError


class Buffered(nn.Module):
    """A counter in a float, a routing bias, statistics, an index."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("bias", torch.zeros(3))
        self.register_buffer("index", torch.zeros(2, dtype=torch.long))
        self.register_buffer("late", None)

    def move(self) -> None:
        with torch.no_grad():
            for x in (*self.parameters(), self.seen, self.bias, self.index):
                x += 1
            self.norm.running_mean += 1


EMAS = [EMA(0.5, warmup=None, name="ema")]
RULES = {"seen": "copy", "bias": "live", "norm.*": "average"}


def shown(averager: Averager) -> dict[str, Tensor]:
    return averager.tensors("ema")


def test_each_buffer_is_averaged_copied_or_read_live_by_its_name():
    model = Buffered()
    averager = Averager(model, EMAS, buffers=RULES)
    model.move()
    averager.step()
    model.move()
    read = shown(averager)
    assert read["seen"] == 1
    assert torch.equal(read["bias"], model.bias)
    assert torch.equal(read["norm.running_mean"], torch.full((2,), 0.5))
    assert torch.equal(read["index"], torch.ones(2, dtype=torch.long))
    assert read.keys() == model.state_dict().keys()
    assert torch.equal(averager.module("ema").bias, model.bias)
    bias = model.bias
    with averager.applied("ema"):
        assert model.bias is bias
        assert torch.equal(bias, torch.full((3,), 2.0))
        assert model.seen == 1
    assert model.seen == 2
    assert "bias" not in averager.state_dict()["copied"]


@pytest.mark.parametrize(
    ("rules", "averaged", "copied"),
    [
        ({"*": "copy"}, [], ["seen", "bias", "norm.running_mean"]),
        ({"*": "copy", "norm.*": "average"}, ["norm.running_mean"], ["seen", "bias"]),
        ({"norm.*": "average", "*": "copy"}, ["norm.running_mean"], ["seen", "bias"]),
        ({"norm.running_*": "copy", "norm.*": "average"}, ["norm.running_mean", "seen"], []),
        ({"norm.running_mean": "copy", "norm.*": "average"}, ["seen"], ["norm.running_mean"]),
        ({"*.running_mean": "copy"}, ["seen", "bias"], ["norm.running_mean"]),
        ({}, ["seen", "bias", "norm.running_mean"], []),
    ],
)
def test_a_name_decides_before_patterns_and_of_those_the_last_that_matches(rules, averaged, copied):
    state = Averager(Buffered(), EMAS, buffers=rules).state_dict()
    assert set(averaged) <= state["tensors"]["ema"].keys()
    assert {*copied, "index"} <= state["copied"].keys()


@pytest.mark.parametrize("how", ["average", "copy"])
def test_one_word_is_the_mapping_that_only_has_a_default(how):
    models = Buffered(), Buffered()
    models[1].load_state_dict(models[0].state_dict())
    word, mapping = (
        Averager(model, EMAS, buffers=buffers)
        for model, buffers in zip(models, (how, {"*": how}), strict=True)
    )
    assert word.state_dict()["buffers"] == mapping.state_dict()["buffers"] == how
    mapping.load_state_dict(word.state_dict())


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"sen": "copy"}, r"buffers has 'sen', which matches none.*nearest are .*seen"),
        ({"layer.weight": "copy"}, r"'layer\.weight', which matches none"),
        ({"seen": "mean"}, r"buffers has 'seen': 'mean'; expected 'average', 'copy'"),
        ({3: "copy"}, r"buffers has 3: 'copy'"),
        (["seen"], r"buffers is \['seen'\]"),
        ("live", r"buffers is 'live'"),
    ],
)
def test_what_matches_no_buffer_is_refused_with_the_nearest(rules, said):
    with pytest.raises(ConfigError, match=said):
        Averager(Buffered(), EMAS, buffers=rules)


def test_a_place_that_will_be_filled_can_be_named():
    model = Buffered()
    averager = Averager(model, EMAS, buffers={"late": "copy"})
    model.late = torch.ones(2)
    averager.track()
    assert "late" in averager.state_dict()["copied"]


def test_frozen_parameters_that_are_written_to_can_be_named():
    """Own forms of spectral norm keep their vectors as parameters that do not train."""
    model = nn.Linear(2, 2)
    for name in ("u", "v", "w"):
        setattr(model, name, nn.Parameter(torch.zeros(2), requires_grad=False))
    averager = Averager(model, EMAS, buffers={"u": "live", "v": "copy", "w": "average"})
    for name in ("u", "v", "w"):
        getattr(model, name).data += 1
    averager.step()
    for name in ("u", "v", "w"):
        getattr(model, name).data += 1
    assert [shown(averager)[name][0].item() for name in ("u", "v", "w")] == [2, 1, 0.5]


def test_the_mapping_is_saved_and_another_is_refused(tmp_path):
    model = Buffered()
    averager = Averager(model, EMAS, buffers=RULES)
    model.move()
    averager.step()
    state = through_a_file(averager.state_dict())
    assert state["buffers"] == RULES
    again = Averager(model, EMAS, buffers=RULES)
    again.load_state_dict(state)
    assert_same_bits(shown(again), shown(averager))
    with pytest.raises(ConfigError, match=r"saved averages are of buffers=\{'seen': 'copy'"):
        Averager(model, EMAS).load_state_dict(state)
    polyak.save(averager, tmp_path / "average.safetensors")
    loaded = polyak.load(tmp_path / "average.safetensors")
    assert loaded.manifest["buffers"] == RULES
    assert_same_bits(loaded["ema"], shown(averager))


def test_explain_says_what_happens_to_buffers_by_name():
    assert "buffers" not in Averager(Buffered(), EMAS).explain()
    said = Averager(Buffered(), EMAS, buffers=RULES).explain()
    assert said.endswith("\nbuffers: seen copy, bias live, norm.* average, others average")


# Spectral norm


def hooked() -> nn.Module:
    return nn.utils.spectral_norm(nn.Linear(2, 2, bias=False))


def parametrized() -> nn.Module:
    return nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2, bias=False))


def weight(layer: nn.Module) -> Tensor:
    if hasattr(layer, "parametrizations"):
        return layer.parametrizations.weight.original
    return layer.weight_orig


def turn(layer: nn.Module, averager: Averager, how: str, steps: int) -> None:
    """Train a layer whose leading direction turns once while its weights hardly move, or do."""
    for t in range(steps):
        a, b = (
            torch.tensor([math.cos(speed * t), math.sin(speed * t)])
            for speed in (2 * math.pi / steps, 4 * math.pi / steps)
        )
        base = 3 * torch.eye(2) if how == "slowly" else 0.2 * torch.eye(2)
        with torch.no_grad():
            weight(layer).copy_(base + 0.3 * torch.outer(a, a if how == "slowly" else b))
        layer.train()
        layer(torch.zeros(1, 2))
        averager.step()


@pytest.mark.parametrize("make", [hooked, parametrized])
@pytest.mark.parametrize("how", ["slowly", "fast"])
@pytest.mark.parametrize("buffers", ["average", "copy"])
@pytest.mark.parametrize("read", ["applied", "module", "tensors"])
def test_the_norm_of_an_average_under_spectral_norm_is_one(make, how, buffers, read):
    """C20: averaged unit vectors are shorter, and the layer amplifies."""
    torch.manual_seed(0)
    layer = nn.Sequential(make())
    kinds = [EMA(0.99, name="ema"), Uniform(name="swa")]
    averager = Averager(layer, kinds, buffers=buffers)
    turn(layer[0], averager, how, 100)
    for name in averager.names:
        if read == "applied":
            with averager.applied(name):
                layer(torch.zeros(1, 2))
                norm = torch.linalg.matrix_norm(layer[0].weight, 2).item()
        else:
            if read == "module":
                copy = averager.module(name)
            else:
                copy = nn.Sequential(make())
                copy.load_state_dict(averager.tensors(name))
                copy.eval()
            copy(torch.zeros(1, 2))
            norm = torch.linalg.matrix_norm(copy[0].weight, 2).item()
        assert norm == pytest.approx(1, abs=0.01), name


@pytest.mark.parametrize("make", [hooked, parametrized])
def test_vectors_of_spectral_norm_are_copied_and_reading_changes_no_state(make):
    layer = make()
    averager = Averager(layer, EMAS)
    turn(layer, averager, "fast", 20)
    before = {key: x.clone() for key, x in averager.state_dict()["copied"].items()}
    assert len(before) == 2
    own = {key: x.clone() for key, x in layer.state_dict().items()}
    assert_same_bits(before, {key: own[key] for key in before})
    averager.tensors("ema")
    with averager.applied("ema"):
        layer(torch.ones(1, 2))
    assert_same_bits(averager.state_dict()["copied"], before)
    assert_same_bits(layer.state_dict(), own)


@pytest.mark.parametrize("make", [hooked, parametrized])
def test_a_state_that_averaged_the_vectors_loads_with_the_models_own(make):
    """As versions before wrote it."""
    layer = make()
    averager = Averager(layer, EMAS)
    turn(layer, averager, "fast", 20)
    state = averager.state_dict()
    vectors = state["copied"]
    old = {
        **state,
        "tensors": {"ema": {**state["tensors"]["ema"], **{k: x / 2 for k, x in vectors.items()}}},
        "copied": {},
    }
    again = Averager(layer, EMAS)
    again.load_state_dict(old)
    assert_same_bits(again.tensors("ema"), averager.tensors("ema"))
    again.step()
    assert again.state_dict()["copied"].keys() == vectors.keys()


@pytest.mark.parametrize(("buffers", "read"), [("average", 37.2), ({"seen": "copy"}, 100.0)])
def test_a_counter_in_a_float_buffer_lags_unless_it_is_copied(buffers, read):
    """As ema-pytorch's `step` within a model that is averaged."""
    model = Buffered()
    kinds = [EMA(0.99, warmup=None, name="ema")]
    averager = Averager(model, kinds, buffers=buffers)
    for _ in range(100):
        model.seen += 1
        averager.step()
    # Averaged it is 100 − 99·(1 − 0.99^100).
    assert float(shown(averager)["seen"]) == pytest.approx(read, abs=0.1)


def test_a_target_network_moves_by_tau_from_the_first_step_on_without_warm_up():
    """As polyak_update(tau=0.005) of Stable-Baselines3; the default warm-up moves by 0.9 first."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    averager = Averager(model, [EMA(0.995, warmup=None, name="target"), EMA(0.995, name="warm")])
    with torch.no_grad():
        model.weight += 1
    averager.step()
    assert float(averager.tensors("target")["weight"]) == pytest.approx(0.005)
    assert float(averager.tensors("warm")["weight"]) == pytest.approx(0.9)
