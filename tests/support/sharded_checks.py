"""What must hold on each process of a world; `test_sharded.py` runs it."""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from support.process_groups import World
from support.small_networks import assert_same_bits, raising
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

import polyak
from polyak import EMA, Averager, PowerEMA, Uniform
from polyak.averaging import Window, gathered
from polyak.averaging.model.sharded import whole
from polyak.errors import (
    ConfigError,
    FileError,
    NonFiniteError,
    StateError,
    WeightMismatchError,
)

State = dict[str, Tensor]
KINDS = [EMA(0.5, warmup=None), EMA(0.9), PowerEMA(sigma_rel=0.1), Uniform(start=1, name="uniform")]


class Fault(nn.Module):
    """Raises when told to."""

    armed = False

    def forward(self, x: Tensor) -> Tensor:
        return raising() if self.armed else x


def net(seed: int = 0) -> nn.Sequential:
    """Rows that no world divides, a weight of one row only, BatchNorm, an integer buffer."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5)),
        nn.Tanh(),
        Fault(),
        nn.Linear(5, 7),
        nn.Linear(7, 1),
    )


def mesh(world: World, *, dimensions: int = 1) -> DeviceMesh:
    shape = (world.size,) if dimensions == 1 else (1, world.size)
    names = ("shard",) if dimensions == 1 else ("replicate", "shard")
    return init_device_mesh("cpu", shape, mesh_dim_names=names)


def sharded(world: World, seed: int = 0, *, dimensions: int = 1) -> nn.Sequential:
    """The same with FSDP2 round one part and round the rest."""
    model = net(seed)
    over = mesh(world, dimensions=dimensions)
    fully_shard(model[0], mesh=over)
    fully_shard(model, mesh=over)
    return model


def split_rows(model: nn.Module, over: DeviceMesh) -> nn.Module:
    """Parameters as DTensors without FSDP: the first by rows, the others replicated."""
    for i, (name, parameter) in enumerate(list(model.named_parameters())):
        path, _, leaf = name.rpartition(".")
        placement = Replicate() if i else Shard(0)
        spread = distribute_tensor(parameter.detach(), over, [placement])
        setattr(model.get_submodule(path), leaf, nn.Parameter(spread))
    return model


def feed(model: nn.Module, seed: int) -> None:
    """Give what trains in a model weights of its own, the same ones however it is spread."""
    draws = torch.Generator().manual_seed(seed)
    reference = net()
    given = {k: torch.randn(x.shape, generator=draws) for k, x in reference.named_parameters()}
    given |= {
        k: torch.rand(x.shape, generator=draws) if x.is_floating_point() else torch.tensor(seed)
        for k, x in reference.named_buffers()
    }
    frozen = {key for key, x in model.named_parameters() if not x.requires_grad}
    with torch.no_grad():
        for key, x in model.state_dict().items():
            shard = x.to_local() if isinstance(x, DTensor) else x
            if key not in frozen:
                shard.copy_(part(given[key], x))


def part(whole: Tensor, like: Tensor) -> Tensor:
    """What this process holds of a whole tensor that is spread as `like` is."""
    if isinstance(like, DTensor):
        for dimension, placement in enumerate(like.placements):
            if isinstance(placement, Shard):
                pieces = whole.chunk(like.device_mesh.size(dimension), placement.dim)
                rank = like.device_mesh.get_local_rank(dimension)
                whole = pieces[rank] if rank < len(pieces) else whole[:0]
    return whole


def parts_of(whole: State, likes: State) -> State:
    return {k: part(whole[k], x) for k, x in likes.items()}


def shards(state: State) -> State:
    """Copies of what this process holds."""
    return {
        k: (x.to_local() if isinstance(x, DTensor) else x).detach().clone()
        for k, x in state.items()
    }


def full(state: State) -> State:
    """Whole tensors; every process must call it."""
    return {k: x.full_tensor() if isinstance(x, DTensor) else x for k, x in state.items()}


def own(model: nn.Module) -> State:
    """Whole copies of a model's weights; every process must call it."""
    return {k: x.detach().clone() for k, x in full(model.state_dict()).items()}


def held(model: nn.Module) -> State:
    """Copies of what this process holds of a model, of FSDP2's after a reshard."""
    return shards(model.state_dict())


