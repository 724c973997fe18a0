"""A live model is its average at any time, in its memory, and nothing that it does moves that."""

import copy
import gc
import io
import threading
import weakref

import pytest
import torch
from support.late_answers import LateTransfer, inf, late_answers, offloaded, skippable_step
from support.small_networks import Tied, assert_same_bits, batch, drift, net, snapshot, walk
from torch import nn
from torch.nn.utils import parametrizations

from polyak import EMA, Averager, Uniform, Window
from polyak.errors import ConfigError, StateError

PLAIN = EMA(0.9, warmup=None, name="ema")


def built(average=PLAIN, **settings):
    torch.manual_seed(0)
    model = net(dropout=0.5)
    averager = Averager(model, average, **settings)
    return model, averager, averager.live(averager.names[0])


def moved(averager, model, seed):
    drift(model, seed)
    averager.step()


def assert_is_the_average(live, averager, name=None, *, x=None):
    """The same weights, and the same outputs as the snapshot that `module` gives."""
    name = averager.names[0] if name is None else name
    x = batch(9) if x is None else x
    with torch.no_grad():
        assert torch.equal(live(x), averager.module(name)(x))
    assert_same_bits(snapshot(live), snapshot(averager.module(name)))


# Memory


def test_its_weights_lie_in_the_averages_memory_and_nowhere_else():
    model, averager, live = built()
    rows = averager.state_dict()["tensors"]["ema"]
    own = dict(live.named_parameters()) | dict(live.named_buffers())
    for key, x in rows.items():
        assert own[key].data_ptr() == x.data_ptr()
        assert own[key].untyped_storage().nbytes() == x.numel() * x.element_size()
    assert not {x.data_ptr() for x in own.values()} & {x.data_ptr() for x in model.parameters()}


def test_what_is_frozen_lies_in_the_models_memory():
    model = net()
    model[0].weight.requires_grad_(False)
    averager = Averager(model, PLAIN)
    live = averager.live()
    assert live[0].weight.data_ptr() == model[0].weight.data_ptr()
    moved(averager, model, 0)
    assert_is_the_average(live, averager)


class Quantised(nn.Parameter):
    """A weight of another type, which may have more than its values."""


def test_a_frozen_base_of_another_type_is_the_models_own():
    model = net()
    model.base = Quantised(torch.ones(2, dtype=torch.int8), requires_grad=False)
    averager = Averager(model, PLAIN)
    live = averager.live()
    assert live.base is model.base
    with torch.no_grad():
        model[0].weight.add_(1)
    averager.step()
    assert_is_the_average(live, averager)


def test_an_update_is_all_that_it_takes():
    model, averager, live = built()
    for seed in range(4):
        moved(averager, model, seed)
        assert_is_the_average(live, averager)


def test_where_another_dtype_is_stored_one_copy_follows():
    torch.manual_seed(0)
    model = net().to(torch.bfloat16)
    averager = Averager(model, PLAIN)  # kept in float32
    live = averager.live()
    x = batch(9).to(torch.bfloat16)
    for seed in range(3):
        moved(averager, model, seed)
        assert_is_the_average(live, averager, x=x)
    moved(averager, model, 3)
    assert_same_bits(live.state_dict(), averager.module().state_dict())


def test_bfloat16_averages_of_a_wider_model_are_whole_in_it():
    model, averager, live = built(dtype=torch.bfloat16)
    for seed in range(3):
        moved(averager, model, seed)
        assert_is_the_average(live, averager)


def test_part_of_it_may_run_alone_also_where_it_follows():
    model, averager, live = built(dtype=torch.bfloat16)
    moved(averager, model, 1)
    assert torch.equal(live[0](batch(1)), averager.module()[0](batch(1)))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float64])
def test_the_state_of_a_part_alone_is_the_averages(dtype, training):
    model, averager, live = built(dtype=dtype)
    live.train(training)
    live(batch(0))
    moved(averager, model, 1)
    for name, part in averager.module().named_children():
        assert_same_bits(live.get_submodule(name).state_dict(), part.state_dict())
    moved(averager, model, 2)
    assert_same_bits(live.state_dict(), averager.module().state_dict())


