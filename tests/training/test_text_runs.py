"""Runs on text: the loop against one written out, what is kept, and what is refused before it."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support.texts import text_run, write_texts

from polyak import metrics
from polyak.analysis.results import row_results
from polyak.data import load, partition
from polyak.errors import ConfigError
from polyak.models import ModelConfig, build
from polyak.records.predictions import Predictions
from polyak.records.runs import run_folder
from polyak.records.studies import RowRecord
from polyak.runs import load as load_run
from polyak.training.config import ProbeConfig, RunConfig
from polyak.training.jobs import carry_out
from polyak.training.randomness import generator, seed_for

CLIP = 0.5


@pytest.fixture(scope="module")
def config(cache, tmp_path_factory) -> RunConfig:
    return text_run(write_texts(tmp_path_factory.mktemp("texts")))


def rate_at(step, steps_per_epoch):
    """Linear over the first of three epochs, then constant, then to 0 over the last half."""
    steps = 3 * steps_per_epoch
    if step < steps_per_epoch:
        return 3e-3 * max(step / steps_per_epoch, 1e-8)
    return 3e-3 * min(1.0, (steps - step) / (0.5 * steps))


def shortened(gradients):
    """The gradients with the norm of all of them at most CLIP, and whether that changed them."""
    norm = math.sqrt(sum(g.double().square().sum().item() for g in gradients))
    return [g * min(1.0, CLIP / (norm + 1e-6)) for g in gradients], norm > CLIP


def adamw(weight, state, gradient, step, rate):
    """Kingma and Ba with Loshchilov and Hutter's decay of 1e-4; steps count from 1."""
    state["m"] = 0.9 * state["m"] + 0.1 * gradient
    state["v"] = 0.999 * state["v"] + 0.001 * gradient**2
    mean, square = state["m"] / (1 - 0.9**step), state["v"] / (1 - 0.999**step)
    return (1 - rate * 1e-4) * weight - rate * mean / (square.sqrt() + 1e-8)


def loss_of(model, windows, labels):
    """One position at a time, so that no flattening of ours decides which label is whose."""
    logits_btk = model(windows.float())
    b, t, _ = logits_btk.shape
    parts = [
        F.cross_entropy(logits_btk[i, j][None], labels[i * t + j][None])
        for i in range(b)
        for j in range(t)
    ]
    right = sum(
        int(logits_btk[i, j].argmax() == labels[i * t + j]) for i in range(b) for j in range(t)
    )
    return torch.stack(parts).mean(), right


