"""What an averager refuses: bad settings, bad values, changed models."""

import warnings

import pytest
import torch
from support.small_networks import (
    Scalar,
    assert_same_bits,
    batch,
    drift,
    net,
    snapshot,
    train_step,
    use,
)
from torch import nn

from polyak import EMA, Averager, PowerEMA, Uniform, Window
from polyak.averaging.kernels import finite_flag
from polyak.errors import ConfigError, NonFiniteError, StateError, WeightMismatchError

# Settings


def test_all_faults_of_the_settings_come_in_one_message():
    with pytest.raises(ConfigError) as caught:
        Averager(
            net(),
            [1.5, "0.9", 0.9, EMA(0.9), EMA(0.5, name="a/b")],
            every=0,
            buffers="drop",
            dtype=torch.float16,
            nonfinite="ignore",
        )
    for word in (
        "decay is 1.5; expected 0 <= decay < 1",
        "an average is '0.9'",
        "'ema_0.9' is given twice; pass name=",
        "'a/b'; expected one without '/'",
        "every is 0; expected an integer >= 1",
        "buffers is 'drop'; expected 'average', 'copy', or a mapping of names to",
        "dtype is torch.float16; expected torch.float64, torch.float32 or torch.bfloat16",
        "nonfinite is 'ignore'; expected 'skip', 'raise' or 'allow'",
    ):
        assert word in str(caught.value)


@pytest.mark.parametrize("every", [0, -1, 1.5, 2.0, True, "16", None])
def test_a_period_that_is_no_number_of_steps_is_refused(every):
    with pytest.raises(ConfigError, match="every is"):
        Averager(net(), [0.9], every=every)


@pytest.mark.parametrize("averages", [None, "ema", EMA])
def test_averages_must_be_one_or_come_in_a_list(averages):
    with pytest.raises(ConfigError, match="expected a list of decays or kinds"):
        Averager(net(), averages)


def test_no_average_is_refused():
    with pytest.raises(ConfigError, match="averages is empty"):
        Averager(net(), [])


@pytest.mark.parametrize(
    "dtype",
    [torch.float16, torch.float8_e4m3fn, torch.int32, torch.int64, torch.bool],
)
def test_a_dtype_in_which_an_average_stands_still_is_refused(dtype):
    """C7."""
    with pytest.raises(ConfigError, match="stands still"):
        Averager(net(), [0.9], dtype=dtype)


def test_lazy_modules_are_refused_before_they_have_weights():
    with pytest.raises(StateError, match=r"0\.weight has no shape yet"):
        Averager(nn.Sequential(nn.LazyLinear(3)), [0.9])


def test_a_buffer_that_is_not_a_number_yet_can_be_copied():
    model = net()
    model.register_buffer("best", torch.tensor(torch.nan))
    with pytest.raises(NonFiniteError, match=r"best hold NaN.*buffers='copy'"):
        Averager(model, [0.9])
    assert Averager(model, [0.9], buffers="copy").tensors("ema_0.9")["best"].isnan()


# Values


def poison(model: nn.Module, value: float) -> None:
    with torch.no_grad():
        model[4].bias[1] = value


BAD = pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])


@BAD
def test_a_bad_update_is_skipped_whole_and_counted(value):
    """C11: elsewhere one NaN poisons the average for ever."""
    model = net()
    averager = Averager(model, [0.9, PowerEMA(gamma=2.0), Uniform()])
    drift(model, 0)
    averager.step()
    held, good = {n: averager.tensors(n) for n in averager.names}, snapshot(model)
    poison(model, value)
    drift(model, 1)
    with pytest.warns(RuntimeWarning, match=r"4\.bias hold NaN or infinity.*skip"):
        averager.step()
    assert (averager.steps, averager.updates, averager.skipped) == (2, 1, 1)
    for name in averager.names:
        assert_same_bits(averager.tensors(name), held[name])
    model.load_state_dict(good)
    averager.step()
    assert (averager.steps, averager.updates, averager.skipped) == (3, 2, 1)
    assert all(x.isfinite().all() for x in averager.tensors("ema_0.9").values())


def test_only_the_first_skip_warns():
    model = net()
    averager = Averager(model, [0.9])
    poison(model, torch.nan)
    with pytest.warns(RuntimeWarning):
        averager.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        averager.step()
    assert averager.skipped == 2


def test_power_averages_count_the_steps_of_a_skipped_update():
    """C1: the profile is over steps, whether or not an update took place."""
    model = Scalar(0.0)
    averager = Averager(model, [PowerEMA(gamma=2.0, name="m")], every=2)
    for x in (1.0, torch.nan, 3.0):
        model.set(x)
        averager.step()
        if x == x:
            averager.step()
        else:
            with pytest.warns(RuntimeWarning):
                averager.step()
    expected = (2**3 * 1 + (6**3 - 2**3) * 3) / 6**3
    assert averager.tensors("m")["w"].item() == pytest.approx(expected, rel=1e-12)


