"""The bank: recurrence, counting, independence of its members, what is read from it."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.small_networks import (
    EVERY_KIND,
    Scalar,
    Tied,
    assert_same_bits,
    batch,
    drift,
    mean_of,
    moved,
    net,
    profile,
    snapshot,
    train_step,
    use,
    walk,
)
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from polyak import EMA, Averager, PowerEMA, Uniform
from polyak.errors import ConfigError

periods = st.integers(1, 6)
lengths = st.integers(0, 25)


# Recurrence


@given(kind=st.sampled_from(EVERY_KIND), every=periods, steps=lengths)
def test_an_average_is_the_written_out_sum(kind, every, steps):
    def make():
        torch.manual_seed(0)
        return net().double()

    model = make()
    averager = Averager(model, [kind], every=every)
    walk(averager, model, range(1, steps + 1))

    states = moved(make, steps)[::every]  # at the start and at each update
    expected = mean_of(states, profile(kind, every=every, updates=steps // every))
    torch.testing.assert_close(averager.tensors(kind.label), expected, rtol=1e-12, atol=1e-12)


@given(decay=st.floats(0, 0.999), path=st.lists(st.floats(-10, 10), min_size=1, max_size=30))
def test_a_constant_decay_gives_the_textbook_sum(decay, path):
    """d^T·x_0 + (1−d)·Σ_t d^(T−t)·x_t."""
    model = Scalar(path[0])
    averager = Averager(model, [EMA(decay, warmup=None, name="m")])
    for x in path:
        model.set(x)
        averager.step()
    total = len(path)
    expected = decay**total * path[0]
    expected += (1 - decay) * sum(decay ** (total - t) * x for t, x in enumerate(path, start=1))
    assert averager.tensors("m")["w"].item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("warmup_counts", ["updates", "steps"])
def test_the_first_update_under_warm_up_has_decay_one_tenth_or_counts_steps(warmup_counts):
    model = Scalar(0.0)
    averager = Averager(model, [EMA(0.999, warmup_counts=warmup_counts, name="m")], every=4)
    model.set(1.0)
    for _ in range(4):
        averager.step()
    kept = {"updates": 1 / 10, "steps": 4 / 13}[warmup_counts]
    assert averager.tensors("m")["w"].item() == pytest.approx(1 - kept, abs=1e-15)


def test_no_average_moves_before_its_first_update():
    model = net()
    start = snapshot(model)
    averager = Averager(model, EVERY_KIND, every=5)
    walk(averager, model, range(4))
    for name in averager.names:
        assert_same_bits(averager.tensors(name), start)


def test_a_tail_holds_the_initial_weights_until_it_starts_and_then_forgets_them():
    model = Scalar(100.0)
    averager = Averager(model, [Uniform(start=4)], every=2)
    seen = []
    for x in range(1, 9):
        model.set(float(x))
        averager.step()
        seen.append(averager.tensors("uniform_from_4")["w"].item())
    assert seen == [100, 100, 100, 100, 100, 6, 6, 7]


def test_power_averages_forget_the_initial_weights_at_once():
    model = Scalar(1e300)
    averager = Averager(model, [PowerEMA(gamma=3.0, name="m")])
    model.set(1.0)
    averager.step()
    assert averager.tensors("m")["w"].item() == 1.0


def test_a_decay_per_step_gives_one_horizon_at_every_period():
    """C15: elsewhere a longer period silently lengthens the average."""
    ends = []
    for every in (1, 5, 20):
        model = Scalar(0.0)
        averager = Averager(model, [EMA.per_step(0.998, warmup=None, name="m")], every=every)
        model.set(1.0)
        for _ in range(400):
            averager.step()
        ends.append(averager.tensors("m")["w"].item())
    assert ends == pytest.approx([1 - 0.998**400] * 3, rel=1e-12)


def test_a_tied_weight_is_updated_once():
    """C3: timm's average takes 0.19 of the new weight in place of 0.10."""
    model = Tied()
    with torch.no_grad():
        model.embedding.weight.fill_(0)
    averager = Averager(model, [EMA(0.9, warmup=None)])
    with torch.no_grad():
        model.embedding.weight.fill_(1)
    averager.step()
    for name in ("embedding.weight", "head.weight"):
        torch.testing.assert_close(averager.tensors("ema_0.9")[name], torch.full((5, 3), 0.1))


