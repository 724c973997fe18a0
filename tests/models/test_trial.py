"""What of a user's network is refused before anything is trained."""

import pytest
import torch

from polyak.errors import ConfigError
from polyak.models import ModelConfig, try_network

HEAD = """
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.flat = nn.Flatten()
        self.head = nn.Linear(64, classes)
    def forward(self, x):
        z = self.head(self.flat(x))
        {}

def build(classes, channels):
    {}
"""
NET, FORWARD = "return Net(classes)", "return z"
REFUSED = {
    "a tuple": ("return z, z", NET, "output in train mode is a tuple"),
    "a tuple in training only": ("return (z, z) if self.training else z", NET, "train mode"),
    "a dict": ("return {'logits': z}", NET, "is a dict; expected a tensor of logits"),
    "a list": ("return [z]", NET, "is a list"),
    "nothing": ("pass", NET, "is a NoneType"),
    "too few outputs": (FORWARD, "return Net(2)", r"\(16, 2\) for 16 images; expected \(16, 3\)"),
    "too many outputs": (FORWARD, "return Net(1000)", r"is \(16, 1000\).* `classes` outputs"),
    "another shape": ("return z[..., None]", NET, r"is \(16, 3, 1\)"),
    "another shape when evaluated": ("return z if self.training else z[0]", NET, "eval mode"),
    "classes": ("return z.argmax(1, keepdim=True).expand(-1, 3)", NET, "torch.int64; expected"),
    "NaN": ("return z / 0", NET, "holds NaN or infinity before any training"),
    "NaN when evaluated": ("return z if self.training else z / 0", NET, "eval mode holds NaN"),
    "no gradient": ("return z.detach()", NET, "has no gradient"),
    "another input": ("return z @ z", NET, r"raises RuntimeError \(mat1.*See line 13 of .*net.py"),
    "another error": (FORWARD, "return Net(classes + 'x')", r"raises TypeError .*line 16 of"),
    "other arguments": (FORWARD, "return Net(**{'n': 1})", "raises TypeError"),
    "a wrapper": (FORWARD, "return nn.DataParallel(Net(3))", "a DataParallel; expected the net"),
    "no parameters": (FORWARD, "return nn.Flatten()", "has no parameters"),
    "all frozen": (FORWARD, "return Net(3).requires_grad_(False)", "parameters .* are frozen"),
    "lazy": (FORWARD, "return nn.Sequential(nn.Flatten(), nn.LazyLinear(3))", "unknown size"),
}
FINE = {
    "logits": FORWARD,
    "draws in training": "return F.dropout(z, 0.5, self.training)",
    "zeros at first": "return 0 * z",
    "rectified": "return z.relu()",
    "bounded": "return z.tanh()",
}


@pytest.fixture
def tried(tmp_path):
    def run(forward=FORWARD, build=NET, **options):
        # A file is run once a process.
        path = tmp_path / str(len(list(tmp_path.iterdir()))) / "net.py"
        path.parent.mkdir()
        path.write_text(HEAD.format(forward, build).replace("{{", "{"))
        images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        return try_network(ModelConfig(name=f"{path}:build"), images, classes=3, **options)

    return run


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_trained_is_refused(tried, kind):
    forward, build, message = REFUSED[kind]
    with pytest.raises(ConfigError, match=message):
        tried(forward, build)


@pytest.mark.parametrize("kind", FINE)
def test_ordinary_outputs_come_back_from_two_evaluations(tried, kind):
    logits, again = tried(FINE[kind])
    assert logits.shape == (16, 3)
    assert torch.equal(logits, again)


def test_a_network_whose_features_cannot_be_probed_is_refused(tried):
    target = torch.randn(4, 1, 8, 8)
    tried(targets=[target])
    with pytest.raises(ConfigError, match="raises RuntimeError"):
        tried(targets=[torch.randn(4, 1, 4, 4)])
    conv = "return nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten())"
    tried(build=conv)
    with pytest.raises(ConfigError, match="no linear layer as its head"):
        tried(build=conv, targets=[target])


def test_torchs_generator_is_where_it_was(tried):
    before = torch.get_rng_state()
    tried("return F.dropout(z, 0.5)")
    assert torch.equal(torch.get_rng_state(), before)


def test_our_networks_are_not_tried():
    assert try_network(ModelConfig(name="resnet8"), torch.zeros(1), classes=3) is None
