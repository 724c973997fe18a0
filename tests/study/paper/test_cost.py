from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from polyak.models import ModelConfig, build
from polyak.study.paper.cost import MACS, core_seconds, forward_passes, macs
from polyak.study.paper.presets import preset


@pytest.mark.parametrize("name", MACS)
def test_multiply_adds_are_those_that_torch_counts(name):
    # On the meta device nothing is computed.
    model = build(
        ModelConfig(name=name), classes=100, channels=3, image_size=32, generator_seed=0
    ).to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, 32, 32, device="meta"))
    assert macs(ModelConfig(name=name), 32) == pytest.approx(
        counter.get_total_flops() / 2, rel=0.02
    )


def test_width_and_side_count_squared():
    base = macs(ModelConfig(name="resnet8"), 32)
    assert macs(ModelConfig(name="resnet8", width=32), 32) == 4 * base
    assert macs(ModelConfig(name="resnet8"), 64) == 4 * base


def test_passes_are_those_of_training_hold_out_and_monitors():
    row = preset("table1", scale="paper").rows[3]
    row = replace(row, learning_rates=(0.1,), seeds=(0,), refits=False)
    # The arms, and of ten averages at stops with two kinds of statistics what is no arm.
    final = 8 * 60_000 + 3 * 40_000 + 8 * 40_000 + 16 * 20_000
    refitted = 8 * 60_000 + 3 * 50_000 + 8 * 50_000 + 16 * 10_000
    search = 200 * (3 * 40_000 + 6 * 10_000)
    assert forward_passes(row, place="cifar10") == search + final
    refit = 200 * 3 * 50_000
    with_refit = replace(row, refits=True)
    assert forward_passes(with_refit, place="cifar10") == search + final + refit + refitted
    followed = replace(with_refit, follow_ups=("held", "annealed"))
    assert forward_passes(followed, place="cifar10") == 2 * forward_passes(
        with_refit, place="cifar10"
    )
    annealed = replace(row, follow_ups=("annealed",))
    assert forward_passes(annealed, place="cifar10") == 2 * (search + final)
    chosen = replace(row, config=replace(row.config, keep="chosen"))
    assert forward_passes(chosen, place="cifar10") == search + 8 * 60_000 + 3 * 40_000
    memorising = replace(row, search_monitors=("train_clean", "train_wrong"))
    assert forward_passes(memorising, place="cifar10") == search + 200 * 6 * 40_000 + final
    tested = replace(row, search_monitors=("test",))
    assert forward_passes(tested, place="cifar10") == search + 200 * 6 * 10_000 + final
    recomputed = replace(row, search_monitors=("holdout_bn",))
    more = 200 * (5 * 40_000 + 6 * 10_000)
    assert forward_passes(recomputed, place="cifar10") == search + more + final
    safe = replace(row, config=replace(row.config, selection="bn_safe"))
    assert forward_passes(safe, place="cifar10") == search + more + final


def test_a_refits_monitors_and_further_averages_count_too():
    """At the paper's size figure 2's refit recomputes statistics after each epoch."""
    row = replace(preset("table1", scale="paper").rows[3], learning_rates=(0.1,), seeds=(0,))
    plain = forward_passes(row, place="cifar10")
    tested = replace(row, refit_monitors=("test", "test_bn", "train_clean", "train_wrong"))
    passed = 6 * 10_000 + 6 * 10_000 + 6 * 50_000 + 5 * 50_000
    assert forward_passes(tested, place="cifar10") == plain + 200 * passed
    both = replace(row, refit_monitors=("test_bn",), search_monitors=("holdout_bn", "test_bn"))
    assert forward_passes(both, place="cifar10") == plain + 200 * (
        5 * 50_000 + 6 * 10_000 + 5 * 40_000 + 6 * 20_000
    )
    # One arm at the end of both runs, of the other one at two stops too.
    more = replace(row, config=replace(row.config, more_averages=("tail", "lawa")))
    search, refit = 60_000 + 40_000, 60_000 + 50_000
    assert forward_passes(more, place="cifar10") == plain + 4 * (search + refit)


def test_the_scales_cost_days_hours_and_minutes():
    """Of one core: what the list promises in words."""
    names = ("cifar100", "cifar100", "cifar100", "cifar10", "tiny-imagenet")
    seconds = {
        scale: sum(
            core_seconds(row, place=place)
            for row, place in zip(preset("table1", scale=scale).rows, names, strict=True)
        )
        for scale in ("paper", "small", "tiny")
    }
    assert seconds["paper"] > 100 * 86_400
    assert 3_600 < seconds["small"] < 100_000
    assert seconds["tiny"] < 600
