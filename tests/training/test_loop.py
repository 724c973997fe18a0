import hashlib
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from polyak.data import load as load_data
from polyak.data import partition
from polyak.training import loop, selection
from polyak.training.loop import DivergedError, Run
from polyak.training.optim import OptimConfig

ALL_MONITORS = ("test", "test_bn", "holdout_bn", "train_given", "train_clean", "train_wrong")


def _trained(run: Run) -> Run:
    run.train(lambda record: None)
    return run


def _same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def _without_seconds(run: Run) -> list:
    return [replace(record, seconds=0.0) for record in run.trained.epochs]


@pytest.fixture(scope="module")
def plain(tiny, start) -> Run:
    """A finished run without monitors."""
    return _trained(start(tiny))


@pytest.fixture(scope="module")
def watched(tiny, start) -> Run:
    """The same with every monitor."""
    return _trained(start(replace(tiny, monitors=ALL_MONITORS)))


def _next_draws(run: Run) -> list[list[int]]:
    generators = (run.order, run.draws, None)
    return [torch.randint(2**31, (4,), generator=g).tolist() for g in generators]


def test_monitors_do_not_change_the_trajectory_by_one_bit(plain, watched):
    assert _same(plain.trained.last["sgd"], watched.trained.last["sgd"])
    assert _same(plain.trained.last["swa"], watched.trained.last["swa"])
    assert _without_seconds(plain) == _without_seconds(watched)
    for rule in ("sgd", "acc", "loss"):
        kept, other = plain.trained.kept[rule], watched.trained.kept[rule]
        assert kept.stop == other.stop
        assert all(_same(kept.weights[name], other.weights[name]) for name in kept.weights)


class _NoAverager:
    """Stands where averages would be kept, and keeps nothing."""

    names = ()

    def __init__(self, model, *_args, **_kwargs):
        self.model = model

    def step(self):
        pass

    def coinciding(self):
        return []

    def tensors(self, _name):
        return {}


@pytest.mark.parametrize("monitors", [(), ALL_MONITORS], ids=["plain", "watched"])
def test_averaging_and_evaluating_leave_weights_and_generators_as_without(
    tiny, start, monkeypatch, monitors
):
    run = _trained(start(replace(tiny, monitors=monitors)))
    draws = _next_draws(run)
    monkeypatch.setattr(loop, "Averager", _NoAverager)
    bare = start(replace(tiny, averaging=replace(tiny.averaging, swa=False), stops=()))
    monkeypatch.setattr(bare, "_record", lambda epoch, train: bare.trained.epochs.append(None))
    monkeypatch.setattr(bare, "_keep", lambda: None)
    _trained(bare)
    assert _same(run.trained.last["sgd"], bare.trained.last["sgd"])
    assert _next_draws(bare) == draws
    momenta = [
        [run.optimizer.state[p]["momentum_buffer"] for p in run.model.parameters()]
        for run in (run, bare)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*momenta, strict=True))


def test_the_same_seed_gives_the_same_run_bit_for_bit(tiny, start, plain):
    torch.manual_seed(12345)
    again = _trained(start(tiny))
    assert _same(plain.trained.last["sgd"], again.trained.last["sgd"])
    assert _same(plain.trained.last["swa"], again.trained.last["swa"])
    assert _without_seconds(plain) == _without_seconds(again)


def test_another_seed_gives_another_start_order_and_augmentation(tiny, start):
    runs = start(tiny), start(replace(tiny, seed=1))
    assert not torch.equal(runs[0].model.stem.weight, runs[1].model.stem.weight)
    a, b = (_next_draws(run)[:2] for run in runs)
    assert a[0] != b[0]
    assert a[1] != b[1]
    # The split and the noise are the study's, not the seed's.
    assert torch.equal(runs[0].data.train_index_n, runs[1].data.train_index_n)
    assert torch.equal(runs[0].data.train_given_n, runs[1].data.train_given_n)