def test_the_state_of_one_that_follows_without_buffers_is_the_averages():
    model = nn.Linear(2, 2)
    averager = Averager(model, PLAIN, dtype=torch.bfloat16)
    live = averager.live()
    moved(averager, model, 1)
    assert_same_bits(live.state_dict(), averager.module().state_dict())


@pytest.mark.parametrize("average", [Window(2, name="w"), Uniform(name="u"), EMA(0.9)])
def test_it_is_any_kind_of_average(average):
    model, averager, live = built(average)
    for seed in range(4):
        moved(averager, model, seed)
        assert_is_the_average(live, averager)


def test_two_averages_are_two_models_at_once_in_one_expression_with_the_student():
    torch.manual_seed(0)
    model = net()
    averager = Averager(model, [PLAIN, EMA(0.5, None, name="fast")])
    slow, fast = averager.live("ema"), averager.live("fast")
    walk(averager, model, range(3))
    x = batch(0)
    model.eval()
    got = model(x) - slow(x) + fast(x)
    want = model(x) - averager.module("ema")(x) + averager.module("fast")(x)
    assert torch.equal(got, want)


def test_two_live_models_of_one_average_agree():
    model, averager, one = built()
    two = averager.live()
    moved(averager, model, 0)
    assert one[0].weight.data_ptr() == two[0].weight.data_ptr()
    assert torch.equal(one(batch(0)), two(batch(0)))


# Modes and gradients


def test_it_comes_in_eval_mode_without_gradients_whatever_the_student_does():
    model, averager, live = built()
    assert not any(part.training for part in live.modules())
    assert not any(x.requires_grad for x in live.parameters())
    assert model.training
    assert model[0].weight.requires_grad
    model.eval()
    live.train()
    assert not model.training
    moved(averager, model, 0)
    assert live.training


def test_in_train_mode_forward_passes_write_to_no_average():
    model, averager, live = built()
    moved(averager, model, 0)
    held = averager.tensors()
    live.train()
    torch.manual_seed(1)
    y = live(batch(0))
    assert not torch.equal(live[1].running_mean, held["1.running_mean"])  # a copy's
    assert_same_bits(averager.tensors(), held)
    torch.manual_seed(1)
    reference = averager.module().train()
    assert torch.equal(y, reference(batch(0)))
    assert_same_bits(live.state_dict(), held)
    live.eval()
    assert_is_the_average(live, averager)
    moved(averager, model, 1)
    assert_is_the_average(live, averager)