@BAD
def test_a_bad_update_can_raise_and_changes_nothing(value):
    model = net()
    averager = Averager(model, [0.9], nonfinite="raise")
    held = averager.tensors("ema_0.9")
    poison(model, value)
    with pytest.raises(NonFiniteError, match=r"4\.bias hold NaN"):
        averager.step()
    assert_same_bits(averager.tensors("ema_0.9"), held)
    assert (averager.updates, averager.skipped) == (0, 0)


def test_bad_values_can_be_allowed_in():
    model = net()
    averager = Averager(model, [0.9], nonfinite="allow")
    poison(model, torch.nan)
    averager.step()
    bias = averager.tensors("ema_0.9")["4.bias"]
    assert torch.isnan(bias).tolist() == [False, True]
    assert (averager.updates, averager.skipped) == (1, 0)


def test_bad_buffers_are_found_too():
    model = net()
    averager = Averager(model, [0.9])
    model[1].running_var[0] = torch.inf
    with pytest.warns(RuntimeWarning, match=r"1\.running_var"):
        averager.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_huge_but_finite_weights_are_not_skipped(dtype):
    model = nn.Linear(8, 8).to(dtype)
    averager = Averager(model, [0.9])
    with torch.no_grad():
        model.weight.fill_(torch.finfo(dtype).max)
    averager.step()
    assert (averager.updates, averager.skipped) == (1, 0)


@BAD
@pytest.mark.parametrize("nonfinite", ["skip", "raise"])
def test_initial_weights_that_are_not_finite_are_refused(value, nonfinite):
    """C11: every average would start from them and never recover."""
    model = net()
    poison(model, value)
    with pytest.raises(NonFiniteError, match=r"4\.bias hold NaN or infinity; expected finite init"):
        Averager(model, [0.9], nonfinite=nonfinite)


def test_a_mask_of_infinities_is_copied_and_stops_no_update():
    model = net()
    model.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
    averager = Averager(model, [0.9])
    drift(model, 0)
    averager.step()
    assert (averager.updates, averager.skipped) == (1, 0)
    assert torch.equal(averager.tensors("ema_0.9")["mask"], model.mask)


# Changed models


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda m: m.append(nn.Linear(2, 2)), r"5\.bias, 5\.weight"),
        (lambda m: m.pop(4), r"4\.bias, 4\.weight"),
        (lambda m: m.__setitem__(4, nn.Linear(4, 3)), r"shape of 4\.bias, 4\.weight"),
        (lambda m: setattr(m[4], "bias", None), r"4\.bias"),
    ],
    ids=["appear", "vanish", "reshape", "one bias"],
)
@pytest.mark.parametrize("call", ["step", "applied", "module", "tensors"])
def test_a_changed_model_is_refused_by_name_and_no_average_changes(change, named, call):
    """C11: zip() leaves an added layer untracked in torch, timm and ignite."""
    model = net()
    averager = Averager(model, [0.9])
    before = {k: x.clone() for k, x in averager.state_dict()["tensors"]["ema_0.9"].items()}
    change(model)
    with pytest.raises(WeightMismatchError, match=named):
        use(averager, call, "ema_0.9")
    assert_same_bits(averager.state_dict()["tensors"]["ema_0.9"], before)
    assert all(part.training for part in model.modules())


def test_a_frozen_parameter_that_becomes_trainable_is_refused_by_name():
    """C12: elsewhere it is never averaged, in silence."""
    model = net()
    model[0].requires_grad_(False)
    averager = Averager(model, [0.9])
    averager.step()
    model[0].weight.requires_grad_(True)
    with pytest.raises(WeightMismatchError, match=r"0\.weight trains now; expected it frozen"):
        averager.step()


# Models that move


def test_replaced_storage_is_noticed():
    model = net()
    averager = Averager(model, [EMA(0.5, warmup=None)])
    with torch.no_grad():
        model[0].weight.fill_(0)
    averager.step()
    model[0].weight.data = torch.ones(4, 3)
    held = averager.tensors("ema_0.5")["0.weight"]
    averager.step()
    torch.testing.assert_close(averager.tensors("ema_0.5")["0.weight"], held / 2 + 0.5)


def test_replaced_parameters_are_noticed():
    model = net()
    averager = Averager(model, [EMA(0.0, warmup=None)])
    model[0].weight = nn.Parameter(torch.full((4, 3), 2.0))
    averager.step()
    assert (averager.tensors("ema_0")["0.weight"] == 2).all()