def test_every_image_comes_once_an_epoch_with_its_own_label(tiny, start):
    """Without augmentation the batches of an epoch are the training part in another order."""
    data = replace(tiny.data, crop_padding=0, flip=False)
    run = start(replace(tiny, data=data))
    batches = list(run.images.batches(16, order=run.order, draws=run.draws))
    assert [len(labels_b) for _, labels_b in batches] == [16, 16, 16, 16, 8]
    seen = [
        (tuple(x_chw.flatten().tolist()), label)
        for x_bchw, labels_b in batches
        for x_chw, label in zip(x_bchw, labels_b.tolist(), strict=True)
    ]
    ready_nchw = run.images.normalise(run.data.train_images_nchw)
    everything = [
        (tuple(x_chw.flatten().tolist()), label)
        for x_chw, label in zip(ready_nchw, run.data.train_given_n.tolist(), strict=True)
    ]
    assert sorted(seen) == sorted(everything)
    assert seen != everything


def test_the_short_last_batch_is_a_step(tiny, plain):
    assert plain.steps_per_epoch == 5
    assert [record.step for record in plain.trained.epochs] == [5, 10, 15]
    assert [record.epoch for record in plain.trained.epochs] == [1, 2, 3]
    assert plain.averager.updates == 7  # every 2 of 15 steps
    assert plain.averager.skipped == 0


def test_a_record_has_the_rate_of_the_epochs_last_step(tiny, plain):
    from polyak.training.optim import learning_rate

    for record in plain.trained.epochs:
        assert record.learning_rate == learning_rate(
            record.step - 1, tiny.optim, steps_per_epoch=5, epochs=3
        )


def test_holdout_scores_are_there_for_sgd_and_every_average(plain):
    for record in plain.trained.epochs:
        assert set(record.holdout) == {"sgd", "ema_0.2", "ema_0.9"}
    # In the first epoch both averages are still in warm-up, and the same.
    assert len({score.loss for score in plain.trained.epochs[-1].holdout.values()}) == 3


def test_holdout_scores_are_those_of_the_kept_weights(plain):
    data = plain.data
    x_nchw = plain.images.normalise(data.holdout_images_nchw)
    for kept in plain.trained.kept.values():
        record = plain.trained.epochs[kept.stop.epoch - 1]
        for name, weights in kept.weights.items():
            model = _copy(plain, weights)
            with torch.no_grad():
                logits_nk = model(x_nchw)
            loss = F.cross_entropy(logits_nk.double(), data.holdout_given_n).item()
            right = (logits_nk.argmax(dim=1) == data.holdout_given_n).double().mean().item()
            assert record.holdout[name].loss == pytest.approx(loss, rel=1e-5)
            assert record.holdout[name].accuracy == pytest.approx(right)


def _copy(run: Run, weights: dict) -> nn.Module:
    from polyak.models import build

    model = build(run.config.model, classes=10, channels=1, image_size=8, generator_seed=0)
    model.load_state_dict(weights)
    return model.eval()


def test_the_loop_stops_where_selection_over_the_whole_log_does(plain):
    names = plain.config.averaging.names
    for rule, kept in plain.trained.kept.items():
        whole = selection.choose_stop(plain.trained.epochs, rule=rule, averages=names)
        assert kept.stop == whole


def _ended_after(run: Run, epoch: int) -> Run:
    """The run, interrupted when an epoch is over."""

    class Enough(Exception):
        pass

    def stop(record):
        if record.epoch == epoch:
            raise Enough

    with pytest.raises(Enough):
        run.train(stop)
    return run


@pytest.mark.parametrize("holdout", [True, False], ids=["search", "refit"])
def test_kept_weights_are_those_of_a_twin_that_ends_there(tiny, start, holdout):
    stops = () if holdout else tuple(_stop(rule, e) for rule, e in (("acc", 2), ("loss", 1)))
    config = replace(tiny, holdout=holdout, stops=stops)
    run = _trained(start(config))
    assert run.trained.kept.keys() == ({"sgd", "acc", "loss"} if holdout else {"acc", "loss"})
    for kept in run.trained.kept.values():
        twin = _ended_after(start(config), kept.stop.epoch)
        assert set(kept.weights) == {"sgd", "ema_0.2", "ema_0.9"}
        assert _same(kept.weights["sgd"], twin.model.state_dict())
        for name in twin.averager.names:
            assert _same(kept.weights[name], twin.averager.tensors(name))