class Counted(nn.Module):
    """Writes to a buffer in every forward pass, and replaces another."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("last", torch.zeros(2))

    def forward(self, x):
        y = self.layer(x)
        self.seen += 1
        self.last = y[0].detach()
        return y + self.seen


def test_a_module_that_writes_to_its_buffers_writes_to_no_average():
    model = Counted()
    averager = Averager(model, PLAIN)
    live = averager.live()
    held = averager.tensors()
    assert torch.equal(live(batch(0)), live(batch(0)))
    assert_same_bits(averager.tensors(), held)
    assert_same_bits(live.state_dict(), held)
    moved(averager, model, 1)
    assert_same_bits(live.state_dict(), averager.tensors())


def test_two_forward_passes_before_a_backward_pass_through_it_are_fine():
    model = Counted()
    live = Averager(model, PLAIN).live()
    x = batch(0).requires_grad_()
    (live(x) * live(x)).sum().backward()
    assert x.grad is not None


def test_an_update_between_its_forward_and_backward_pass_is_noticed():
    """As torch notices it of any module; no gradient is taken at other weights in silence."""
    model, averager, live = built()
    x = batch(0).requires_grad_()
    loss = live(x).sum()
    moved(averager, model, 0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_an_update_inside_its_forward_pass_is_one_like_any_other():
    """The layers that have run saw the weights of before, those that follow see the new ones."""
    model, averager, live = built()
    live[3].register_forward_hook(lambda *_: moved(averager, model, 5))
    before = averager.module()
    x = batch(0)
    got = live(x)
    with torch.no_grad():
        want = averager.module()[4](before[2](before[1](before[0](x))))
    assert torch.equal(got, want)
    assert_same_bits(snapshot(live), averager.tensors())


def test_gradients_through_it_reach_its_input_alone():
    model, _, live = built()
    x = batch(0).requires_grad_()
    live(x).sum().backward()
    assert x.grad is not None
    assert all(p.grad is None for p in [*live.parameters(), *model.parameters()])


# BatchNorm


@pytest.mark.parametrize("buffers", ["average", "copy", {"*": "copy", "1.running_mean": "live"}])
def test_buffers_are_as_the_averager_has_them(buffers):
    model, averager, live = built(buffers=buffers)
    for seed in range(3):
        moved(averager, model, seed)
        assert_is_the_average(live, averager)


def test_refreshed_statistics_of_halves_stand_in_it_whole():
    model, averager, live = built(dtype=torch.bfloat16)
    moved(averager, model, 0)
    averager.refresh_batchnorm([batch(3, size=32)])
    assert_is_the_average(live, averager)
    exact, alone, _ = built()
    moved(alone, exact, 0)
    alone.refresh_batchnorm([batch(3, size=32)])
    torch.testing.assert_close(live[1].running_var, alone.module()[1].running_var)


def test_refreshed_statistics_stand_in_it_until_the_next_update():
    model, averager, live = built()
    moved(averager, model, 0)
    averaged = averager.tensors()
    averager.refresh_batchnorm([batch(3, size=32)])
    assert not torch.equal(live[1].running_mean, averaged["1.running_mean"])
    assert_is_the_average(live, averager)
    averager.drop_refreshed()
    assert_same_bits(snapshot(live), averaged)
    averager.refresh_batchnorm([batch(3, size=32)])
    moved(averager, model, 1)
    assert live[1].running_mean.data_ptr() == (
        averager.state_dict()["tensors"]["ema"]["1.running_mean"].data_ptr()
    )
    assert_is_the_average(live, averager)


# What is done with modules


def test_it_may_be_cast_and_follows_then():
    model, averager, live = built()
    live.double()
    moved(averager, model, 0)
    got = live(batch(9).double())
    assert torch.equal(got, averager.module().double()(batch(9).double()))
    live.float()
    moved(averager, model, 1)
    assert_is_the_average(live, averager)
    rows = averager.state_dict()["tensors"]["ema"]
    assert live[0].weight.data_ptr() == rows["0.weight"].data_ptr()


def test_a_copy_and_a_pickle_of_it_are_models_by_themselves():
    model, averager, live = built(dtype=torch.bfloat16)
    moved(averager, model, 0)
    live(batch(0))
    file = io.BytesIO()
    torch.save(live, file)
    file.seek(0)
    copies = [copy.deepcopy(live), torch.load(file, weights_only=False)]
    held = averager.tensors()
    moved(averager, model, 1)
    for copied in copies:
        copied(batch(1))
        assert_same_bits(copied.state_dict(), held)


def test_what_is_loaded_into_it_is_loaded_into_the_average():
    model, averager, live = built()
    moved(averager, model, 0)
    other = snapshot(net(dropout=0.5))
    live.load_state_dict(other)
    assert_same_bits(averager.tensors(), other)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.slow
def test_compiled_it_is_right_after_every_update(dtype, training):
    torch.manual_seed(0)
    model = net()
    averager = Averager(model, PLAIN, dtype=dtype)
    live = averager.live().train(training)
    torch._dynamo.reset()
    compiled = torch.compile(live, backend="eager", fullgraph=dtype is None)
    graphs = torch._dynamo.utils.counters["stats"]
    for seed in range(6):
        moved(averager, model, seed)
        assert torch.equal(compiled(batch(0)), averager.module().train(training)(batch(0)))
        if seed == 2:
            settled = graphs["unique_graphs"]
    assert graphs["unique_graphs"] == settled


def test_under_autocast_no_cast_of_old_weights_is_used():
    model, averager, live = built()
    live.requires_grad_(True)  # autocast keeps casts of those alone
    with torch.autocast("cpu", torch.bfloat16):
        live(batch(0))
        moved(averager, model, 0)
        got = live(batch(0))
        want = averager.module()(batch(0))
    assert torch.equal(got, want)


def test_in_inference_mode_it_is_built_used_and_updated():
    torch.manual_seed(0)
    model = net()
    averager = Averager(model, PLAIN, dtype=torch.bfloat16)
    with torch.inference_mode():
        live = averager.live()
        live.train()
        live(batch(0))
    for mode in (True, False):
        with torch.inference_mode(mode):
            moved(averager, model, 0)
            live.train()
            live(batch(0))
            live.eval()
            assert torch.equal(live(batch(0)), averager.module()(batch(0)))


def test_another_thread_may_read_it_while_the_student_trains():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    averager = Averager(model, PLAIN)
    live = averager.live()
    results, stop = [], threading.Event()

    def act():
        while not stop.is_set():
            with torch.no_grad():
                results.append(bool(torch.isfinite(live(batch(0))).all()))

    actor = threading.Thread(target=act)
    actor.start()
    for seed in range(30):
        moved(averager, model, seed)
    stop.set()
    actor.join()
    assert results
    assert all(results)
    assert_is_the_average(live, averager)


def test_while_an_average_is_applied_it_stays_what_it_is():
    model = net()
    averager = Averager(model, [PLAIN, EMA(0.5, None, name="fast")])
    live = averager.live("ema")
    walk(averager, model, range(2))
    with averager.applied("fast"):
        assert torch.equal(live(batch(0)), averager.module("ema")(batch(0)))
        inside = averager.live("ema")
    walk(averager, model, range(2))
    assert_is_the_average(live, averager, "ema")
    assert_is_the_average(inside, averager, "ema")


# Devices that answer late


def test_what_is_on_its_way_to_host_memory_is_waited_for(monkeypatch):
    offloaded(monkeypatch, LateTransfer)
    torch.manual_seed(0)
    model = net()
    averager = Averager(model, PLAIN, device="cpu")
    live = averager.live()
    alone = copy.deepcopy(model)
    twin = Averager(alone, PLAIN)
    for seed in range(4):
        moved(averager, model, seed)
        moved(twin, alone, seed)
        assert torch.equal(live(batch(0)), twin.module()(batch(0)))


def test_a_step_that_turns_out_to_be_skipped_leaves_it_as_it_is(monkeypatch):
    late_answers(monkeypatch)
    torch.manual_seed(0)
    model = net()
    averager = Averager(model, PLAIN)
    live = averager.live()
    step = skippable_step(averager)
    for seed, found in enumerate([False, True, False]):
        before = snapshot(live)
        drift(model, seed)
        step(inf(found))
        assert torch.equal(live[0].weight, before["0.weight"]) is found
        assert_is_the_average(live, averager)


@pytest.mark.parametrize("found", [False, True])
def test_refreshed_statistics_leave_it_with_the_update_that_counts(monkeypatch, found):
    late_answers(monkeypatch)
    torch.manual_seed(0)
    model = net()
    averager = Averager(model, PLAIN)
    live = averager.live()
    step = skippable_step(averager)
    averager.refresh_batchnorm([batch(3, size=32)])
    refreshed = live[1].running_mean.clone()
    drift(model, 0)
    step(inf(found))
    assert torch.equal(live[1].running_mean, refreshed) is found
    assert_is_the_average(live, averager)


# The bank changes


def test_it_goes_on_after_track_and_a_resumed_state():
    torch.manual_seed(0)
    model = net()
    model[4].weight.requires_grad_(False)
    averager = Averager(model, PLAIN)
    live = averager.live()
    moved(averager, model, 0)
    model[4].weight.requires_grad_(True)
    averager.track()
    moved(averager, model, 1)
    assert_is_the_average(live, averager)
    assert live[4].weight.data_ptr() != model[4].weight.data_ptr()
    state, then = copy.deepcopy(averager.state_dict()), averager.tensors()
    moved(averager, model, 2)
    averager.load_state_dict(state)
    assert_same_bits(snapshot(live), then)
    assert_is_the_average(live, averager)


def test_what_an_attached_optimizer_unfreezes_is_the_averages_in_it_too():
    torch.manual_seed(0)
    model = net()
    model[0].weight.requires_grad_(False)
    averager = Averager(model, PLAIN)
    live = averager.live()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    averager.attach(optimizer)
    model[0].weight.requires_grad_(True)
    model(batch(0)).square().mean().backward()
    optimizer.step()
    assert_is_the_average(live, averager)
    assert not torch.equal(live[0].weight, model[0].weight)


def test_a_model_that_grows_leaves_it_behind_and_says_so():
    model, averager, live = built()
    model.append(nn.Linear(2, 2))
    with pytest.warns(RuntimeWarning, match=r"5\.bias, 5\.weight came to the model or left it"):
        averager.track()
    moved(averager, model, 1)  # said once
    again = averager.live()
    assert len(live) == 5
    assert_is_the_average(again, averager)


def test_it_lives_as_long_as_it_is_held():
    model, averager, live = built()
    gone = weakref.ref(live)
    del live
    gc.collect()
    assert gone() is None
    moved(averager, model, 0)
    live = averager.live()
    del averager
    gc.collect()
    assert torch.isfinite(live(batch(0))).all()


# Models of every sort


def test_tied_weights_are_tied_in_it():
    model = Tied()
    averager = Averager(model, PLAIN)
    live = averager.live()
    moved(averager, model, 0)
    assert live.head.weight is live.embedding.weight
    assert_is_the_average(live, averager, x=torch.tensor([0, 3]))


@pytest.mark.parametrize(
    "norm",
    [
        nn.utils.spectral_norm,
        parametrizations.spectral_norm,
        parametrizations.weight_norm,
        parametrizations.orthogonal,
    ],
)
def test_parametrized_weights_are_those_of_the_average(norm):
    torch.manual_seed(0)
    model = nn.Sequential(norm(nn.Linear(3, 4)), nn.Linear(4, 2))
    averager = Averager(model, PLAIN)
    live = averager.live()
    for seed in range(3):
        model(batch(seed))
        moved(averager, model, seed)
        assert torch.equal(live(batch(0)), averager.module()(batch(0)))
        assert_same_bits(live.state_dict(), averager.module().state_dict())


class Merged(nn.Linear):
    """An adapter that goes into the frozen weight in eval mode, as loralib's does."""

    def __init__(self):
        super().__init__(3, 3)
        self.weight.requires_grad_(False)
        self.a = nn.Parameter(torch.full((3, 1), 0.5))
        self.merged = False

    def train(self, mode=True):
        super().train(mode)
        if mode is self.merged:
            with torch.no_grad():
                self.weight += (self.a @ self.a.T) * (-1 if mode else 1)
            self.merged = not mode
        return self

    def forward(self, x):
        y = super().forward(x)
        return y if self.merged else y + x @ (self.a @ self.a.T)


