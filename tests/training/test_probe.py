from dataclasses import replace
from math import cos, pi

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from polyak.averaging import load as load_weights
from polyak.data import DataConfig, load, partition, prepare
from polyak.errors import ConfigError
from polyak.models import build, features
from polyak.records.predictions import Predictions
from polyak.records.runs import run_folder
from polyak.records.vocabulary import Stop
from polyak.training.config import ProbeConfig
from polyak.training.jobs import carry_out, doubts
from polyak.training.probe import Heads, train_heads
from polyak.training.randomness import generator


@pytest.fixture(scope="module")
def target(cache):
    data = DataConfig(
        source="digits-parity", train_limit=60, test_limit=30, crop_padding=0, flip=False
    )
    return prepare(data)


def _probe(target, tiny, **changes) -> ProbeConfig:
    values = {"data": target, "backbones": (tiny,), "arms": ("sgd",), "epochs": 4, **changes}
    return ProbeConfig(**values)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_heads_together_are_each_head_alone_by_torchs_linear_and_sgd(tiny, target, schedule):
    config = _probe(target, tiny, lr=0.5, batch_size=16, schedule=schedule, seed=3)
    train_rnf = torch.randn(3, 50, 6)
    labels_n = torch.randint(4, (50,))
    heads = Heads.initialised(3, 6, 4, seed=3)
    first_w, first_b = heads.weight_rkf.clone(), heads.bias_rk.clone()
    train_heads(lambda chosen: train_rnf[:, chosen], labels_n, heads, config)
    for r in range(3):
        linear = nn.Linear(6, 4)
        with torch.no_grad():
            linear.weight.copy_(first_w[r])
            linear.bias.copy_(first_b[r])
        optimizer = torch.optim.SGD(linear.parameters(), lr=0.5, momentum=0.9, nesterov=True)
        order = generator(3, "probe order")
        step, steps = 0, 4 * 4
        for _ in range(4):
            shuffled = torch.randperm(50, generator=order)
            for chosen in shuffled.split(16):
                share = step / steps if schedule == "cosine" else 0
                optimizer.param_groups[0]["lr"] = 0.5 * (1 + cos(pi * share)) / 2
                optimizer.zero_grad()
                F.cross_entropy(linear(train_rnf[r, chosen]), labels_n[chosen]).backward()
                optimizer.step()
                step += 1
        assert torch.allclose(heads.weight_rkf[r], linear.weight, atol=1e-5)
        assert torch.allclose(heads.bias_rk[r], linear.bias, atol=1e-5)
        assert torch.allclose(heads.logits(train_rnf)[r], linear(train_rnf[r]), atol=1e-5)
    assert not heads.weight_rkf.requires_grad


def test_all_backbones_start_from_one_draw_within_linears_bound():
    heads = Heads.initialised(2, 16, 5, seed=0)
    assert heads.weight_rkf.shape == (2, 5, 16)
    assert heads.bias_rk.shape == (2, 5)
    assert torch.equal(heads.weight_rkf[0], heads.weight_rkf[1])
    assert heads.weight_rkf.abs().max() <= 0.25
    assert heads.weight_rkf.abs().max() > 0.2
    assert not torch.equal(heads.weight_rkf, Heads.initialised(2, 16, 5, seed=1).weight_rkf)


