"""Parameters that begin to train, averages that stand still, readers in other threads."""

import threading

import pytest
import torch
from support.small_networks import assert_same_bits
from torch import nn

from polyak import EMA, Averager, Window
from polyak.errors import StateError, WeightMismatchError


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))


def drift(model: nn.Module, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=draws))


def test_an_unfrozen_parameter_is_averaged_from_track_on():
    """Equal, bit for bit, to an averager that saw it train all along: it stood still before."""
    model, twin = two_layers(), two_layers()
    twin.load_state_dict(model.state_dict())
    ours, seeing = Averager(model, [0.9]), Averager(twin, [0.9])
    model[0].requires_grad_(False)
    twin[0].requires_grad_(False)
    ours = Averager(model, [0.9])
    for seed in range(3):
        drift(model, seed)
        drift(twin, seed)
        ours.update()
        seeing.update()
    for net in (model, twin):
        net[0].requires_grad_(True)
    with pytest.raises(WeightMismatchError, match=r"0\.bias.* trains now"):
        ours.update()
    ours.track()
    for seed in range(3, 6):
        drift(model, seed)
        drift(twin, seed)
        ours.update()
        seeing.update()
    for key, x in seeing.tensors("ema_0.9").items():
        # A constant folded into itself may move by rounding, so not equal to the last bit.
        torch.testing.assert_close(ours.tensors("ema_0.9")[key], x)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_track_keeps_the_averages_of_what_was_frozen_meanwhile(dtype):
    """The head trains first, then the backbone: neither loses its average."""
    model = two_layers()
    model[1].requires_grad_(False)
    averager = Averager(model, [0.99, Window(2)], dtype=dtype)
    for seed in range(3):
        drift(model, seed)
        averager.update()
    held = {name: averager.tensors(name) for name in averager.names}
    model[0].requires_grad_(False)
    model[1].requires_grad_(True)
    averager.track()
    for name in averager.names:
        now = averager.tensors(name)
        # What was frozen was read from the model, in the model's dtype.
        assert_same_bits(now, {key: x.to(now[key].dtype) for key, x in held[name].items()})
    drift(model, 7)
    averager.update()
    after = averager.tensors("ema_0.99")
    assert not any(torch.equal(x, held["ema_0.99"][key].to(x.dtype)) for key, x in after.items())
    assert list(averager.state_dict()["tensors"]["ema_0.99"]) == list(model.state_dict())


def test_track_takes_up_buffers_that_are_new():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    averager = Averager(model, [0.9])
    model[1].num_batches_tracked.fill_(3)
    averager.update()
    model[1].num_batches_tracked.fill_(5)
    model.append(nn.BatchNorm1d(2))
    model[2].num_batches_tracked.fill_(7)
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    averager.track()
    read = averager.tensors("ema_0.9")
    assert (read["1.num_batches_tracked"], read["2.num_batches_tracked"]) == (3, 7)
    averager.update()
    assert averager.skipped == 0
    with averager.applied("ema_0.9"):
        assert model[1].num_batches_tracked == 5
        assert torch.equal(model.mask, torch.tensor([0.0, -torch.inf]))


def test_track_forgets_buffers_that_are_gone():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    averager = Averager(model, [0.9])
    averager.refresh_batchnorm([torch.randn(8, 3)])
    refreshed = averager.tensors("ema_0.9")["1.running_mean"]
    del model[2]
    averager.track()
    assert torch.equal(averager.tensors("ema_0.9")["1.running_mean"], refreshed)
    with averager.applied("ema_0.9"):
        assert torch.equal(model[1].running_mean, refreshed)
    averager.update()
    assert averager.tensors("ema_0.9").keys() == model.state_dict().keys()


def test_a_buffer_that_is_infinite_when_track_is_called_stays_averaged():
    model = nn.Linear(1, 1)
    model.register_buffer("best", torch.tensor(0.0))
    averager = Averager(model, [0.9])
    model.best.fill_(torch.inf)
    averager.track()
    assert averager.tensors("ema_0.9")["best"] == 0
    model.best.fill_(1.0)
    averager.update()
    assert 0 < averager.tensors("ema_0.9")["best"] < 1


def test_track_refuses_a_weight_of_another_shape_and_changes_nothing():
    model = two_layers()
    averager = Averager(model, [0.9])
    held = averager.tensors("ema_0.9")
    own, model[1] = model[1], nn.Linear(2, 1)
    with pytest.raises(WeightMismatchError, match=r"shape of 1\.bias, 1\.weight"):
        averager.track()
    model[1] = own
    assert_same_bits(averager.tensors("ema_0.9"), held)


def test_track_is_refused_while_an_average_is_applied():
    averager = Averager(two_layers(), [0.9])
    with averager.applied("ema_0.9"), pytest.raises(StateError):
        averager.track()


def test_standstill_is_near_one_where_steps_are_lost_and_zero_where_not():
    model = nn.Linear(50, 50).double()
    averager = Averager(model, [EMA(1 - 1e-9, warmup=None, name="slow"), 0.9], dtype=torch.float32)
    assert averager.standstill("slow") < 1e-9 or model.weight.dtype == torch.float64
    drift(model, 0)
    assert averager.standstill("slow") > 0.9
    assert averager.standstill("ema_0.9") < 0.05


def test_a_split_bfloat16_average_does_not_stand_still():
    model = nn.Linear(50, 50)
    averager = Averager(model, [EMA(0.998, warmup=None)], dtype=torch.bfloat16)
    drift(model, 0)
    assert averager.standstill("ema_0.998") < 0.05


def test_standstill_is_zero_for_an_average_at_its_model():
    averager = Averager(two_layers(), [0.9])
    assert averager.standstill("ema_0.9") == 0.0


def test_what_bfloat16_lacks_survives_a_resume_bit_for_bit():
    model = nn.Linear(20, 20)
    kinds = [EMA(0.998, warmup=None)]
    whole, first = (Averager(model, kinds, dtype=torch.bfloat16) for _ in range(2))
    for seed in range(10):
        drift(model, seed)
        whole.update()
        first.update()
    second = Averager(model, kinds, dtype=torch.bfloat16)
    second.load_state_dict(first.state_dict())
    for seed in range(10, 20):
        drift(model, seed)
        whole.update()
        second.update()
    for key, x in whole.tensors("ema_0.998").items():
        assert torch.equal(second.tensors("ema_0.998")[key], x)


def test_a_snapshot_from_another_thread_is_of_one_update():
    """All weights are filled with the step's number, so a torn snapshot shows at once."""
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(6)))
    averager = Averager(model, [EMA(0.5, warmup=None)])
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(0.0)
    averager.load_state_dict(Averager(model, [EMA(0.5, warmup=None)]).state_dict())
    torn, taken, done = [], [], threading.Event()

    def read() -> None:
        while not done.is_set():
            values = {float(x.flatten()[i]) for x in averager.tensors("ema_0.5").values()
                      for i in (0, -1)}  # fmt: skip
            taken.append(1)
            if len(values) != 1:
                torn.append(values)

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(300):
        with torch.no_grad():
            for p in model.parameters():
                p.fill_(float(step))
        averager.update()
    done.set()
    reader.join()
    assert taken
    assert not torn