def test_a_module_that_merges_weights_in_eval_mode_merges_the_averages():
    torch.manual_seed(0)
    model = nn.Sequential(Merged(), nn.Linear(3, 2))
    averager = Averager(model, PLAIN)
    base = model[0].weight.clone()
    live = averager.live()
    for seed in range(4):
        moved(averager, model, seed)
        torch.testing.assert_close(live(batch(0)), averager.module()(batch(0)))
        assert torch.equal(live[0].weight, averager.module()[0].weight)
        assert torch.equal(model[0].weight, base)
    live.train()
    assert torch.equal(live[0].a, averager.tensors()["0.a"])


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_scripted_part_is_the_average_too():
    torch.manual_seed(0)
    model = nn.Sequential(torch.jit.script(net()), nn.Linear(2, 3), nn.BatchNorm1d(3))
    averager = Averager(model, PLAIN)
    live = averager.live()
    for seed in range(3):
        moved(averager, model, seed)
        assert_is_the_average(live, averager)
    held = averager.tensors()
    live.train()
    live(batch(0))
    assert_same_bits(averager.tensors(), held)
    assert_same_bits(live.state_dict(), held)


def test_the_wrappers_of_the_model_are_not_in_it():
    averager = Averager(nn.DataParallel(net()), PLAIN)
    assert type(averager.live()) is nn.Sequential


# Refusals


def test_a_name_that_nobody_has_and_one_left_out_among_several_are_refused():
    averager = Averager(net(), [0.9, 0.99])
    with pytest.raises(ConfigError, match="name is None"):
        averager.live()
    with pytest.raises(ConfigError, match=r"ema_0\.8"):
        averager.live("ema_0.8")


def test_another_averagers_weights_are_no_model_to_build_it_from():
    model = net()
    one, two = Averager(model, 0.9), Averager(model, 0.99)
    with one.applied(), pytest.raises(StateError, match="another averager's weights"):
        two.live()