def test_a_probe_says_what_each_arm_of_each_backbone_makes_of_the_target(tiny, target, tmp_path):
    stops = (Stop(rule="acc", epoch=1, average="ema_0.9"),)
    runs = tuple(replace(tiny, epochs=2, seed=seed, holdout=False, stops=stops) for seed in (0, 1))
    for run in runs:
        carry_out(run, tmp_path)
    config = _probe(target, tiny, backbones=runs, arms=("sgd", "ema_acc_bn"))
    carry_out(config, tmp_path)
    folder = run_folder(tmp_path, config.id)
    assert folder.ending == "done"
    assert folder.config()["kind"] == "probe"
    said = Predictions(folder.predictions)
    names = {f"{run.id}.{arm}" for run in runs for arm in ("sgd", "ema_acc_bn")}
    assert set(said.arms("test")) == names
    logits = {name: said.logits_nk("test", name) for name in names}
    assert all(x.shape == (30, 2) for x in logits.values())
    assert said.labels_n("test").max() == 1
    # Each has other features, so each says something else.
    assert len({tuple(x.flatten().tolist()) for x in logits.values()}) == 4
    alone = replace(config, backbones=runs[1:], arms=("ema_acc_bn",))
    carry_out(alone, tmp_path)
    name = f"{runs[1].id}.ema_acc_bn"
    again = Predictions(run_folder(tmp_path, alone.id).predictions).logits_nk("test", name)
    assert torch.allclose(again, logits[name], atol=1e-5)


def test_features_are_those_of_eval_mode_and_the_backbone_stays_as_it_was(tiny, start):
    from polyak.training.probe import _features

    model = start(tiny).model.eval()
    before = {key: x.clone() for key, x in model.state_dict().items()}
    x_nchw = torch.randn(300, 1, 8, 8)
    found_nf = _features(model, x_nchw)
    assert torch.allclose(
        found_nf, torch.cat([features(model, x[None]) for x in x_nchw]), atol=1e-5
    )
    assert not found_nf.requires_grad
    assert all(torch.equal(before[key], x) for key, x in model.state_dict().items())


def test_a_setting_that_came_later_leaves_earlier_ids_as_they_were(tiny, target):
    assert "batchnorm" not in _probe(target, tiny).record()


