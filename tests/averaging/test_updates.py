"""Steps and updates of which a device says only later whether they count."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.late_answers import inf, late_answers, offloaded, skippable_step
from support.small_networks import EVERY_KIND, assert_same_bits, batch, drift, net, train_step

from polyak import EMA, Averager, Uniform, Window
from polyak.averaging import kernels
from polyak.errors import NonFiniteError

KINDS = (*EVERY_KIND, Window(2), Window(2, every=12))
FORMS = ("beside", "host")


def assert_alike(one, two):
    for name in one.names:
        assert_same_bits(one.tensors(name), two.tensors(name))
    assert one.state_dict()["history"] == two.state_dict()["history"]
    assert one.explain() == two.explain()


def averagers(form, model, **options):
    """One whose device answers late, and its twin that is told only of steps that took place."""
    device = "cpu" if form == "host" else None
    return Averager(model, KINDS, device=device, **options), Averager(model, KINDS, **options)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=25)
@given(
    skips=st.lists(st.booleans(), max_size=25),
    every=st.sampled_from([1, 2, 3, 4]),
    reads=st.sets(st.integers(0, 24), max_size=3),
    nonfinite=st.sampled_from(["skip", "raise", "allow"]),
    dtype=st.sampled_from([None, torch.bfloat16]),
)
def test_steps_known_late_give_the_averages_of_steps_known_at_once(
    form, skips, every, reads, nonfinite, dtype
):
    with pytest.MonkeyPatch.context() as patch:
        if form == "host":
            offloaded(patch)
        torch.manual_seed(0)
        model = net()
        late, twin = averagers(form, model, every=every, nonfinite=nonfinite, dtype=dtype)
        step = skippable_step(late)
        with pytest.MonkeyPatch.context() as patch_answers:
            late_answers(patch_answers)
            for seed, skipped in enumerate(skips):
                if not skipped:
                    drift(model, seed)
                step(inf(skipped))
                if seed in reads:
                    late.tensors("uniform")
            late.steps  # noqa: B018  reading settles what is open
        torch.manual_seed(0)
        model = net()
        twin = Averager(model, KINDS, every=every, nonfinite=nonfinite, dtype=dtype)
        for seed, skipped in enumerate(skips):
            if not skipped:
                drift(model, seed)
                twin.step()
        assert_alike(late, twin)


def test_no_answer_is_waited_for_before_an_update_may_be_due(monkeypatch):
    model = net()
    averager = Averager(model, [0.9], every=4)
    step = skippable_step(averager)
    read = late_answers(monkeypatch)
    for count in range(1, 5):
        step(inf(False))
        assert len(read) == (3 if count == 4 else 0)  # those before it, not its own
    step(inf(False))
    assert len(read) == 5  # whether step 4 took place, and whether its weights were finite
    for _ in range(2):
        step(inf(False))
    assert len(read) == 5
    assert (averager.steps, averager.updates) == (7, 1)


def test_an_update_after_a_skipped_step_leaves_every_bit(monkeypatch):
    torch.manual_seed(0)
    model = net()
    averager = Averager(model, [EMA(0.9), Uniform()], buffers="copy")
    step = skippable_step(averager)
    held = {name: averager.tensors(name) for name in averager.names}
    late_answers(monkeypatch)
    drift(model, 0)  # as no skipped step would, so that a lerp would show
    step(inf(True))
    assert (averager.steps, averager.updates) == (0, 0)
    for name in averager.names:
        assert_same_bits(averager.tensors(name), held[name])


def test_the_flag_may_be_overwritten_once_it_was_handed_over(monkeypatch):
    model = net()
    averager = Averager(model, [0.9])
    step = skippable_step(averager)
    late_answers(monkeypatch)
    found = inf(True)
    step(found)
    found.zero_()
    assert averager.steps == 0


@pytest.mark.parametrize("device", [None, "cpu"])
def test_fused_steps_under_grad_scaler_count_right_however_late_it_is_known(monkeypatch, device):
    offloaded(monkeypatch)
    torch.manual_seed(0)
    model = net().eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    late, twin = Averager(model, [0.9], every=2, device=device), Averager(model, [0.9], every=2)
    late.attach(optimizer)
    late_answers(monkeypatch)
    scaler = torch.amp.GradScaler("cpu")
    for factor in (1.0, float("inf"), 1.0, float("nan"), 1.0, 1.0, float("inf")):
        optimizer.zero_grad()
        scaler.scale(model(batch(1)).square().mean() * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        if factor == 1.0:
            twin.step()
    assert_alike(late, twin)
    assert (late.steps, late.updates, late.skipped) == (4, 2, 0)


def test_of_several_optimizers_the_answers_are_waited_for(monkeypatch):
    model = net()
    first = torch.optim.SGD(model[0].parameters(), lr=0.1, fused=True)
    second = torch.optim.SGD(model[4].parameters(), lr=0.1, fused=True)
    averager = Averager(model, [0.9])
    averager.attach(first, second)
    late_answers(monkeypatch)
    for skips in ((False, False), (True, False), (False, True), (False, False)):
        train_step(model, torch.optim.SGD(model.parameters(), lr=0.0), 0)
        for optimizer, skipped in zip((first, second), skips, strict=True):
            optimizer.found_inf = inf(skipped)
            optimizer.step()
            del optimizer.found_inf
    # Two iterations in which each of them has stepped.
    assert averager.steps == 2


# The guard


@settings(max_examples=25)
@given(
    bad=st.lists(st.sampled_from([0.0, 0.0, torch.nan, torch.inf, -torch.inf]), max_size=12),
    every=st.sampled_from([1, 2, 3]),
    buffers=st.sampled_from(["average", "copy"]),
    dtype=st.sampled_from([None, torch.float64, torch.bfloat16]),
)
def test_a_skip_on_the_device_is_the_skip_of_the_host(bad, every, buffers, dtype):
    """C11: no NaN gets in where a lerp weight of 0 alone would let it."""
    kinds = [EMA(0.9), Uniform(), EMA(0.99, warmup_counts="steps", name="by_steps")]
    ends = []
    for late in (False, True):
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            if late:
                late_answers(patch)
            torch.manual_seed(0)
            model = net()
            averager = Averager(model, kinds, every=every, buffers=buffers, dtype=dtype)
            for seed, value in enumerate(bad):
                drift(model, seed)
                with torch.no_grad():
                    kept = model[4].bias.clone()
                    model[4].bias[1] += value
                averager.step()
                with torch.no_grad():
                    model[4].bias.copy_(kept)
            ends.append((averager.skipped, averager))
            averager.updates  # noqa: B018  settles while the device is late
    (skipped, here), (skipped_late, there) = ends
    assert skipped_late == skipped
    assert_alike(there, here)


def test_a_skip_on_the_device_warns_once_when_it_is_known(monkeypatch):
    model = net()
    averager = Averager(model, [0.9])
    late_answers(monkeypatch)
    with torch.no_grad():
        model[4].bias[1] = torch.nan
    averager.step()
    with pytest.warns(RuntimeWarning, match=r"4\.bias hold NaN or infinity.*skip"):
        averager.step()
    assert averager.skipped == 2


def test_refreshed_statistics_outlive_an_update_that_turns_out_to_be_skipped(monkeypatch):
    torch.manual_seed(0)
    model = net()
    averager = Averager(model, [0.9])
    step = skippable_step(averager)
    averager.refresh_batchnorm([batch(0)])
    late_answers(monkeypatch)
    step(inf(True))
    assert averager.state_dict()["refreshed"]
    step(inf(False))
    assert not averager.state_dict()["refreshed"]


def test_raising_waits_for_the_device(monkeypatch):
    model = net()
    averager = Averager(model, [0.9], nonfinite="raise")
    late_answers(monkeypatch)
    with torch.no_grad():
        model[4].bias[1] = torch.nan
    with pytest.raises(NonFiniteError, match=r"4\.bias"):
        averager.step()


def test_a_layer_lost_while_an_update_is_open_is_refused_at_the_next(monkeypatch):
    model = net()
    averager = Averager(model, [0.9])
    late_answers(monkeypatch)
    averager.step()
    model.append(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"5\.bias"):
        averager.step()
    model.pop(5)
    assert averager.updates == 1


# Kernels


VALUES = [torch.nan, torch.inf, -torch.inf, 3e38, -3e38, 0.0, 1.0]


@given(
    values=st.lists(st.sampled_from(VALUES), max_size=6),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.complex64]),
)
def test_the_devices_look_at_values_is_the_hosts(values, dtype):
    tensors = [torch.ones(3, dtype=dtype), torch.tensor(values).to(dtype), torch.ones(0)]
    assert bool(kernels.finite_flag(tensors)) == kernels.all_finite(tensors)


def test_half_precision_at_its_largest_is_finite_to_the_device():
    top = torch.full((8,), torch.finfo(torch.float16).max, dtype=torch.float16)
    assert bool(kernels.finite_flag([top]))
    assert bool(kernels.finite_flag([]))
    assert not bool(kernels.finite_flag([top, top * 2]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("keep", [True, False])
def test_a_lerp_on_condition_is_the_lerp_or_nothing(dtype, keep):
    draws = torch.Generator().manual_seed(0)
    live = [torch.randn(5, dtype=dtype, generator=draws) for _ in range(3)]
    rows = [[torch.randn(5, dtype=dtype, generator=draws) for _ in live] for _ in range(2)]
    expected = [[m.clone() for m in row] for row in rows]
    if keep:
        kernels.lerp_all(expected, live, [0.1, 1.0])
    else:
        live[1][2] = torch.nan
    kernels.lerp_all(rows, live, [0.1, 1.0], keep=torch.tensor(keep))
    for row, good in zip(rows, expected, strict=True):
        for m, x in zip(row, good, strict=True):
            assert torch.equal(m, x)