def inputs(seed: int = 9, size: int = 4) -> Tensor:
    return torch.randn(size, 3, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def outputs(model: nn.Module) -> Tensor:
    """A forward pass in eval mode; it leaves FSDP2's root unsharded."""
    training = model.training
    model.eval()
    y = model(inputs())
    model.train(training)
    return y


def is_whole(model: nn.Module) -> bool:
    """Whether the root holds unsharded parameters at this moment."""
    return not isinstance(model[3].weight, DTensor)


def twins(world: World, **settings: object) -> tuple[nn.Module, Averager, nn.Module, Averager]:
    """A sharded model and a whole one with the same weights, each with an averager."""
    spread, single = sharded(world), net()
    return (
        spread,
        Averager(spread, KINDS, **settings),
        single,
        Averager(single, KINDS, **settings),
    )


def assert_same_averages(spread: Averager, single: Averager) -> None:
    for name in single.names:
        found = spread.tensors(name)
        assert_same_bits(shards(found), parts_of(single.tensors(name), found))
    assert (spread.steps, spread.updates) == (single.steps, single.updates)


def check_equals_one_process(world: World, **settings: object) -> None:
    model, averager, single, expected = twins(world, **settings)
    rows = {k: x.to_local().shape[0] for k, x in model.named_parameters()}
    # Seven rows in two or three shards are uneven, and one row leaves the others' shards empty.
    assert rows["3.weight"] in ((4, 3) if world.size == 2 else (3, 1))
    assert rows["4.weight"] == (1 if world.rank == 0 else 0)
    for seed in range(1, 8):
        feed(model, seed)
        feed(single, seed)
        if seed % 3 == 0:
            outputs(model)
            assert is_whole(model)
        averager.step()
        expected.step()
    assert_same_averages(averager, expected)
    found = full(averager.tensors("uniform"))
    assert_same_bits(found, expected.tensors("uniform"))


def check_every_period_and_precision(world: World) -> None:
    check_equals_one_process(world, every=2)
    check_equals_one_process(world, dtype=torch.bfloat16)
    check_equals_one_process(world, buffers="copy", nonfinite="allow")


def check_real_training(world: World) -> None:
    """Forward and backward passes between updates, not only weights that are written."""
    model, averager, single, expected = twins(world, every=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    averager.attach(optimizer)
    for seed in range(6):
        model(inputs(seed)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        single.load_state_dict(own(model))
        expected.step()
        if seed == 3:
            outputs(model)
    assert averager.updates == 3
    assert_same_averages(averager, expected)


def check_building_while_the_root_is_whole(world: World) -> None:
    model, single = sharded(world), net()
    outputs(model)
    assert is_whole(model)
    averager, expected = Averager(model, KINDS), Averager(single, KINDS)
    outputs(model)
    feed(model, 1)
    feed(single, 1)
    outputs(model)
    averager.update()
    expected.update()
    assert is_whole(model), "an update needs no reshard, after which the root is gathered again"
    assert_same_averages(averager, expected)


def check_updates_send_nothing_but_a_vote(world: World) -> None:
    for dimensions in (1, 2):
        model = sharded(world, dimensions=dimensions)
        free = Averager(model, KINDS, nonfinite="allow")
        guarded = Averager(model, KINDS)
        outputs(model)
        with CommDebugMode() as seen:
            free.update()
            free.tensors("uniform")
            free.state_dict()
        assert seen.get_total_counts() == 0
        with CommDebugMode() as seen:
            guarded.update()
        assert seen.get_total_counts() == dimensions
        assert [op.__name__ for op in seen.get_comm_counts()] == ["allreduce_"]


def check_two_dimensional_mesh(world: World) -> None:
    model, single = sharded(world, dimensions=2), net()
    averager, expected = Averager(model, KINDS), Averager(single, KINDS)
    for seed in (1, 2):
        feed(model, seed)
        feed(single, seed)
        averager.update()
        expected.update()
    assert_same_averages(averager, expected)
    with averager.applied("ema_0.5"), expected.applied("ema_0.5"):
        assert torch.equal(outputs(model), outputs(single))


def check_dtensors_without_fsdp(world: World) -> None:
    model, single = split_rows(net(), mesh(world)), net()
    averager, expected = Averager(model, KINDS), Averager(single, KINDS)
    feed(model, 1)
    feed(single, 1)
    averager.update()
    expected.update()
    assert_same_averages(averager, expected)
    before = held(model)
    with averager.applied("ema_0.5"):
        assert_same_bits(held(model), parts_of(expected.tensors("ema_0.5"), model.state_dict()))
    assert_same_bits(held(model), before)


def moved(world: World) -> tuple[nn.Module, Averager, nn.Module, Averager]:
    """Twins whose averages differ from their weights and from each other."""
    model, averager, single, expected = twins(world)
    for seed in range(1, 5):
        feed(model, seed)
        feed(single, seed)
        averager.update()
        expected.update()
    feed(model, 7)
    feed(single, 7)
    return model, averager, single, expected


def check_applied(world: World) -> None:
    model, averager, single, expected = moved(world)
    before = held(model)
    for root_whole in (False, True):
        if root_whole:
            outputs(model)
        assert is_whole(model) is root_whole
        for name in averager.names:
            with averager.applied(name), expected.applied(name):
                assert not model.training
                assert_same_bits(held(model), parts_of(expected.tensors(name), model.state_dict()))
                # Last, so that the root holds an unsharded copy of the average on leaving.
                assert torch.equal(outputs(model), outputs(single)), name
                assert is_whole(model)
            assert torch.equal(outputs(model), outputs(single)), name
            assert model.training
        assert_same_bits(held(model), before)


def check_training_goes_on_after_applied(world: World) -> None:
    model, averager, single, _ = moved(world)
    with averager.applied("uniform"):
        outputs(model)
    for m in (model, single):
        m(inputs()).square().mean().backward()
    for (name, x), y in zip(model.named_parameters(), single.parameters(), strict=True):
        assert torch.allclose(x.grad.full_tensor(), y.grad, rtol=1e-5, atol=1e-6), name


def check_applied_and_exceptions(world: World) -> None:
    model, averager, single, _ = moved(world)
    before = held(model)
    with pytest.raises(RuntimeError, match="on purpose"), averager.applied("uniform"):
        raising()
    assert_same_bits(held(model), before)
    # In the middle of a forward pass FSDP2's root stays whole, and reshard() leaves it so.
    Fault.armed = True
    try:
        with pytest.raises(RuntimeError, match="on purpose"), averager.applied("uniform"):
            outputs(model)
    finally:
        Fault.armed = False
    model.train()
    assert torch.equal(outputs(model), outputs(single))
    assert_same_bits(held(model), before)


def check_applied_nests_and_refuses(world: World) -> None:
    model, averager, single, expected = moved(world)
    other = Averager(model, [0.9])
    before = held(model)
    with averager.applied("uniform"):
        outputs(model)
        with averager.applied("ema_0.9"), expected.applied("ema_0.9"):
            assert torch.equal(outputs(model), outputs(single))
        with expected.applied("uniform"):
            assert torch.equal(outputs(model), outputs(single))
        for call in (averager.update, averager.step, averager.state_dict, other.update):
            with pytest.raises(StateError, match="holds an average"):
                call()
        with pytest.raises(StateError, match="another averager"), other.applied("ema_0.9"):
            pass
        averager.tensors("uniform")
    assert_same_bits(held(model), before)
    averager.update()
    expected.update()
    assert_same_averages(averager, expected)


def check_reading(world: World) -> None:
    model, averager, single, expected = moved(world)
    outputs(model)
    tensors = averager.tensors("uniform")
    assert list(tensors) == list(single.state_dict())
    for key, parameter in single.named_parameters():
        assert isinstance(tensors[key], DTensor)
        assert tensors[key].shape == parameter.shape
        assert tensors[key].placements == (Shard(0),)
        tensors[key].to_local().zero_()
    assert_same_averages(averager, expected)
    assert 0 <= averager.standstill("uniform") <= 1
    with pytest.raises(StateError, match="spread over processes"):
        averager.module("uniform")


def check_combining(world: World) -> None:
    for settings in ({}, {"dtype": torch.bfloat16}):
        model, single = sharded(world), net()
        averager, expected = (Averager(m, KINDS, **settings) for m in (model, single))
        for seed in range(1, 7):
            feed(model, seed)
            feed(single, seed)
            averager.step()
            expected.step()
        outputs(model)  # FSDP2's root then holds unsharded parameters
        shares = {"ema_0.5": 1.5, "ema_0.9": -1.0, "current": 0.5}
        before = held(model)
        got = averager.combine(shares, statistics="current")
        want = expected.combine(shares, statistics="current")
        assert {k for k, x in got.items() if isinstance(x, DTensor)} == {
            k for k, x in model.state_dict().items() if isinstance(x, DTensor)
        }
        assert_same_bits(full(got), want)
        assert_same_bits(held(model), before)
        mixed = Averager(sharded(world), [EMA(0.5, None), EMA(0.9, None)])
        with pytest.raises(ConfigError, match="shares"):
            mixed.combine({"ema_0.5": 1.0, "ema_0.9": 1.0})


def check_a_board_of_shards(world: World) -> None:
    def walk(model: nn.Module) -> Averager:
        averager = Averager(model, [EMA(0.5, None), EMA(0.8, None), EMA(0.9, None)])
        return walked(model, averager, range(1, 21))

    model, single = sharded(world), net()
    averager, expected = walk(model), walk(single)
    before = held(model)

    def losses(model: nn.Module) -> Callable[[State], Tensor]:
        def score(state: State) -> Tensor:
            model.load_state_dict(state)
            return model(inputs(size=16)).square()

        return score

    found = averager.board(losses(model), largest_error=0.3)
    wanted = expected.board(losses(single), largest_error=0.3)
    assert_same_bits(held(model), before)
    assert str(found) == str(wanted)
    for [state, twin] in zip(found.weights.values(), wanted.weights.values(), strict=True):
        assert_same_bits(full(state), twin)


def check_synthesis_of_shards(world: World) -> None:
    def folder(step: int) -> str:
        return store(world, f"averages-{world.size}-{step}")

    bfloat16 = {"dtype": torch.bfloat16} if world.size == 2 else {}
    kinds = [EMA(0.5, None), EMA(0.8, None)]
    model, single = sharded(world), net()
    averager, seen = Averager(model, kinds, every=2, **bfloat16), [own(single)]
    for step in range(1, 33):
        feed(model, step)
        averager.step()
        if step % 2 == 0:
            feed(single, step)
            seen.append(own(single))
        if step % 8 == 0:
            averager.refresh_batchnorm([inputs()])
            dcp.save({"averager": averager}, checkpoint_id=folder(step))
    if world.rank == 0:
        wanted = EMA(0.65, None)
        found = polyak.synthesize([folder(s) for s in (8, 16, 24, 32)], wanted, steps=24)
        shares = polyak.profile(wanted, updates=12)
        for key, x in found["ema_0.65"].items():
            if x.is_floating_point():
                exact = sum(s * w[key].double() for s, w in zip(shares, seen, strict=False))
                off = (x.double() - exact).abs().max()
                assert float(off) < 0.1, (key, off)
        several = polyak.synthesize([folder(32)], {"ema_0.5": 2.0, "ema_0.8": -1.0})
        [state] = several.values()
        assert float(several.manifest["synthesis"]["error"]) < 1e-3
        assert state.keys() == net().state_dict().keys()
        (Path(folder(32)) / "__1_0.distcp").unlink()
        with pytest.raises(FileError, match=r"__1_0\.distcp"):
            polyak.synthesize([folder(s) for s in (8, 32)], wanted)


def check_scalars(world: World) -> None:
    """The distance is that of the whole weights, however they are spread or repeated."""
    reference = net()
    whole_one = Averager(reference, KINDS)
    for dimensions in (1, 2):
        model = sharded(world, dimensions=dimensions)
        averager = Averager(model, KINDS)
        feed(model, 1)
        averager.step()
        if dimensions == 1:
            feed(reference, 1)
            whole_one.step()
        assert averager.scalars() == pytest.approx(whole_one.scalars())
    split = split_rows(net(), mesh(world))
    averager = Averager(split, KINDS)
    feed(split, 1)
    averager.step()
    assert averager.scalars() == pytest.approx(whole_one.scalars())


def live_outputs(live: nn.Module, seed: int = 9) -> Tensor:
    with torch.no_grad():
        return live(inputs(seed))


def check_live_models(world: World) -> None:
    """A teacher in shards, in the averages' memory, that is what one process has."""
    for dimensions in (1, 2):
        model = sharded(world, dimensions=dimensions)
        averager = Averager(model, KINDS)
        live = averager.live("ema_0.9")
        assert not any("FSDP" in type(part).__name__ for part in live.modules())
        rows = averager.state_dict()["tensors"]["ema_0.9"]
        for key, x in live.named_parameters():
            assert x.to_local().data_ptr() == rows[key].to_local().data_ptr()
        reference = net()
        alone = Averager(reference, KINDS)
        beside = alone.live("ema_0.9")
        for seed in (1, 2, 3):
            outputs(model)  # FSDP2's root stays whole after it
            feed(model, seed)
            feed(reference, seed)
            averager.step()
            alone.step()
            torch.testing.assert_close(live_outputs(live), live_outputs(beside))
            assert all(isinstance(x, DTensor) for x in live.parameters())
        x = inputs(4).requires_grad_()
        live(x).sum().backward()
        assert x.grad is not None
        live[2].armed = True
        with pytest.raises(RuntimeError, match="on purpose"):
            live(inputs())
        assert all(isinstance(x, DTensor) for x in live.parameters())
        live[2].armed = False
        with averager.applied("uniform"):
            torch.testing.assert_close(live_outputs(live), live_outputs(beside))
        averager.load_state_dict(copy.deepcopy(averager.state_dict()))
        torch.testing.assert_close(live_outputs(live), live_outputs(beside))
        assert_same_bits(full(live.state_dict()), full(averager.tensors("ema_0.9")))


def check_live_models_that_follow(world: World) -> None:
    """Averages in float32 of shards in bfloat16, and FSDP2's own mixed precision."""
    model = net().to(torch.bfloat16)
    fully_shard(model, mesh=mesh(world))
    averager = Averager(model, KINDS)
    live = averager.live("ema_0.9")
    with torch.no_grad():
        for x in model.parameters():
            x.add_(1)
    averager.step()
    live(inputs().to(torch.bfloat16))
    want = {k: x.to(torch.bfloat16) for k, x in full(averager.tensors("ema_0.9")).items()}
    parameters = {k: x.full_tensor() for k, x in live.named_parameters()}
    assert_same_bits(parameters, {k: want[k] for k in parameters})

    torch.manual_seed(0)
    mixed = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, output_dtype=torch.float32)
    fully_shard(mixed, mesh=mesh(world), mp_policy=policy)
    averager = Averager(mixed, KINDS)
    live = averager.live("ema_0.9")
    assert torch.equal(live_outputs(live), outputs(mixed))
    split = split_rows(net(), mesh(world))
    with pytest.raises(StateError, match="otherwise than by FSDP2"):
        Averager(split, KINDS).live("ema_0.9")


def check_saving_whole_averages(world: World) -> None:
    model, averager, _, expected = moved(world)
    outputs(model)
    path = world.folder / f"whole-{world.size}.safetensors"
    for weights in (averager, {"a": averager.tensors("uniform")}):
        with pytest.raises(ConfigError, match=r"torch\.distributed\.checkpoint\.save"):
            polyak.save(weights, path)
    assert not path.exists()
    whole = gathered(averager)
    only = gathered(averager, ["uniform"], rank=1)
    assert list(only) == (["uniform"] if world.rank == 1 else [])
    if world.rank != 0:
        assert not whole
        return
    polyak.save(whole, path)
    plain = world.folder / f"plain-{world.size}.safetensors"
    polyak.save(expected, plain)
    got, want = polyak.load(path), polyak.load(plain)
    for name in expected.names:
        assert_same_bits(got[name], want[name])
    own_facts = {"model_class"}
    assert {k: v for k, v in got.manifest.items() if k not in own_facts} == {
        k: v for k, v in want.manifest.items() if k not in own_facts
    }


def spoil(model: nn.Module, world: World, value: float) -> None:
    """Write into the last process's shard only."""
    if world.rank == world.size - 1:
        model[3].weight.to_local().data[0, 0] = value


def check_one_bad_shard_stops_all(world: World) -> None:
    model, averager, single, expected = moved(world)
    before = {name: shards(averager.tensors(name)) for name in averager.names}
    strict = Averager(model, [0.9], nonfinite="raise")
    model.reshard()
    spoil(model, world, float("nan"))
    bad = r"3\.weight" if world.rank == world.size - 1 else "another process"
    with pytest.warns(RuntimeWarning, match=bad):
        averager.update()
    with pytest.raises(NonFiniteError, match=bad):
        strict.update()
    with pytest.raises(NonFiniteError, match=bad):
        Averager(model, [0.9])
    assert (averager.updates, averager.skipped) == (4, 1)
    for name, state in before.items():
        assert_same_bits(shards(averager.tensors(name)), state)
    feed(model, 8)
    feed(single, 8)
    averager.update()
    expected.update()
    assert_same_averages(averager, expected)


def check_windows(world: World) -> None:
    """Snapshots are shards too; a new averager has none, so DCP cannot load them."""
    model, single = sharded(world), net()
    averager, expected = Averager(model, [Window(2)]), Averager(single, [Window(2)])
    for seed in (1, 2, 3):
        feed(model, seed)
        feed(single, seed)
        averager.update()
        expected.update()
    assert_same_averages(averager, expected)
    state = averager.state_dict()
    resumed = Averager(sharded(world, 5), [Window(2)])
    resumed.load_state_dict(copy.deepcopy(state))
    assert_same_averages(resumed, expected)
    with pytest.raises(ConfigError, match="0 snapshots; expected 2"):
        resumed.load_state_dict({**state, "remainder": {"window_2": {}}})


def check_averages_on_another_device_stay_there(world: World) -> None:
    """A mesh of another kind of device than the shards, as with averages in host memory."""
    elsewhere = DeviceMesh("cuda", list(range(world.size)))
    like = whole(
        torch.ones(2, 3), distribute_tensor(torch.ones(2 * world.size, 3), mesh(world), [Shard(0)])
    )
    there = DTensor(
        torch.empty(2, 3),
        DTensor.from_local(
            torch.empty(2, 3, device="meta"), elsewhere, like.placements, run_check=False
        )._spec,
        requires_grad=False,
    )
    shard = torch.rand(2, 3, dtype=torch.float64)
    made = whole(shard, there)
    assert made.device_mesh is elsewhere
    assert made.dtype == torch.float64
    assert made.to_local().data_ptr() == shard.data_ptr()


def check_frozen_weights_are_read_live(world: World) -> None:
    model, single = net(), net()
    for m in (model, single):
        m[3].requires_grad_(False)
    fully_shard(model, mesh=mesh(world))
    averager, expected = Averager(model, [0.5]), Averager(single, [0.5])
    assert "3.weight" not in averager.state_dict()["tensors"]["ema_0.5"]
    feed(model, 1)
    feed(single, 1)
    outputs(model)
    averager.update()
    expected.update()
    assert_same_averages(averager, expected)
    model.reshard()
    for m in (model, single):
        m.requires_grad_(True)
    for a in (averager, expected):
        with pytest.raises(WeightMismatchError, match=r"3\.bias.*trains now"):
            a.update()
        a.track()
    feed(model, 2)
    feed(single, 2)
    outputs(model)
    averager.update()
    expected.update()
    assert_same_averages(averager, expected)


def check_resume_in_memory(world: World) -> None:
    model, averager, *_ = twins(world, every=2)
    resumed_model = sharded(world, 5)
    resumed = Averager(resumed_model, KINDS, every=2)
    for seed in range(1, 8):
        feed(model, seed)
        averager.step()
        if seed == 3:
            resumed.load_state_dict(copy.deepcopy(averager.state_dict()))
        if seed > 3:
            feed(resumed_model, seed)
            outputs(resumed_model)
            resumed.step()
    for name in averager.names:
        assert_same_bits(shards(resumed.tensors(name)), shards(averager.tensors(name)))
    plain = Averager(net(), KINDS, every=2)
    with pytest.raises(WeightMismatchError, match="same sharding"):
        plain.load_state_dict(averager.state_dict())


def check_adopting(world: World) -> None:
    """Another tool's file is whole; spread like the weights, its average goes on in shards."""
    spread, found, single, expected = twins(world)
    given = {k: torch.rand_like(x) for k, x in single.named_parameters()}
    dist.broadcast_object_list(sent := [given])
    [given] = sent
    likes = dict(spread.named_parameters())
    spread_given = {
        k: distribute_tensor(x.detach(), likes[k].device_mesh, likes[k].placements)
        for k, x in given.items()
    }
    with pytest.raises(StateError, match="not spread"):
        found.adopt(dict.fromkeys(found.names, given), steps=7)
    bad = {k: x.detach().clone() for k, x in spread_given.items()}
    if world.rank == 0:
        next(iter(bad.values())).to_local().fill_(torch.nan)
    with pytest.raises(NonFiniteError):
        found.adopt(dict.fromkeys(found.names, bad), steps=7)
    found.adopt(dict.fromkeys(found.names, spread_given), steps=7)
    expected.adopt(dict.fromkeys(expected.names, given), steps=7)
    assert_same_averages(found, expected)
    for seed in range(3):
        feed(spread, seed)
        feed(single, seed)
        found.step()
        expected.step()
    assert_same_averages(found, expected)


def check_what_cannot_be_right_is_refused(world: World) -> None:
    model = net()
    averager = Averager(model, [0.9])
    fully_shard(model, mesh=mesh(world))
    with pytest.raises(WeightMismatchError, match="same sharding"):
        averager.update()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.distributed.fsdp import FullyShardedDataParallel

        wrapped = FullyShardedDataParallel(net(), device_id=torch.device("cpu"))
    with pytest.raises(ConfigError, match="FullyShardedDataParallel"):
        Averager(wrapped, [0.9])


def check_data_parallel(world: World) -> None:
    single = net()
    model = nn.parallel.DistributedDataParallel(net())
    averager, expected = Averager(model, KINDS, every=2), Averager(single, KINDS, every=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    averager.attach(optimizer)
    for seed in range(6):
        optimizer.zero_grad()
        # Each process has a batch of its own.
        model(inputs(10 * seed + world.rank)).square().mean().backward()
        optimizer.step()
        single.load_state_dict(model.module.state_dict())
        expected.step()
    assert averager.updates == 3
    assert_same_averages(averager, expected)
    for name in averager.names:
        state = averager.tensors(name)
        assert list(state) == list(single.state_dict())
        for key, _ in single.named_parameters():
            of_first = state[key].clone()
            dist.broadcast(of_first, src=0)
            assert torch.equal(of_first, state[key]), key
    with CommDebugMode() as seen:
        averager.update()
    assert seen.get_total_counts() == 0
    before = held(model.module)
    expected.update()
    with averager.applied("uniform"), expected.applied("uniform"):
        assert torch.equal(outputs(model.module), outputs(single))
    assert_same_bits(held(model.module), before)


def check_a_bad_batch_of_one_process_stops_all_under_ddp(world: World) -> None:
    """Gradients are summed, so every process has the same weights, finite or not."""
    model = nn.parallel.DistributedDataParallel(nn.Linear(3, 2))
    averager = Averager(model, [0.9])
    averager.attach(optimizer := torch.optim.SGD(model.parameters(), lr=0.1))
    x = inputs()
    if world.rank == 1:
        x[0, 0] = float("inf")
    model(x).sum().backward()
    with pytest.warns(RuntimeWarning, match="skip such updates"):
        optimizer.step()
    assert (averager.updates, averager.skipped) == (0, 1)


def parts(world: World) -> list[list[Tensor]]:
    """Every process's batches, of different numbers and sizes."""
    draws = torch.Generator().manual_seed(3)
    sizes = [[6, 5, 4], [8, 3], [7, 2]][: world.size]
    return [[torch.randn(n, 3, generator=draws) + 2 for n in of_rank] for of_rank in sizes]


def check_batchnorm_of_all_batches_under_ddp(world: World) -> None:
    shares = parts(world)
    everything = [batch for share in shares for batch in share]
    single = net()
    model = nn.parallel.DistributedDataParallel(net())
    averager, expected = Averager(model, KINDS), Averager(single, KINDS)
    averager.refresh_batchnorm(shares[world.rank])
    expected.refresh_batchnorm(everything)
    compare_statistics(averager.tensors("uniform"), expected.tensors("uniform"))
    for rank in range(world.size):
        state = averager.tensors("ema_0.9")
        mean = state["0.1.running_mean"].clone()
        dist.broadcast(mean, src=rank)
        assert torch.equal(mean, state["0.1.running_mean"])
    averager.refresh_batchnorm(shares[world.rank], pooled=False)
    expected.refresh_batchnorm(everything, pooled=False)
    compare_statistics(averager.tensors("uniform"), expected.tensors("uniform"))
    averager.refresh_batchnorm(shares[world.rank], all_ranks=False)
    expected.refresh_batchnorm(shares[world.rank])
    assert_same_averages(averager, expected)
    polyak.refresh_batchnorm(model, shares[world.rank])
    polyak.refresh_batchnorm(single, everything)
    compare_statistics(model.module.state_dict(), single.state_dict())


def check_batchnorm_of_all_batches_when_sharded(world: World) -> None:
    # A forward pass gathers weights, so here every process needs as many batches.
    shares = [share[:2] for share in parts(world)]
    everything = [batch for share in shares for batch in share]
    model, averager, single, expected = moved(world)
    before = held(model)
    averager.refresh_batchnorm(shares[world.rank], ["uniform", "ema_0.9"])
    expected.refresh_batchnorm(everything, ["uniform", "ema_0.9"])
    for name in ("uniform", "ema_0.9"):
        compare_statistics(full(averager.tensors(name)), expected.tensors(name))
    assert_same_bits(held(model), before)
    with averager.applied("uniform"), expected.applied("uniform"):
        assert torch.allclose(outputs(model), outputs(single), rtol=1e-5, atol=1e-6)
    outputs(model)
    polyak.refresh_batchnorm(model, shares[world.rank])
    polyak.refresh_batchnorm(single, everything)
    compare_statistics(own(model), single.state_dict())


def compare_statistics(got: State, expected: State) -> None:
    for key in ("0.1.running_mean", "0.1.running_var"):
        torch.testing.assert_close(got[key], expected[key], rtol=1e-6, atol=1e-7)


ALONE = [
    check_equals_one_process,
    check_every_period_and_precision,
    check_real_training,
    check_building_while_the_root_is_whole,
    check_updates_send_nothing_but_a_vote,
    check_two_dimensional_mesh,
    check_dtensors_without_fsdp,
    check_applied,
    check_training_goes_on_after_applied,
    check_applied_and_exceptions,
    check_applied_nests_and_refuses,
    check_reading,
    check_combining,
    check_a_board_of_shards,
    check_synthesis_of_shards,
    check_scalars,
    check_live_models,
    check_live_models_that_follow,
    check_saving_whole_averages,
    check_one_bad_shard_stops_all,
    check_windows,
    check_averages_on_another_device_stay_there,
    check_frozen_weights_are_read_live,
    check_resume_in_memory,
    check_adopting,
    check_what_cannot_be_right_is_refused,
    check_data_parallel,
    check_a_bad_batch_of_one_process_stops_all_under_ddp,
    check_batchnorm_of_all_batches_under_ddp,
    check_batchnorm_of_all_batches_when_sharded,
]
"""Checks that need nothing of an earlier world."""


def store(world: World, name: str) -> str:
    return str(world.folder / f"dcp-{name}")


def resumable(model: nn.Module, dtype: torch.dtype | None) -> Averager:
    return Averager(model, KINDS, every=2, dtype=dtype)


def walked(model: nn.Module, averager: Averager, seeds: range) -> Averager:
    for seed in seeds:
        feed(model, seed)
        averager.step()
    return averager


def one_process(steps: int, dtype: torch.dtype | None) -> Averager:
    """What a single process has after so many steps."""
    model = net()
    return walked(model, resumable(model, dtype), range(1, steps + 1))


PRECISIONS = {"wide": None, "split": torch.bfloat16}


def check_saving_shards(world: World) -> None:
    for name, dtype in PRECISIONS.items():
        model = sharded(world)
        averager = walked(model, resumable(model, dtype), range(1, 6))
        averager.refresh_batchnorm([inputs()])
        outputs(model)
        dcp.save({"averager": averager}, checkpoint_id=store(world, f"two-{name}"))


def check_shards_are_read_in_one_process(world: World) -> None:
    for name, dtype in PRECISIONS.items():
        found = polyak.read_foreign(store(world, f"two-{name}"))
        expected = one_process(5, dtype)
        for average in expected.names:
            state = found[f"averager.{average}"]
            for key, x in expected.module(average).named_parameters():
                torch.testing.assert_close(state[key], x.detach(), rtol=1e-5, atol=1e-6)


def check_other_settings_are_refused_on_loading(world: World) -> None:
    for averager, error, match in (
        (Averager(sharded(world), KINDS, every=2), WeightMismatchError, "bfloat16"),
        (Averager(sharded(world), KINDS, every=3, dtype=torch.bfloat16), ConfigError, "every 2"),
    ):
        with pytest.raises(error, match=match):
            dcp.load({"averager": averager}, checkpoint_id=store(world, "two-split"))


def check_loading_on_more_processes(world: World) -> None:
    for name, dtype in PRECISIONS.items():
        model = sharded(world, 5)
        averager = resumable(model, dtype)
        dcp.load({"averager": averager}, checkpoint_id=store(world, f"two-{name}"))
        assert_same_averages(averager, one_process(5, dtype))
        walked(model, averager, range(6, 10))
        assert_same_averages(averager, one_process(9, dtype))
        dcp.save({"averager": averager}, checkpoint_id=store(world, f"three-{name}"))


def check_loading_on_fewer_processes(world: World) -> None:
    for name, dtype in PRECISIONS.items():
        model = sharded(world, 5)
        averager = resumable(model, dtype)
        dcp.load({"averager": averager}, checkpoint_id=store(world, f"three-{name}"))
        assert_same_averages(averager, one_process(9, dtype))
        walked(model, averager, range(10, 13))
        assert_same_averages(averager, one_process(12, dtype))


def load_on_a_plain_model(folder: Path, name: str) -> tuple[Averager, Averager]:
    """What was saved in shards, without any process group, and what must have come."""
    dtype = PRECISIONS[name]
    model = net(5)
    averager = resumable(model, dtype)
    dcp.load({"averager": averager}, checkpoint_id=str(folder / f"dcp-three-{name}"))
    return walked(model, averager, range(10, 13)), one_process(12, dtype)


PHASES = [
    ("two", 2, [*ALONE, check_saving_shards]),
    (
        "three",
        3,
        [
            *ALONE,
            check_shards_are_read_in_one_process,
            check_other_settings_are_refused_on_loading,
            check_loading_on_more_processes,
        ],
    ),
    ("two_again", 2, [check_loading_on_fewer_processes]),
    ("one", 1, [check_loading_on_fewer_processes]),
]