def test_tied_weights_are_one_tensor_in_what_is_read():
    model = Tied()
    read = Averager(model, [0.9]).tensors("ema_0.9")
    assert list(read) == list(model.state_dict())
    assert read["embedding.weight"] is read["head.weight"]


def test_integer_buffers_are_those_of_the_last_update():
    """C5: torch averages and truncates num_batches_tracked; ema-pytorch never copies it."""
    model = net()
    averager = Averager(model, [0.9, Uniform()], every=3)
    walk(averager, model, range(8))
    for name in averager.names:
        assert averager.tensors(name)["1.num_batches_tracked"] == 6
    assert model[1].num_batches_tracked == 8


def test_buffers_can_be_copied():
    model = net()
    averager = Averager(model, [0.9], buffers="copy", every=2)
    walk(averager, model, range(4))
    last = snapshot(model)
    drift(model, 9)
    read = averager.tensors("ema_0.9")
    assert torch.equal(read["1.running_mean"], last["1.running_mean"])
    assert not torch.equal(read["0.weight"], last["0.weight"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_have_float32_averages_that_move(dtype):
    """C7: after 5000 updates at d = 0.999 a bfloat16 average still stands where it began."""
    model = nn.Linear(4, 4).to(dtype)
    with torch.no_grad():
        model.weight.fill_(1.0)
    averager = Averager(model, [EMA(0.999, warmup=None)])
    with torch.no_grad():
        model.weight.fill_(1.125)
    for _ in range(100):
        averager.step()
    weight = averager.tensors("ema_0.999")["weight"]
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, torch.full((4, 4), 1 + 0.125 * (1 - 0.999**100)))


def test_averages_can_be_wider_than_the_weights():
    model = net()
    averager = Averager(model, [0.9], dtype=torch.float64)
    walk(averager, model, range(3))
    floats = [x for x in averager.tensors("ema_0.9").values() if x.is_floating_point()]
    assert {x.dtype for x in floats} == {torch.float64}


# Torch's own averages


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.998])
def test_torchs_ema_agrees(decay):
    model = net()
    averager = Averager(model, [EMA(decay, warmup=None)], buffers="copy")
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    theirs.update_parameters(model)  # its first update takes the weights as they are
    for seed in range(20):
        drift(model, seed)
        averager.step()
        theirs.update_parameters(model)
    torch.testing.assert_close(averager.tensors(f"ema_{decay:g}"), snapshot(theirs.module))


def test_torchs_swa_agrees():
    model = net()
    averager = Averager(model, [Uniform()], buffers="copy", every=3)
    theirs = AveragedModel(model)
    for seed in range(20):
        drift(model, seed)
        averager.step()
        if seed % 3 == 2:
            theirs.update_parameters(model)
    torch.testing.assert_close(
        dict(averager.module("uniform").named_parameters()),
        {n: p.detach() for n, p in theirs.module.named_parameters()},
        check_stride=False,
    )


# Counting