def _stop(rule: str, epoch: int):
    from polyak.records.vocabulary import Stop

    return Stop(rule=rule, epoch=epoch, average="sgd" if rule == "sgd" else "ema_0.9")


def test_a_refit_evaluates_nothing_on_a_holdout(tiny, start):
    run = _trained(start(replace(tiny, holdout=False)))
    assert run.data.holdout_images_nchw is None
    assert len(run.data.train_given_n) == 90
    assert all(record.holdout == {} for record in run.trained.epochs)
    assert run.trained.kept == {}


@pytest.mark.parametrize(("epochs", "ends"), [(2, [2]), (3, [2, 3]), (4, [3, 4])])
def test_swa_is_the_mean_of_the_epoch_ends_of_the_second_half(tiny, start, epochs, ends):
    run = start(replace(tiny, epochs=epochs))
    snapshots = {}

    def snap(record):
        snapshots[record.epoch] = {k: x.clone() for k, x in run.model.state_dict().items()}

    run.train(snap)
    for key, mean in run.trained.last["swa"].items():
        if mean.is_floating_point():
            written_out = sum(snapshots[epoch][key].double() for epoch in ends) / len(ends)
            assert torch.allclose(mean.double(), written_out, rtol=1e-5, atol=1e-7), key
        else:
            assert torch.equal(mean, snapshots[epochs][key])


def test_without_swa_there_is_none(tiny, start):
    run = _trained(start(replace(tiny, averaging=replace(tiny.averaging, swa=False))))
    assert set(run.trained.last) == {"sgd"}


@pytest.mark.parametrize("every", [5, 7, 100], ids=["each epoch", "some epochs", "never"])
def test_kept_averages_have_averaged_statistics_although_monitors_recompute(tiny, start, every):
    """With a period longer than an epoch no update drops the recomputed statistics."""
    averaging = replace(tiny.averaging, every=every)
    runs = [
        _trained(start(replace(tiny, averaging=averaging, monitors=monitors)))
        for monitors in ((), ("test_bn", "holdout_bn"))
    ]
    for rule in ("acc", "loss"):
        kept, other = (run.trained.kept[rule] for run in runs)
        assert kept.stop == other.stop
        for name in runs[0].averager.names:
            assert _same(kept.weights[name], other.weights[name])
    assert _without_seconds(runs[0]) == _without_seconds(runs[1])


