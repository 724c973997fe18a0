import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    MultiStepLR,
    SequentialLR,
)

from polyak.training.optim import OptimConfig, build_optimizer, learning_rate


def _ours(config: OptimConfig, *, steps_per_epoch: int, epochs: int) -> list[float]:
    return [
        learning_rate(step, config, steps_per_epoch=steps_per_epoch, epochs=epochs)
        for step in range(steps_per_epoch * epochs)
    ]


def _torchs(after, *, lr: float, warmup: int, steps: int) -> list[float]:
    """torch's linear warm-up, then the scheduler that `after` builds, stepped per batch."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    schedule = after(optimizer)
    if warmup:
        rise = LinearLR(optimizer, start_factor=1e-8, total_iters=warmup)
        schedule = SequentialLR(optimizer, [rise, schedule], milestones=[warmup])
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")
@pytest.mark.parametrize(
    ("warmup_epochs", "steps_per_epoch", "epochs"), [(5, 7, 30), (0, 7, 30), (2.5, 4, 6), (1, 1, 9)]
)
def test_cosine_equals_torchs_warmup_and_annealing(warmup_epochs, steps_per_epoch, epochs):
    warmup, steps = int(warmup_epochs * steps_per_epoch), steps_per_epoch * epochs
    expected = _torchs(
        lambda optimizer: CosineAnnealingLR(optimizer, T_max=steps - warmup),
        lr=0.4,
        warmup=warmup,
        steps=steps,
    )
    config = OptimConfig(lr=0.4, warmup_epochs=warmup_epochs)
    ours = _ours(config, steps_per_epoch=steps_per_epoch, epochs=epochs)
    assert ours == pytest.approx(expected, rel=1e-6, abs=1e-8)


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")
def test_step_equals_torchs_milestones_after_warmup():
    spe, epochs, warmup = 5, 20, 10
    expected = _torchs(
        # Its milestones count from the end of warm-up.
        lambda optimizer: MultiStepLR(optimizer, [30 - warmup, 60 - warmup], gamma=1 / 5),
        lr=0.1,
        warmup=warmup,
        steps=spe * epochs,
    )
    config = OptimConfig(lr=0.1, schedule="step", milestones=(6, 12), warmup_epochs=2)
    assert _ours(config, steps_per_epoch=spe, epochs=epochs) == pytest.approx(
        expected, rel=1e-6, abs=1e-8
    )


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")
def test_constant_equals_torchs_constant_after_warmup():
    expected = _torchs(
        lambda optimizer: ConstantLR(optimizer, factor=1.0), lr=0.1, warmup=10, steps=100
    )
    config = OptimConfig(lr=0.1, schedule="constant", warmup_epochs=2)
    assert _ours(config, steps_per_epoch=5, epochs=20) == pytest.approx(
        expected, rel=1e-6, abs=1e-8
    )


def test_held_is_cosine_until_its_epoch_and_its_last_value_from_then_on():
    cosine = _ours(OptimConfig(warmup_epochs=2), steps_per_epoch=5, epochs=20)
    held = _ours(
        OptimConfig(warmup_epochs=2, schedule="held", hold_epoch=12), steps_per_epoch=5, epochs=20
    )
    assert held[:61] == cosine[:61]
    assert set(held[60:]) == {cosine[60]}


def test_warmup_rises_by_equal_steps_to_the_peak():
    rates = _ours(OptimConfig(lr=0.4, warmup_epochs=2), steps_per_epoch=5, epochs=20)
    assert rates[0] == pytest.approx(0.4e-8)
    assert rates[1:11] == pytest.approx([0.04 * s for s in range(1, 11)])
    assert max(rates) == rates[10] == 0.4


def test_a_fraction_of_an_epoch_is_a_warmup_too():
    rates = _ours(OptimConfig(lr=1.0, warmup_epochs=0.5), steps_per_epoch=5, epochs=4)
    # 2.5 steps: the peak lies between two steps and is not reached exactly.
    assert rates[:3] == pytest.approx([1e-8, 0.4, 0.8])
    assert rates[3] == pytest.approx((1 + math.cos(math.pi * 0.5 / 17.5)) / 2)
    assert rates[3:] == sorted(rates[3:], reverse=True)


def test_without_warmup_the_first_step_has_the_peak():
    assert learning_rate(0, OptimConfig(warmup_epochs=0), steps_per_epoch=5, epochs=4) == 0.4


def test_cosine_ends_one_step_before_zero():
    config = OptimConfig(lr=1.0, warmup_epochs=0)
    last = learning_rate(99, config, steps_per_epoch=10, epochs=10)
    assert 0 < last == pytest.approx((1 - math.cos(math.pi / 100)) / 2)
    assert learning_rate(100, config, steps_per_epoch=10, epochs=10) == 0


@given(
    st.integers(1, 400),
    st.integers(2, 200),
    st.floats(0, 0.99),
    st.sampled_from(["cosine", "step", "held", "constant", "wsd"]),
    st.data(),
)
def test_every_rate_lies_between_zero_and_the_peak(
    steps_per_epoch, epochs, warmup_share, schedule, data
):
    config = OptimConfig(
        lr=0.4,
        warmup_epochs=warmup_share * epochs,
        schedule=schedule,
        milestones=(epochs // 2,) if schedule == "step" else (),
        hold_epoch=epochs - 1 if schedule == "held" else None,
    )
    step = data.draw(st.integers(0, steps_per_epoch * epochs - 1))
    rate = learning_rate(step, config, steps_per_epoch=steps_per_epoch, epochs=epochs)
    assert 0 <= rate <= 0.4


@pytest.mark.parametrize(("shape", "power"), [("linear", 1.0), ("1-sqrt", 0.5)])
def test_wsd_stays_and_then_falls_to_zero_over_its_share_of_the_run(shape, power):
    config = OptimConfig(
        lr=0.4, warmup_epochs=2, schedule="wsd", decay_share=0.25, decay_shape=shape
    )
    rates = _ours(config, steps_per_epoch=5, epochs=20)
    assert rates[10:76] == [0.4] * 66
    expected = [0.4 * (1 - (k / 25) ** power) for k in range(25)]
    assert rates[75:] == pytest.approx(expected)
    assert learning_rate(100, config, steps_per_epoch=5, epochs=20) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(
    ("settings", "phrase"),
    [
        ({"name": "adam"}, "name is 'adam'; expected one of sgd, adamw, muon"),
        ({"betas": (0.9, 0.95)}, "betas is (0.9, 0.95); expected (0.9, 0.999) for optimiser sgd"),
        ({"name": "adamw", "betas": (0.9, 1.0)}, "betas is (0.9, 1.0); expected 0 <= beta < 1"),
        ({"name": "adamw", "momentum": 0.5}, "momentum is 0.5; expected 0.9 for optimiser adamw"),
        ({"clip": 0.0}, "clip is 0.0; expected > 0, or None"),
        ({"schedule": "wsd", "decay_share": 0.0}, "decay_share is 0.0; expected 0 < decay_share"),
        ({"decay_shape": "1-sqrt"}, "decay_shape is '1-sqrt'; expected 'linear' for schedule cos"),
        ({"decayed": "biases"}, "decayed is 'biases'; expected one of all, matrices"),
    ],
)
def test_a_setting_out_of_range_or_without_use_is_named(settings, phrase):
    found = OptimConfig(**settings).faults()
    assert any(phrase in fault for fault in found), found


def test_l2_falls_on_all_parameters_batchnorm_and_biases_included():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
    optimizer = build_optimizer(model, OptimConfig(lr=0.5, weight_decay=0.1, momentum=0.9))
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    # With Nesterov the first step is lr·(g + 0.9·g), g = 0.1·p.
    for p, old in zip(model.parameters(), before, strict=True):
        assert torch.allclose(p, old * (1 - 0.5 * 0.1 * 1.9))


def test_the_optimizer_is_nesterov_sgd_unless_there_is_no_momentum():
    model = nn.Linear(2, 2)
    group = build_optimizer(model, OptimConfig()).param_groups[0]
    assert (group["nesterov"], group["momentum"], group["dampening"]) == (True, 0.9, 0)
    assert not build_optimizer(model, OptimConfig(momentum=0.0)).param_groups[0]["nesterov"]


def test_frozen_parameters_are_left_alone():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    (group,) = build_optimizer(model, OptimConfig()).param_groups
    assert [p is model.weight for p in group["params"]] == [True]
