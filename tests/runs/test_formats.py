"""An exported network says what the run said, and its card says how to ask it."""

import json
from importlib.util import find_spec

import pytest
import safetensors.torch
import torch
from torch import nn

import polyak
from polyak.errors import ConfigError, FileError
from polyak.runs import export
from polyak.runs.formats import WRITERS

TOLERANCE = 1e-5
"""Largest difference of a logit: another program adds float32 numbers in another order."""

needs_onnx = pytest.mark.skipif(
    not (find_spec("onnx") and find_spec("onnxscript")), reason="needs the extra onnx"
)


def test_safetensors_hold_the_arms_state_dict(run, tmp_path):
    out = tmp_path / "new" / "m.safetensors"
    assert export(run, "ema_acc_bn", out) == tmp_path / "new" / "m.safetensors.json"
    found, expected = safetensors.torch.load_file(out), run.network("ema_acc_bn").state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], x) for key, x in expected.items())
    assert list(polyak.read_foreign(out)) == ["ema_acc_bn"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, in what it loads
def test_a_pt2_program_gives_the_runs_logits_for_any_number_of_images(run, tmp_path):
    out = tmp_path / "m.pt2"
    export(run, "ema_acc_bn", out)
    network = torch.export.load(out).module()
    images = run.normalisation(run.data.test_images_nchw)
    expected = run.logits("ema_acc_bn")
    assert (network(images) - expected).abs().max() < TOLERANCE
    assert (network(images[:1]) - expected[:1]).abs().max() < TOLERANCE


@needs_onnx
@pytest.mark.slow
def test_an_onnx_file_gives_the_runs_logits_for_any_number_of_images(run, tmp_path):
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    out = tmp_path / "m.onnx"
    export(run, "ema_acc_bn", out)
    assert {path.name for path in tmp_path.iterdir()} == {"m.onnx", "m.onnx.json"}
    onnx.checker.check_model(onnx.load(out))
    images = run.normalisation(run.data.test_images_nchw).numpy()
    expected = run.logits("ema_acc_bn")
    session = ReferenceEvaluator(str(out))
    for n in (1, 7, len(images)):
        [logits] = session.run(["logits"], {"images": images[:n]})
        assert (torch.from_numpy(logits) - expected[:n]).abs().max() < TOLERANCE


def test_the_card_has_all_that_is_needed_to_ask_the_network(run, tmp_path):
    card = json.loads(export(run, "ema_loss_bn", tmp_path / "m.safetensors").read_text())
    assert (card["schema"], card["version"]) == ("polyak-card", 1)
    assert (card["file"], card["format"]) == ("m.safetensors", "safetensors")
    network = run.network("ema_loss_bn")
    count = sum(x.numel() for x in network.parameters())
    expected = {"name": "resnet8", "width": 4, "conv_bias": False, "parameters": count}
    assert card["network"] == {**expected, "norm": "batch"}
    assert card["classes"] == list(run.classes)
    asked = card["input"]
    assert (asked["shape"], asked["resize"]) == ([None, 1, 8, 8], None)
    data = run.config.data
    assert card["data"] == {"name": "digits", "fingerprint": data.fingerprint}
    mean, std = asked["mean"][0], asked["std"][0]
    images = (run.data.test_images_nchw.float() / 255 - mean) / std
    assert (network(images) - run.logits("ema_loss_bn")).abs().max() < TOLERANCE
    arm = card["arm"]
    assert (arm["name"], arm["rule"], arm["batchnorm"]) == ("ema_loss_bn", "loss", "recomputed")
    assert (card["run"], card["studies"], card["seed"]) == (run.id, [], 0)
    assert card["metrics"] == {"test": run.metrics("ema_loss_bn")}
    assert card["exported_with"]["polyak"] == polyak.__version__
    assert card["trained_with"]["polyak"] == polyak.__version__
    assert card["commit"] == run.card.commit


@pytest.mark.parametrize("name", ["m.pt", "m", "m.onnx.bak", "m.pth"])
def test_another_ending_is_refused_before_anything_is_written(run, tmp_path, name):
    with pytest.raises(ConfigError, match=r"one of \.safetensors, \.pt2, \.onnx"):
        export(run, "sgd", tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setattr("polyak.runs.formats.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "polyak\[onnx\]"'):
        export(run, "sgd", tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", WRITERS)
def test_an_unknown_arm_leaves_no_file(run, tmp_path, ending, monkeypatch):
    monkeypatch.setattr("polyak.runs.formats.find_spec", lambda name: True)
    with pytest.raises(FileError, match="Did you mean 'ema_acc'"):
        export(run, "ema_ac", tmp_path / f"m{ending}")
    assert list(tmp_path.iterdir()) == []


class DependsOnValues(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, in what it traces
def test_a_network_that_cannot_be_traced_is_said_to_be_so(run, tmp_path, monkeypatch):
    monkeypatch.setattr("polyak.runs.formats._inputs", lambda *_: (DependsOnValues(), _ones()))
    with pytest.raises(ConfigError, match=r"cannot be traced .*\.safetensors"):
        export(run, "sgd", tmp_path / "m.pt2")
    assert list(tmp_path.iterdir()) == []


def _ones():
    return (torch.ones(2, 1, 8, 8),)