@pytest.mark.parametrize("lr", [1e4, 1e8, 1e20, 1e38])
@pytest.mark.parametrize("holdout", [True, False], ids=["search", "refit"])
def test_an_absurd_learning_rate_ends_the_run_at_the_step_whose_loss_broke(
    tiny, start, monkeypatch, lr, holdout
):
    run = start(replace(tiny, holdout=holdout, optim=OptimConfig(lr=lr, warmup_epochs=0)))
    losses = []
    cross_entropy = F.cross_entropy

    def watched(*args):
        loss = cross_entropy(*args)
        losses.append(loss.item())
        return loss

    monkeypatch.setattr(F, "cross_entropy", watched)
    with pytest.raises(DivergedError) as caught:
        run.train(lambda record: None)
    broken = [step for step, loss in enumerate(losses, start=1) if not math.isfinite(loss)]
    # Where every loss is finite, what the epoch's last step left is not.
    assert caught.value.step == (broken[0] if broken else run.step)
    assert caught.value.epoch == -(-caught.value.step // run.steps_per_epoch)
    assert len(run.trained.epochs) == caught.value.epoch - 1


def test_weights_that_break_in_an_epochs_last_step_are_a_divergence_too(tiny, start):
    """The loss of every batch is finite, and only the evaluation sees what came of the last."""
    run = start(tiny)

    def poison(_optimizer, _args, _kwargs):
        if run.step == 9:
            with torch.no_grad():
                run.model.head.weight[0, 0] = float("inf")

    run.optimizer.register_step_post_hook(poison)
    with pytest.raises(DivergedError) as caught:
        run.train(lambda record: None)
    assert (caught.value.epoch, caught.value.step) == (2, 10)
    assert len(run.trained.epochs) == 1


# A twin of the loop in plain PyTorch. Of polyak it takes the training part and first weights.


class _Block(nn.Module):
    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(c_out)
        project = [nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out)]
        self.shortcut = nn.Identity() if stride == 1 else nn.Sequential(*project)

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class _ResNet8(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        stages = (width, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2)
        self.stages = nn.Sequential(*(nn.Sequential(_Block(*stage)) for stage in stages))
        self.head = nn.Linear(4 * width, 10)

    def forward(self, x):
        x = self.stages(F.relu(self.norm(self.stem(x))))
        return self.head(x.mean(dim=(2, 3)))


def _generator(seed, purpose):
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).hexdigest()
    return torch.Generator().manual_seed(int(digest[:16], 16) // 2)


def _twin_loop(model, images, labels, mean, std, *, seed, epochs, lr, decays, every):
    """Warm-up over one epoch, cosine, Nesterov SGD, crops of one pixel and flips, EMAs."""
    optimizer = torch.optim.SGD(
        model.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4, nesterov=True
    )
    order, draws = _generator(seed, "order"), _generator(seed, "augmentation")
    steps = -(-len(labels) // 16)
    scale, shift = (1 / (255 * std)).float(), (-mean / std).float()
    averages = [{k: v.clone() for k, v in model.state_dict().items()} for _ in decays]
    step = 0
    for _ in range(epochs):
        shuffled = torch.randperm(len(labels), generator=order)
        for start in range(0, len(labels), 16):
            batch = shuffled[start : start + 16]
            corners = torch.randint(0, 3, (len(batch), 2), generator=draws).tolist()
            mirrored = torch.randint(0, 2, (len(batch),), generator=draws).tolist()
            crops = []
            for image, (top, left), mirror in zip(images[batch], corners, mirrored, strict=True):
                crop = F.pad(image, (1, 1, 1, 1))[:, top : top + 8, left : left + 8]
                crops.append(crop.flip(2) if mirror else crop)
            x = torch.addcmul(shift, torch.stack(crops).float(), scale)
            rate = lr * max(step / steps, 1e-8)
            if step >= steps:
                done = (step - steps) / (epochs * steps - steps)
                rate = lr * (1 + math.cos(math.pi * done)) / 2
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            F.cross_entropy(
                model(x.contiguous(memory_format=torch.channels_last)), labels[batch]
            ).backward()
            optimizer.step()
            step += 1
            if step % every == 0:
                t = step // every - 1
                for decay, average in zip(decays, averages, strict=True):
                    d = min(decay, (t + 1) / (t + 10))
                    for key, value in model.state_dict().items():
                        new = d * average[key] + (1 - d) * value
                        average[key] = new if value.is_floating_point() else value.clone()
    return averages


def test_a_twin_in_plain_pytorch_reproduces_a_run(tiny, start):
    config = replace(tiny, epochs=2, seed=5)
    run = start(config)
    twin = _ResNet8(4)
    twin.load_state_dict(run.model.state_dict())
    twin = twin.to(memory_format=torch.channels_last)
    data = partition(load_data(config.data), config.data, holdout=True)
    mean, std = (
        torch.tensor(v, dtype=torch.float64)[:, None, None]
        for v in (data.normalisation.mean, data.normalisation.std)
    )
    averages = _twin_loop(
        twin.train(),
        data.train_images_nchw,
        data.train_given_n,
        mean,
        std,
        seed=5,
        epochs=2,
        lr=0.1,
        decays=(0.2, 0.9),
        every=2,
    )
    _trained(run)
    for key, value in twin.state_dict().items():
        assert torch.equal(run.trained.last["sgd"][key], value), key
    for name, average in zip(run.averager.names, averages, strict=True):
        for key, value in run.averager.tensors(name).items():
            assert torch.allclose(value, average[key], rtol=1e-4, atol=1e-6), (name, key)