@given(every=periods, steps=lengths)
def test_updates_are_the_steps_divided_by_the_period(every, steps):
    """C2: Lightning's has one more at the end of each epoch, and one at step 0."""
    model = Scalar()
    averager = Averager(model, [0.9], every=every)
    for _ in range(steps):
        averager.step()
    assert (averager.steps, averager.updates, averager.skipped) == (steps, steps // every, 0)


def test_a_manual_update_counts_no_step():
    averager = Averager(Scalar(), [0.9], every=4)
    averager.update()
    averager.update()
    assert (averager.steps, averager.updates) == (0, 2)


@given(every=periods, updates=st.integers(1, 12))
def test_a_loop_of_manual_updates_is_a_loop_of_steps(every, updates):
    """Without counted steps an update stands for `every` of them."""
    by_hand, by_step = Scalar(5.0), Scalar(5.0)
    manual = Averager(by_hand, EVERY_KIND, every=every)
    counted = Averager(by_step, EVERY_KIND, every=every)
    for t in range(updates):
        by_hand.set(t)
        by_step.set(t)
        manual.update()
        for _ in range(every):
            counted.step()
    for name in counted.names:
        assert_same_bits(manual.tensors(name), counted.tensors(name))


def test_an_extra_update_within_a_period_takes_the_steps_since_the_last():
    """C1: a power profile is right however the updates lie."""
    model = Scalar()
    averager = Averager(model, [PowerEMA(gamma=2.0, name="m")], every=4)
    for t in range(1, 9):
        model.set(t)
        averager.step()
        if t == 6:
            averager.update()
    expected = (4**3 * 4 + (6**3 - 4**3) * 6 + (8**3 - 6**3) * 8) / 8**3
    assert averager.tensors("m")["w"].item() == pytest.approx(expected, rel=1e-12)


def test_steps_after_a_manual_update_at_the_same_place_still_count():
    """The manual one stands for `every` steps of its own, and takes none from the next."""
    model = Scalar()
    averager = Averager(model, [PowerEMA(gamma=2.0, name="m")], every=4)
    for x in (1.0, 2.0, 3.0):
        model.set(x)
        if x == 2.0:
            averager.update()
        else:
            for _ in range(4):
                averager.step()
    expected = (4**3 * 1 + (8**3 - 4**3) * 2 + (12**3 - 8**3) * 3) / 12**3
    assert averager.tensors("m")["w"].item() == pytest.approx(expected, rel=1e-12)


# One bank, many members


@given(every=periods, steps=lengths, dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_a_bank_is_its_members_alone_bit_for_bit(every, steps, dtype):
    torch.manual_seed(0)
    model = net().to(dtype)
    bank = Averager(model, EVERY_KIND, every=every)
    singles = [Averager(model, [kind], every=every) for kind in EVERY_KIND]
    for seed in range(steps):
        drift(model, seed)
        for averager in (bank, *singles):
            averager.step()
    for single in singles:
        [name] = single.names
        assert_same_bits(bank.tensors(name), single.tensors(name))


def test_averagers_of_different_periods_live_beside_each_other():
    model = net()
    fine, coarse = Averager(model, [0.9]), Averager(model, [0.9], every=4)
    for seed in range(8):
        drift(model, seed)
        fine.step()
        coarse.step()
    assert (fine.updates, coarse.updates) == (8, 2)


# What is read


def test_names_keep_their_order():
    assert Averager(net(), [0.99, Uniform(), 0.9]).names == ("ema_0.99", "uniform", "ema_0.9")


def test_tensors_are_independent_copies_for_load_state_dict():
    """C6: elsewhere writing to the average writes to the model."""
    model = net()
    averager = Averager(model, [0.9])
    walk(averager, model, range(2))
    own = snapshot(model)
    held = {name: x.clone() for name, x in averager.tensors("ema_0.9").items()}
    for x in averager.tensors("ema_0.9").values():
        x.zero_()
    assert_same_bits(averager.tensors("ema_0.9"), held)
    assert_same_bits(snapshot(model), own)
    net().load_state_dict(held, strict=True)


def test_frozen_parameters_are_read_live_and_are_not_stored():
    model = net()
    model[0].requires_grad_(False)
    averager = Averager(model, [0.9])
    assert torch.equal(averager.tensors("ema_0.9")["0.weight"], model[0].weight)
    assert not any(key.startswith("0.") for key in averager.state_dict()["tensors"]["ema_0.9"])


def test_a_parameter_frozen_later_is_averaged_on():
    """C12: its average goes to the weight that it was frozen at."""
    model = net()
    averager = Averager(model, [EMA(0.5, warmup=None)])
    with torch.no_grad():
        model[0].weight.add_(1)
    goal = model[0].weight.detach().clone()
    model[0].requires_grad_(False)
    for _ in range(60):
        averager.step()
    torch.testing.assert_close(averager.tensors("ema_0.5")["0.weight"], goal)


def test_a_module_is_an_independent_copy_in_eval_mode_without_gradients():
    """C4: torch's copy trains on and keeps requires_grad; ema-pytorch's changes its statistics."""
    model = net(dropout=0.5)
    averager = Averager(model, [0.9])
    walk(averager, model, range(3))
    own, held = snapshot(model), averager.tensors("ema_0.9")
    module = averager.module("ema_0.9")
    assert not any(part.training for part in module.modules())
    assert not any(p.requires_grad for p in module.parameters())
    module(batch(0))
    assert_same_bits(module.state_dict(), held)
    with torch.no_grad():
        module[0].weight.zero_()
    assert_same_bits(snapshot(model), own)
    assert_same_bits(averager.tensors("ema_0.9"), held)
    assert all(part.training for part in model.modules())
    assert all(p.requires_grad for p in model.parameters())


def test_a_module_has_the_models_own_dtypes():
    model = net().to(torch.bfloat16)
    averager = Averager(model, [0.9])
    drift(model, 0)
    averager.step()
    got = {n: x.dtype for n, x in averager.module("ema_0.9").state_dict().items()}
    assert got == {n: x.dtype for n, x in model.state_dict().items()}


def test_a_model_that_cannot_be_copied_is_averaged_and_applied_all_the_same():
    """C4: ema-pytorch prints a line and ends the process."""

    class NoCopy(nn.Linear):
        def __deepcopy__(self, memo):
            raise NotImplementedError("no copy of this")

    model = NoCopy(3, 2)
    averager = Averager(model, [EMA(0.5, warmup=None)])
    before = model.weight.detach().clone()
    drift(model, 0)
    averager.step()
    middle = (before + model.weight.detach()) / 2
    torch.testing.assert_close(averager.tensors("ema_0.5")["weight"], middle)
    with averager.applied("ema_0.5"):
        torch.testing.assert_close(model.weight.detach(), middle)
    with pytest.raises(NotImplementedError, match="no copy of this"):
        averager.module("ema_0.5")
    assert not torch.equal(model.weight, middle)


def test_a_module_keeps_its_ties():
    module = Averager(Tied(), [0.9]).module("ema_0.9")
    assert module.head.weight is module.embedding.weight


@pytest.mark.parametrize("call", ["tensors", "module", "applied"])
def test_an_unknown_average_names_the_nearest(call):
    averager = Averager(net(), [0.99, 0.998])
    with pytest.raises(ConfigError, match=r"'ema_0\.98'.*Did you mean 'ema_0\.998'"):
        use(averager, call, "ema_0.98")


def test_an_update_touches_nothing_of_the_model():
    """C17: MixMatch's updater decays the weights in passing."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train_step(model, optimizer, 0)
    averager = Averager(model, EVERY_KIND)
    own, grads = snapshot(model), [p.grad.clone() for p in model.parameters()]
    momenta = copy.deepcopy(optimizer.state_dict()["state"])
    addresses = [p.data_ptr() for p in model.parameters()]
    versions = [p._version for p in model.parameters()]
    rng = torch.get_rng_state()
    averager.step()
    assert_same_bits(snapshot(model), own)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True))
    assert [p.data_ptr() for p in model.parameters()] == addresses
    assert [p._version for p in model.parameters()] == versions
    for key, state in optimizer.state_dict()["state"].items():
        assert torch.equal(state["momentum_buffer"], momenta[key]["momentum_buffer"])
    assert torch.equal(torch.get_rng_state(), rng)