def test_a_probe_computes_where_it_is_told_to(tiny, target, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(
        "polyak.training.jobs.run_probe", lambda *_, device: told.append(device.type)
    )
    # Where every operation works but nothing is computed, so on any machine.
    carry_out(_probe(target, tiny, backbones=(tiny,)), tmp_path, device="meta")
    assert told == ["meta"]


def test_adapting_batchnorm_is_training_with_frozen_weights_in_train_mode(tiny, target, tmp_path):
    """As in the authors' code: the whole network in train mode, only the new head trains."""
    carry_out(tiny, tmp_path)
    config = _probe(target, tiny, batchnorm="adapts", batch_size=16, lr=0.5, epochs=2)
    carry_out(config, tmp_path)
    name = f"{tiny.id}.sgd"
    said = Predictions(run_folder(tmp_path, config.id).predictions).logits_nk("test", name)

    data = partition(load(target), target, holdout=False)
    model = build(tiny.model, classes=10, channels=1, image_size=8, generator_seed=0)
    model.load_state_dict(load_weights(run_folder(tmp_path, tiny.id).arm("sgd"))["sgd"])
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    first = Heads.initialised(1, model.head.in_features, 2, config.seed)
    model.head = nn.Linear(model.head.in_features, 2)
    with torch.no_grad():
        model.head.weight.copy_(first.weight_rkf[0])
        model.head.bias.copy_(first.bias_rk[0])
    images = data.normalisation(data.train_images_nchw)
    optimizer = torch.optim.SGD(model.head.parameters(), lr=0.5, momentum=0.9, nesterov=True)
    order, step = generator(config.seed, "probe order"), 0
    steps = 2 * -(-60 // 16)
    for _ in range(2):
        for chosen in torch.randperm(60, generator=order).split(16):
            optimizer.param_groups[0]["lr"] = 0.5 * (1 + cos(pi * step / steps)) / 2
            optimizer.zero_grad()
            F.cross_entropy(model.train()(images[chosen]), data.train_given_n[chosen]).backward()
            optimizer.step()
            step += 1
    with torch.no_grad():
        expected = model.eval()(data.normalisation(data.test_images_nchw))
    assert torch.allclose(said.float(), expected, atol=5e-2, rtol=5e-2)
    frozen = replace(config, batchnorm="frozen")
    carry_out(frozen, tmp_path)
    other = Predictions(run_folder(tmp_path, frozen.id).predictions).logits_nk("test", name)
    assert not torch.allclose(said, other, atol=5e-2, rtol=5e-2)


COLOURED = """
from sklearn.datasets import load_digits
import torch
from polyak.data import ImageSet

def load():
    raw = load_digits()
    grey = torch.from_numpy(raw.images).mul(15).to(torch.uint8)
    images = torch.stack([grey, 255 - grey, grey.flip(2)], dim=1)
    names = tuple(str(n) for n in range(10))
    made = ImageSet(images_nchw=images, labels_n=torch.from_numpy(raw.target).long(), classes=names)
    return made.take(torch.arange(0, 1500)), made.take(torch.arange(1500, 1797))
"""


@pytest.mark.parametrize("batchnorm", ["frozen", "adapts"])
def test_a_network_of_colour_sees_a_grey_target_in_every_channel(tiny, target, tmp_path, batchnorm):
    (tmp_path / "coloured.py").write_text(COLOURED)
    (tmp_path / "grey.py").write_text(
        COLOURED.replace("torch.stack([grey, 255 - grey, grey.flip(2)], dim=1)", "grey[:, None]")
    )
    (tmp_path / "repeated.py").write_text(
        COLOURED.replace("255 - grey, grey.flip(2)", "grey, grey")
    )
    coloured, grey, repeated = (
        prepare(DataConfig(source=f"{tmp_path / name}.py:load", train_limit=90, test_limit=40))
        for name in ("coloured", "grey", "repeated")
    )
    run = replace(tiny, data=coloured, epochs=2)
    said = []
    for data in (grey, repeated):
        carry_out(run, tmp_path)
        config = _probe(data, run, batchnorm=batchnorm)
        carry_out(config, tmp_path)
        predictions = Predictions(run_folder(tmp_path, config.id).predictions)
        said.append(predictions.logits_nk("test", f"{run.id}.sgd"))
    assert said[0].shape == (40, 10)
    assert torch.allclose(*said, atol=1e-4)
    # No other way round: what grey networks would make of colours is for the user to say.
    carry_out(tiny, tmp_path)
    with pytest.raises(
        ConfigError, match=r"channels of a probe's target is 3; expected 1, as grey"
    ):
        carry_out(_probe(coloured, tiny), tmp_path)
    sources = [partition(load(data), data, holdout=False) for data in (tiny.data, coloured)]
    with pytest.raises(ConfigError, match="Convert its images"):
        doubts(tiny, sources[0], torch.device("cpu"), targets=sources[1:])


def test_every_field_changes_the_id(tiny, target):
    config = _probe(target, tiny)
    changes = {
        "data": replace(target, train_limit=50),
        "backbones": (replace(tiny, seed=1),),
        "arms": ("sgd", "ema_acc"),
        "epochs": 5,
        "batch_size": 64,
        "lr": 0.1,
        "momentum": 0.5,
        "schedule": "constant",
        "seed": 1,
        "batchnorm": "adapts",
    }
    ids = [replace(config, **{key: value}).id for key, value in changes.items()]
    assert len({config.id, *ids}) == len(changes) + 1
    assert changes.keys() == set(ProbeConfig.__slots__)


def test_a_probe_and_a_run_never_share_an_id(tiny, target):
    assert _probe(target, tiny).record()["kind"] != tiny.record()["kind"]


def test_all_faults_come_in_one_message(tiny):
    config = ProbeConfig(
        data=DataConfig(holdout=2.0),
        backbones=(),
        arms=(),
        epochs=0,
        batch_size=0,
        lr=0.0,
        momentum=1.0,
        schedule="cosin",  # type: ignore[arg-type]
    )
    with pytest.raises(ConfigError) as caught:
        config.check()
    for part in (
        "holdout is 2.0",
        "epochs is 0",
        "batch_size is 0",
        "lr is 0.0",
        "backbones or arms",
        "momentum is 1.0",
        "'cosin'; expected one of cosine, constant",
    ):
        assert part in str(caught.value)
