"""What trains is averaged, whenever it begins to; what does not train must not have moved."""

import copy
from collections.abc import Callable

import pytest
import torch
from support.small_networks import assert_same_bits, generator
from torch import nn

import polyak
from polyak import EMA, Averager, Uniform, Window
from polyak.averaging import kernels
from polyak.errors import ConfigError, StateError, WeightMismatchError

KINDS = (EMA(0.9, warmup=None, name="ema"), Uniform())


def two_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))


def step_frozen(
    model: nn.Module, part: nn.Module, optimizer: torch.optim.Optimizer, seed: int
) -> None:
    """As StyleGAN2's loop: thawed only while its gradients are taken."""
    part.requires_grad_(True)
    model(torch.randn(8, 4, generator=generator(seed))).square().mean().backward()
    part.requires_grad_(False)
    optimizer.step()
    optimizer.zero_grad()


# Parameters of attached optimizers


@pytest.mark.parametrize("frozen", ["all", "first"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_what_thaws_only_for_its_gradients_is_averaged_once_attached(frozen, dtype):
    """C12: networks of GANs are frozen when built, and in every step that is taken."""
    model = two_layers()
    part = model if frozen == "all" else model[0]
    part.requires_grad_(False)
    averager = Averager(model, [*KINDS, Window(2)], dtype=dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    averager.attach(optimizer)
    ema = {name: x.detach().clone() for name, x in model.state_dict().items()}
    seen = []
    for seed in range(5):
        step_frozen(model, part, optimizer, seed)
        seen.append({name: x.detach().clone() for name, x in model.state_dict().items()})
        for name, x in ema.items():
            x.lerp_(seen[-1][name], 0.1)
    assert averager.updates == 5
    for name, x in ema.items():
        torch.testing.assert_close(averager.tensors("ema")[name], x)
        mean = torch.stack([state[name] for state in seen]).mean(0)
        torch.testing.assert_close(averager.tensors("uniform")[name], mean)
        last = torch.stack([state[name] for state in seen[-2:]]).mean(0)
        torch.testing.assert_close(averager.tensors("window_2")[name], last)


def test_attaching_later_gives_what_was_frozen_its_constant_as_average_so_far():
    model = two_layers()
    model[0].requires_grad_(False)
    averager = Averager(model, [EMA(0.9, warmup=None, name="ema")])
    for _ in range(3):
        with torch.no_grad():
            model[1].weight.add_(1)
        averager.update()
    held = averager.tensors("ema")
    averager.attach(torch.optim.SGD(model.parameters(), lr=1.0))
    assert_same_bits(averager.tensors("ema"), held)
    with torch.no_grad():
        model[0].weight.add_(1)
    averager.update()
    torch.testing.assert_close(averager.tensors("ema")["0.weight"], held["0.weight"] + 0.1)


@pytest.mark.parametrize("write", ["counted", "through data", "replaced", "assigned", "one value"])
def test_a_frozen_parameter_that_moved_before_it_was_attached_is_refused_by_name(write):
    model = two_layers()
    model[0].requires_grad_(False)
    averager = Averager(model, [0.9])
    move(model, write)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(WeightMismatchError, match=r"0\.weight has moved since"):
        averager.attach(optimizer)
    averager.track()
    averager.attach(optimizer)
    averager.update()


def test_parameters_of_another_network_do_not_concern_an_averager():
    model, other = two_layers(), two_layers()
    averager = Averager(model, [0.9])
    before = averager.state_dict()["tensors"]["ema_0.9"]
    averager.attach(torch.optim.SGD([*model.parameters(), *other.parameters()], lr=0.1))
    assert averager.state_dict()["tensors"]["ema_0.9"].keys() == before.keys()


def test_a_state_from_before_the_optimizer_was_attached_loads_after_it():
    """What it had as frozen is the model's so far, and averaged from then on."""
    model, twin = two_layers(), two_layers()
    for one in (model, twin):
        one[0].requires_grad_(False)
    first = Averager(model, [EMA(0.9, warmup=None, name="ema")])
    with torch.no_grad():
        model[1].weight.add_(1)
    first.step()
    twin.load_state_dict(model.state_dict())
    second = Averager(twin, [EMA(0.9, warmup=None, name="ema")])
    second.attach(torch.optim.SGD(twin.parameters(), lr=1.0))
    second.load_state_dict(first.state_dict())
    assert_same_bits(second.tensors("ema"), first.tensors("ema"))
    with torch.no_grad():
        twin[0].weight.add_(1)
    second.step()
    torch.testing.assert_close(second.tensors("ema")["0.weight"], model[0].weight.detach() + 0.1)
    third = Averager(twin, [EMA(0.9, warmup=None, name="ema")])
    third.load_state_dict(second.state_dict())
    assert_same_bits(third.tensors("ema"), second.tensors("ema"))


# Frozen weights that moved


def move(model: nn.Module, how: str) -> None:
    layer = model[0]
    with torch.no_grad():
        if how == "counted":
            layer.weight.add_(1e-3)
        elif how == "through data":
            layer.weight.data.add_(1e-3)
        elif how == "replaced":
            layer.weight = nn.Parameter(layer.weight + 1e-3, requires_grad=False)
        elif how == "assigned":
            state = {name: x + 1e-3 for name, x in layer.state_dict().items()}
            layer.load_state_dict(state, assign=True)
            layer.requires_grad_(False)
        else:
            layer.weight[1, 2] += 0.1


READINGS: dict[str, Callable[[Averager], object]] = {
    "applied": lambda a: a.applied("ema_0.9").__enter__(),
    "module": lambda a: a.module("ema_0.9"),
    "tensors": lambda a: a.tensors("ema_0.9"),
    "state_dict": lambda a: a.state_dict(),
    "save": lambda a: polyak.save(a, "/nonexistent/never-written"),
}


@pytest.mark.parametrize("how", ["counted", "replaced", "assigned", "one value"])
def test_a_frozen_weight_that_moved_stops_the_next_update(how):
    """C19: an average would show it as it is now, whatever happened to it."""
    model = two_layers()
    model[0].requires_grad_(False)
    averager = Averager(model, [0.9])
    move(model, how)
    with pytest.raises(WeightMismatchError, match=r"0\.weight has moved although .*track\(\)"):
        averager.step()
    assert (averager.steps, averager.updates) == (0, 0)
    averager.track()
    averager.step()
    assert torch.equal(averager.tensors("ema_0.9")["0.weight"], model[0].weight)


@pytest.mark.parametrize("call", list(READINGS))
@pytest.mark.parametrize("how", ["counted", "through data"])
def test_a_frozen_weight_that_moved_stops_every_reading(call, how):
    """C19: a write through `.data` is not counted, so values are compared."""
    model = two_layers()
    model[0].requires_grad_(False)
    averager = Averager(model, [0.9])
    move(model, how)
    with pytest.raises(WeightMismatchError, match=r"0\.weight has moved"):
        READINGS[call](averager)


def test_a_generator_that_is_stepped_frozen_without_attach_is_refused_by_name():
    model = two_layers()
    model[0].requires_grad_(False)
    averager = Averager(model, [0.9])
    step_frozen(model, model[0], torch.optim.SGD(model.parameters(), lr=1.0), 0)
    with pytest.raises(WeightMismatchError, match=r"0\.bias, 0\.weight has moved"):
        averager.step()


def test_loading_the_same_values_again_is_no_movement():
    model = two_layers()
    model[0].requires_grad_(False)
    averager = Averager(model, [0.9])
    for assign in (False, True):
        state = {name: x.clone() for name, x in model.state_dict().items()}
        model.load_state_dict(state, assign=assign)
        for p in model[0].parameters():
            p.requires_grad_(False)
        averager.step()
        averager.tensors("ema_0.9")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_of_a_merge_that_is_undone_is_no_movement(dtype):
    """As peft merges an adapter into a frozen weight within `applied`, and takes it out again."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 2)).to(dtype)
    model[0].requires_grad_(False)
    averager = Averager(model, [0.9])
    added = 0.05 * torch.randn(64, 64).to(dtype)
    for _ in range(2):
        with averager.applied("ema_0.9"), torch.no_grad():
            model[0].weight.data += added
            model[0].weight.data -= added
        with torch.no_grad():
            model[0].weight += added
            model[0].weight -= added
        averager.step()
    averager.tensors("ema_0.9")


def test_a_model_that_is_cast_has_not_moved():
    model = two_layers()
    model[0].requires_grad_(False)
    averager = Averager(model, [0.9])
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        model.to(dtype)
        averager.step()
        averager.tensors("ema_0.9")


@pytest.mark.parametrize("later", ["track", "load_state_dict", "adopt"])
def test_frozen_weights_are_noted_anew_where_one_goes_on_from_them(later):
    model = two_layers()
    model[0].requires_grad_(False)
    averager = Averager(model, [0.9])
    state, weights = averager.state_dict(), {"ema_0.9": averager.tensors("ema_0.9")}
    if later != "track":
        model.load_state_dict({name: x + 1 for name, x in model.state_dict().items()})
    if later == "load_state_dict":
        averager.load_state_dict(state)
        # Either order of loading is right.
        model.load_state_dict({name: x + 1 for name, x in model.state_dict().items()})
    elif later == "adopt":
        averager.adopt(weights, steps=3)
    else:
        move(model, "counted")
        averager.track()
    averager.step()
    move(model, "counted")
    with pytest.raises(WeightMismatchError, match="has moved"):
        averager.step()


# Places that are filled later, shapes that change


class Late(nn.Module):
    """Registers a place that its first forward pass fills."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.kind = kind
        if kind == "module":
            self.register_module("gamma", None)
        elif kind == "buffer":
            self.register_buffer("gamma", None)
        else:
            self.register_parameter("gamma", None)

    def fill(self) -> None:
        self.gamma = {
            "parameter": nn.Parameter(torch.full((2,), 0.1)),
            "frozen": nn.Parameter(torch.full((2,), 0.1), requires_grad=False),
            "buffer": torch.full((2,), 0.1),
            "module": nn.Linear(2, 1),
        }[self.kind]


STRUCTURE = sorted(["step", *READINGS.keys() - {"state_dict"}])
"""What looks at the model; a state is only of what was averaged."""


@pytest.mark.parametrize("kind", ["parameter", "frozen", "buffer", "module"])
@pytest.mark.parametrize("call", STRUCTURE)
def test_a_place_that_was_none_and_is_filled_is_refused_by_name(kind, call):
    """C11: nothing that is counted changes, since the place was there."""
    model = Late(kind)
    averager = Averager(model, [0.9])
    averager.step()
    model.fill()
    with pytest.raises(WeightMismatchError, match=r"gamma.*track\(\)"):
        averager.step() if call == "step" else READINGS[call](averager)
    averager.track()
    averager.step()
    assert averager.tensors("ema_0.9").keys() == model.state_dict().keys()


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("call", STRUCTURE)
def test_a_shape_that_changes_beneath_the_same_parameter_is_refused_with_both(call, large):
    """C11: transformers' resize_token_embeddings keeps the parameter and changes `.data`."""
    model = nn.Sequential(nn.Linear(200, 200), nn.Linear(4, 200 if large else 4))
    averager = Averager(model, [EMA(0.5, warmup=None, name="ema_0.9"), Uniform()])
    state = averager.state_dict()["tensors"]
    before = copy.deepcopy(state)
    with torch.no_grad():
        model[0].weight.add_(1)
    model[1].weight.data = torch.randn(6, 4)
    with pytest.raises(
        WeightMismatchError, match=r"shape of 1\.weight is \(6, 4\) in the model; expected \("
    ):
        averager.step() if call == "step" else READINGS[call](averager)
    for name, row in before.items():
        assert_same_bits(state[name], row)
    assert averager.updates == 0


def test_a_copied_buffer_that_grows_is_followed():
    model = nn.Linear(2, 2)
    model.register_buffer("cache", torch.ones(3))
    averager = Averager(model, [0.9], buffers={"cache": "copy"})
    grown, same = 2 * torch.ones(5), 3 * torch.ones(5)
    model.cache = grown
    assert averager.tensors("ema_0.9")["cache"].shape == (3,)
    with averager.applied("ema_0.9"):
        assert torch.equal(model.cache, torch.ones(3))
    assert model.cache is grown
    averager.step()
    assert torch.equal(averager.tensors("ema_0.9")["cache"], grown)
    assert torch.equal(averager.module("ema_0.9").cache, grown)
    model.cache.data = same
    averager.step()
    assert torch.equal(averager.tensors("ema_0.9")["cache"], same)
    other = nn.Linear(2, 2)
    other.register_buffer("cache", torch.ones(3))
    resumed = Averager(other, [0.9], buffers={"cache": "copy"})
    resumed.load_state_dict(averager.state_dict())
    assert_same_bits(resumed.tensors("ema_0.9"), averager.tensors("ema_0.9"))
    averager.track()
    averager.step()


@pytest.mark.parametrize("how", ["replaced", "beneath"])
def test_an_averaged_buffer_that_grows_is_refused_with_the_remedy(how):
    model = nn.Linear(2, 2)
    model.register_buffer("cache", torch.ones(3))
    averager = Averager(model, [0.9])
    if how == "replaced":
        model.cache = torch.ones(5)
    else:
        model.cache.data = torch.ones(5)
    with pytest.raises(
        WeightMismatchError,
        match=r"is \(5,\) in the model; expected \(3,\).*buffers=\{'cache': 'copy'\}",
    ):
        averager.step()


def test_a_buffer_that_turns_infinite_is_named_with_the_remedy():
    model = nn.Linear(2, 2)
    model.register_buffer("mask", torch.zeros(3))
    averager = Averager(model, [0.9])
    model.mask.fill_(-torch.inf)
    with pytest.warns(RuntimeWarning, match=r"mask hold.*buffers=\{'mask': 'copy'\}"):
        averager.step()


# Nothing to average, no module, updates that fail


@pytest.mark.parametrize("make", [nn.ReLU, nn.Sequential, nn.Dropout])
def test_a_model_without_weights_is_refused(make):
    with pytest.raises(ConfigError, match="nothing to average"):
        Averager(make(), [0.9])


@pytest.mark.parametrize("call", ["step", *READINGS])
def test_a_model_of_which_nothing_trains_is_refused_when_it_is_used(call):
    """Not when it is built: an optimizer that is attached says what trains."""
    model = two_layers().requires_grad_(False)
    averager = Averager(model, [0.9])
    with pytest.raises(ConfigError, match=r"nothing of the model is averaged.*Attach"):
        averager.step() if call == "step" else READINGS[call](averager)
    averager.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    averager.step()


@pytest.mark.parametrize(
    "given",
    [
        lambda m: m.parameters(),
        lambda m: list(m.parameters()),
        lambda m: m.state_dict(),
        lambda m: m.weight,
        lambda m: None,
    ],
)
def test_what_is_no_module_is_refused_with_what_to_pass(given):
    with pytest.raises(ConfigError, match=r"expected a torch\.nn\.Module. Pass the module itself"):
        Averager(given(nn.Linear(2, 2)), [0.9])


CALLS = ("lerp_block", "lerp_split", "lerp_all", "all_finite", "join")


class Failing:
    """A kernel that fails at its n-th call."""

    def __init__(self, kernel: Callable[..., object], at: int, error: type[BaseException]) -> None:
        self.kernel, self.left, self.error = kernel, at, error

    def __call__(self, *arguments: object, **options: object) -> object:
        self.left -= 1
        if self.left < 0:
            raise self.error("on purpose")
        return self.kernel(*arguments, **options)


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("call", CALLS)
def test_an_update_that_fails_changes_no_average_or_is_refused_from_then_on(
    monkeypatch, call, at, dtype, error
):
    """Wherever a kernel fails: averages and counts are as before, or no longer to be had."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(200, 200), nn.Linear(200, 100), nn.Linear(4, 2)).double()
    model[2].float()
    model.register_buffer("turns", torch.ones(2, dtype=torch.complex64))
    averager = Averager(model, KINDS, dtype=dtype)
    averager.step()
    saved = copy.deepcopy(averager.state_dict())
    before = {name: averager.tensors(name) for name in averager.names}
    counts = (averager.steps, averager.updates, averager.skipped)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    failing = Failing(getattr(kernels, call), at, error)
    with monkeypatch.context() as patch:
        patch.setattr(kernels, call, failing)
        try:
            averager.step()
        except error:
            assert (averager.steps, averager.updates, averager.skipped) == counts
        else:
            return  # So many calls there are not.
    torn = False
    try:
        averager.tensors("ema")
    except StateError:
        torn = True
    if torn:
        for call_again in (averager.step, averager.state_dict):
            with pytest.raises(StateError, match="stopped half way"):
                call_again()
        averager.load_state_dict(saved)
    for name in averager.names:
        assert_same_bits(averager.tensors(name), before[name])
    averager.step()


def test_the_first_kernel_that_fails_leaves_averages_that_can_be_read(monkeypatch):
    model = nn.Linear(2, 2)
    averager = Averager(model, [0.9])
    before = averager.tensors("ema_0.9")
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "lerp_block", Failing(kernels.lerp_block, 0, RuntimeError))
        with pytest.raises(RuntimeError, match="on purpose"):
            averager.step()
    assert_same_bits(averager.tensors("ema_0.9"), before)
    averager.step()
    assert averager.updates == averager.steps == 1