def test_replaced_buffers_are_noticed():
    model = net()
    averager = Averager(model, [EMA(0.0, warmup=None)])
    model[1].running_mean = torch.full((4,), 5.0)
    model[1].num_batches_tracked = torch.tensor(7)
    averager.step()
    assert (averager.tensors("ema_0")["1.running_mean"] == 5).all()
    assert averager.tensors("ema_0")["1.num_batches_tracked"] == 7


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_may_change_its_dtype(dtype):
    model = net()
    averager = Averager(model, [EMA(0.0, warmup=None)])
    model.to(dtype)
    drift(model, 0)
    averager.step()
    read = averager.tensors("ema_0")
    assert read["0.weight"].dtype == torch.float32
    torch.testing.assert_close(read["0.weight"], model[0].weight.detach().float())
    with averager.applied("ema_0"):
        assert model[0].weight.dtype == dtype


def test_a_model_may_change_its_memory_format():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    averager = Averager(model, [EMA(0.0, warmup=None)])
    model.to(memory_format=torch.channels_last)
    drift(model, 0)
    averager.step()
    with averager.applied("ema_0"):
        assert torch.equal(model[0].weight, averager.tensors("ema_0")["0.weight"])
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_averages_may_be_kept_in_inference_mode():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    averager = Averager(model, [0.9])
    for seed in range(3):
        train_step(model, optimizer, seed)
        with torch.inference_mode():
            averager.step()
            averager.refresh_batchnorm([batch(9)])
    assert averager.updates == 3


def large() -> nn.Sequential:
    """Weights that have a block of memory each, and such as share one."""
    return nn.Sequential(nn.Linear(3, 200), nn.BatchNorm1d(200), nn.Linear(200, 200))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("begun", ["built", "tracked", "loaded", "updated", "bound anew"])
def test_what_began_in_inference_mode_goes_on_outside(begun, dtype):
    models = large(), large()
    models[1].load_state_dict(models[0].state_dict())
    kinds = [EMA(0.9), Window(2)]
    ours, twin = (Averager(model, kinds, dtype=dtype) for model in models)
    state = twin.state_dict()
    with torch.inference_mode():
        if begun == "built":
            ours = Averager(models[0], kinds, dtype=dtype)
        elif begun == "tracked":
            ours.track()
        elif begun == "loaded":
            ours.load_state_dict(state)
        else:
            if begun == "bound anew":
                with torch.inference_mode(False):
                    models[0][0].weight = nn.Parameter(models[0][0].weight.detach().clone())
            ours.update()
            twin.update()
    for averager, model in zip((ours, twin), models, strict=True):
        for seed in range(3):
            drift(model, seed)
            averager.update()
    for name in ours.names:
        assert_same_bits(ours.tensors(name), twin.tensors(name))


@pytest.mark.parametrize("make", [net, large])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_another_default_device_does_not_concern_an_averager(make, dtype):
    model = make()
    with torch.device("meta"):
        averager = Averager(model, [0.9, Window(2)], device="cpu", dtype=dtype)
        averager.update()
        averager.refresh_batchnorm([torch.ones(4, 3, device="cpu")])
        averager.load_state_dict(averager.state_dict())
        read = averager.tensors("ema_0.9")
    assert all(x.device.type == "cpu" for x in read.values())
    assert averager.updates == 1


def test_an_empty_model_is_finite_whatever_the_default_device_is():
    with torch.device("meta"):
        assert finite_flag([])


def test_copied_buffers_keep_their_places_when_one_of_them_held_infinity():
    """Such a buffer joins the copied ones late, so their order is not the model's."""
    model = nn.BatchNorm1d(2)
    model.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    model.register_buffer("seen", torch.tensor(0))
    averager = Averager(model, [0.9])
    model.mask = torch.tensor([float("-inf"), 0.0])
    model.seen = torch.tensor(7)
    model.num_batches_tracked = torch.tensor(3)
    averager.update()
    tensors = averager.tensors("ema_0.9")
    assert tensors["mask"].tolist() == [float("-inf"), 0.0]
    assert (tensors["seen"].item(), tensors["num_batches_tracked"].item()) == (7, 3)


@pytest.mark.parametrize("call", ["step", "update", "optimizer"])
def test_nothing_is_counted_where_a_cuda_graph_is_captured(monkeypatch, call):
    """Replays call no hook, so that steps would be missed in silence."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    averager = Averager(model, [0.9])
    averager.attach(optimizer)
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_initialized", lambda: True)
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        with pytest.raises(StateError, match=r"captured; .* averager\.step\(\) after each replay"):
            optimizer.step() if call == "optimizer" else getattr(averager, call)()
    assert (averager.steps, averager.updates) == (0, 0)
    optimizer.step()
    assert averager.steps == 1