def written_out(config, data):
    """Three epochs of AdamW on the bytes of windows, and EMAs of decays 0.2 and 0.9."""
    model = build(
        config.model,
        classes=256,
        channels=1,
        image_size=16,
        generator_seed=seed_for(config.seed, "initialisation"),
    )
    order = generator(config.seed, "order")
    weights = dict(model.named_parameters())
    states = {name: {"m": 0.0, "v": 0.0} for name in weights}
    emas = {d: {n: w.detach().double().clone() for n, w in weights.items()} for d in (0.2, 0.9)}
    lines, step, updates, clipped = [], 0, 0, 0
    n = len(data.train_images_nchw)
    for _ in range(3):
        total = right = 0
        for chosen in torch.randperm(n, generator=order).split(16):
            labels = torch.cat([data.train_given_n[16 * w : 16 * w + 16] for w in chosen.tolist()])
            loss, found = loss_of(model, data.train_images_nchw[chosen], labels)
            gradients, changed = shortened(torch.autograd.grad(loss, list(weights.values())))
            rate = rate_at(step, -(-n // 16))
            step, clipped = step + 1, clipped + changed
            with torch.no_grad():
                for (name, w), g in zip(weights.items(), gradients, strict=True):
                    w.copy_(adamw(w, states[name], g, step, rate))
            if step % 2 == 0:
                for decay, ema in emas.items():
                    d = min(decay, (updates + 1) / (updates + 10))
                    for name, w in weights.items():
                        ema[name] = d * ema[name] + (1 - d) * w.detach().double()
                updates += 1
            total, right = total + loss.item() * len(chosen), right + found
        held = loss_of(model, data.holdout_images_nchw, data.holdout_given_n)[0].item()
        lines.append((total / n, right / (16 * n), held))
    return weights, emas, lines, clipped


def telling(name, w):
    """Without the biases of keys: a softmax does not notice them, so that AdamW makes steps of
    what rounding leaves of their gradient."""
    return torch.cat([*w.chunk(3)[::2]]) if name.endswith("qkv.bias") else w


def test_a_run_on_text_is_a_loop_written_out(config, start):
    run = start(config)
    run.train(lambda record: None)
    weights, emas, lines, clipped = written_out(config, run.data)
    assert clipped >= 3, "else the limit of the gradient would not be tested"
    for name, w in run.model.named_parameters():
        torch.testing.assert_close(
            telling(name, w), telling(name, weights[name]), rtol=1e-4, atol=2e-5, msg=name
        )
    for decay, ema in emas.items():
        for name, w in run.averager.tensors(f"ema_{decay}").items():
            torch.testing.assert_close(
                telling(name, w.double()), telling(name, ema[name]), rtol=1e-4, atol=2e-5, msg=name
            )
    found = [(r.train.loss, r.train.accuracy, r.holdout["sgd"].loss) for r in run.trained.epochs]
    for ours, theirs in zip(found, lines, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_without_its_limit_of_the_gradient_a_run_would_be_another(config, start):
    runs = [
        start(replace(config, epochs=2, optim=replace(config.optim, clip=c))) for c in (CLIP, None)
    ]
    for run in runs:
        run.train(lambda record: None)
    one, other = (run.trained.epochs[-1].train.loss for run in runs)
    assert abs(one - other) > 1e-3


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    """The folder of an output in which the run is done."""
    out = tmp_path_factory.mktemp("out")
    carry_out(config, out)
    return out


def test_arms_say_something_of_every_position(config, finished):
    folder = run_folder(finished, config.id)
    data = partition(load(config.data), config.data, holdout=True)
    said = Predictions(folder.predictions)
    said.check()
    assert torch.equal(said.labels_n("test"), data.test_labels_n)
    assert said.logits_nk("test", "ema_loss").shape == (12 * 16, 256)
    assert said.logits_nk("holdout", "sgd").shape == (len(data.holdout_given_n), 256)
    # Nobody's labels are wrong there, so nobody asks.
    assert "train" not in said
    kept = load_run(folder.path)
    network = kept.network("sgd")
    logits = kept.predict(network, data.test_images_nchw)
    assert torch.allclose(logits, said.logits_nk("test", "sgd"), atol=1e-5)
    expected = F.cross_entropy(
        network(data.test_images_nchw.float()).flatten(end_dim=1), data.test_labels_n
    )
    assert metrics.cross_entropy(logits, data.test_labels_n) == pytest.approx(
        expected.item(), abs=1e-5
    )


def test_all_numbers_of_a_row_are_there(config, finished):
    row = RowRecord(
        label="text",
        dataset="text",
        architecture="gpt",
        seeds=(0,),
        learning_rates=(3e-3,),
        averages=config.averaging.names,
        paper_averages=config.averaging.names,
        search={"0.003": {"0": config.id}},
        refit={},
        chosen_learning_rate=3e-3,
        stops={"0": ()},
    )
    folder = run_folder(finished, config.id)
    found = row_results(row, {config.id: Predictions(folder.predictions)})
    of_sgd = {r.metric: r.value for r in found if r.arm == "sgd"}
    assert {"accuracy", "loss", "brier", "ece", "temperature", "loss_scaled"} <= of_sgd.keys()
    assert "memorised" not in of_sgd
    assert all(math.isfinite(value) for value in of_sgd.values())


OWN = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.embed, self.head = nn.Embedding(classes, 8), nn.Linear(8, classes)

    def forward(self, x):
        logits = self.head(self.embed(x.flatten(1).long()))
        return {what}

def build(classes, channels):
    return Net(classes)
"""


def test_a_network_of_ones_own_takes_text(config, tmp_path):
    (tmp_path / "net.py").write_text(OWN.format(what="logits"))
    own = replace(config, epochs=2, model=ModelConfig(name=f"{tmp_path}/net.py:build"))
    carry_out(own, tmp_path / "out")
    assert run_folder(tmp_path / "out", own.id).ending == "done"


def test_a_network_of_ones_own_that_says_one_thing_of_a_window_is_refused(config, tmp_path):
    (tmp_path / "net.py").write_text(OWN.format(what="logits.mean(1)"))
    own = replace(config, model=ModelConfig(name=f"{tmp_path}/net.py:build"))
    with pytest.raises(ConfigError) as caught:
        carry_out(own, tmp_path / "out")
    assert (
        "is (16, 256) for 16 images; expected (16, 16, 256), one logit for each class at each"
        in (str(caught.value))
    )


def test_text_for_a_network_of_images_and_the_reverse_are_refused_with_all_else(config):
    wrong = replace(
        config, model=ModelConfig(name="resnet8"), monitors=("train_given", "test"), epochs=0
    )
    found = "; ".join(wrong.faults())
    assert "model.name is 'resnet8'; expected gpt or file.py:build for text" in found
    assert "monitor is 'train_given'; expected none of train_… for text" in found
    assert "epochs is 0" in found
    of_images = RunConfig(model=ModelConfig(name="gpt"))
    assert of_images.faults() == [
        "data.source is 'digits'; expected text:stdlib or text: and a path, for model gpt"
    ]
    probe = ProbeConfig(data=config.data, backbones=(config,), arms=("sgd",))
    with pytest.raises(ConfigError, match="a data set is text; expected images to probe on"):
        probe.check()
