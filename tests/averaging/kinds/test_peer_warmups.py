"""The warm-ups, held against the counters and formulas of the tools that users come from."""

import math
from itertools import islice

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from polyak.averaging import EMA, Exponential, HalfLifeRamp, InverseGamma
from polyak.averaging.kinds import Update
from polyak.averaging.kinds.warmups import WARMUPS

# Each tool's own bookkeeping, written as its users meet it: one call per update.


def tensorflow(decay):
    """`num_updates` is the global step before it is raised: 0 at the first call."""
    num_updates = 0
    while True:
        yield min(decay, (1 + num_updates) / (10 + num_updates))
        num_updates += 1


def torch_ema(decay):
    num_updates = 0
    while True:
        num_updates += 1
        yield min(decay, (1 + num_updates) / (10 + num_updates))


def diffusers(
    decay, *, use_ema_warmup=False, update_after_step=0, inv_gamma=1.0, power=2 / 3, min_decay=0.0
):
    optimization_step = 0
    while True:
        optimization_step += 1
        step = max(0, optimization_step - update_after_step - 1)
        if step == 0:
            yield 0.0
            continue
        value = (1 + step) / (10 + step)
        if use_ema_warmup:
            value = 1 - (1 + step / inv_gamma) ** -power
        yield max(min(value, decay), min_decay)


def timm_v3(decay, *, min_decay=0.0, update_after_step=0, warmup_gamma=1.0, warmup_power=2 / 3):
    """With `step=` as timm's own training script passes it, 1 at the first call."""
    num_updates = 0
    while True:
        num_updates += 1
        step = max(0, num_updates - update_after_step - 1)
        value = 1 - (1 + step / warmup_gamma) ** -warmup_power
        yield max(min(value, decay), min_decay) if step > 0 else 0.0


def ema_pytorch(beta, *, update_after_step=0, inv_gamma=1.0, power=2 / 3, min_value=0.0):
    """The first call copies, and so does each up to `update_after_step`."""
    step = 0
    while True:
        before, step = step, step + 1
        if before <= update_after_step:
            yield 0.0
            continue
        epoch = step - update_after_step - 1
        yield min(max(1 - (1 + epoch / inv_gamma) ** -power, min_value), beta)


def edm2(decay, *, rampup_ratio=0.09, batch_size=32):
    """In images; the half-life is the one that `decay` has at this batch size."""
    halflife = batch_size * math.log(0.5) / math.log(decay)
    images = 0
    while True:
        images += batch_size
        yield 0.5 ** (batch_size / min(halflife, images * rampup_ratio))


def yolo(decay, *, tau=2000):
    updates = 0
    while True:
        updates += 1
        yield decay * (1 - math.exp(-updates / tau))


def ours(average, n, every=1):
    return [
        1 - average.weight(Update(t, (t + 1) * every, every), folded=t) for t in range(n)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("warmup", "peer", "first"),
    [
        ("paper", tensorflow, 1 / 10),
        ("torch_ema", torch_ema, 2 / 11),
        ("diffusers", diffusers, 0.0),
        ("inverse_gamma", timm_v3, 0.0),
        ("inverse_gamma", ema_pytorch, 0.0),
        ("edm2", edm2, 0.5 ** (1 / 0.09)),
        ("yolo", yolo, 0.9999 * -math.expm1(-1 / 2000)),
    ],
)
@pytest.mark.parametrize("decay", [0.9, 0.99, 0.9999])
def test_a_name_is_the_decays_of_its_tool_from_the_first_update_on(warmup, peer, first, decay):
    """C2: the first decay tells the tools' three ways of counting apart."""
    expected = list(islice(peer(decay), 3000))
    assert ours(EMA(decay, warmup=warmup), 3000) == pytest.approx(expected, rel=1e-12, abs=1e-15)
    if decay == 0.9999:
        assert expected[0] == pytest.approx(first, rel=1e-9)


@given(
    decay=st.floats(0.5, 0.9999),
    gamma=st.floats(0.1, 50.0),
    power=st.floats(0.1, 1.5),
    least=st.floats(0.0, 0.5),
    after=st.integers(0, 40),
)
def test_inverse_gamma_with_its_settings_is_timms_and_diffusers_and_ema_pytorchs(
    decay, gamma, power, least, after
):
    warmup = InverseGamma(gamma=gamma, power=power, min_decay=least, after=after)
    got = ours(EMA(decay, warmup=warmup), 100)
    peers = [
        timm_v3(
            decay,
            min_decay=least,
            update_after_step=after,
            warmup_gamma=gamma,
            warmup_power=power,
        ),
        diffusers(
            decay,
            use_ema_warmup=True,
            update_after_step=after,
            inv_gamma=gamma,
            power=power,
            min_decay=least,
        ),
        ema_pytorch(
            decay, update_after_step=after, inv_gamma=gamma, power=power, min_value=least
        ),
    ]  # fmt: skip
    for peer in peers:
        assert got == pytest.approx(list(islice(peer, 100)), rel=1e-12, abs=1e-15)


@given(ratio=st.floats(0.01, 1.0), tau=st.floats(1.0, 5000.0), decay=st.floats(0.1, 0.9999))
def test_edm2_and_yolo_with_settings_of_their_own(ratio, tau, decay):
    edm = list(islice(edm2(decay, rampup_ratio=ratio), 200))
    assert ours(EMA(decay, warmup=HalfLifeRamp(ratio)), 200) == pytest.approx(edm, rel=1e-9)
    exponential = list(islice(yolo(decay, tau=tau), 200))
    assert ours(EMA(decay, warmup=Exponential(tau)), 200) == pytest.approx(exponential, rel=1e-9)


@pytest.mark.parametrize("every", [1, 7, 16])
def test_edm2s_ramp_is_the_same_whatever_is_counted(every):
    """A share of the run so far has no unit."""
    updates = ours(EMA(0.999, "edm2", "updates"), 500, every=every)
    steps = ours(EMA(0.999, "edm2", "steps"), 500, every=every)
    assert steps == pytest.approx(updates, rel=1e-12)


@given(name=st.sampled_from(sorted(WARMUPS)), every=st.integers(1, 20), t=st.integers(0, 300))
def test_counting_steps_reads_the_same_ramp_at_the_step(name, every, t):
    assume(name != "edm2")
    by_steps = EMA(0.9999, name, "steps").weight(Update(t, (t + 1) * every, every), t)
    index = (t + 1) * every - 1
    assert by_steps == EMA(0.9999, name, "updates").weight(Update(index, index + 1, 1), index)
