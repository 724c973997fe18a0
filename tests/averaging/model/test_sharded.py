"""Averages of models that several processes train together, each check on real processes."""

import warnings

import pytest
import torch
from support.process_groups import once, outcome, run_all
from support.sharded_checks import PHASES, load_on_a_plain_model
from support.small_networks import assert_same_bits
from torch import nn

from polyak import Averager
from polyak.averaging import gathered

pytestmark = [
    pytest.mark.skipif(
        not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
        reason="this torch has no gloo",
    ),
    pytest.mark.skipif(
        torch.__version__.startswith("2.6."), reason="torch 2.6 shards on GPUs only"
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the processes leave what they found. Test processes side by side share it."""
    base = tmp_path_factory.getbasetemp()
    beside_others = base.parent if base.name.startswith("popen-") else base
    return once(beside_others / "worlds", lambda path: run_all(PHASES, path))


CHECKS = [(phase, check.__name__) for phase, _, checks in PHASES for check in checks]


@pytest.mark.parametrize(("phase", "check"), CHECKS, ids=[f"{p}-{c[6:]}" for p, c in CHECKS])
def test_on_processes(folder, phase, check):
    assert outcome(folder, phase, check) == "passed"


@pytest.mark.parametrize("name", ["wide", "split"])
def test_what_three_processes_saved_one_without_a_group_goes_on_with(folder, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no process group
        averager, expected = load_on_a_plain_model(folder, name)
    for average in expected.names:
        assert_same_bits(averager.tensors(average), expected.tensors(average))
    assert averager.steps == 12


def test_a_plain_model_is_gathered_by_copying():
    averager = Averager(nn.Linear(2, 1), [0.9])
    found = gathered(averager)
    assert_same_bits(found["ema_0.9"], averager.tensors("ema_0.9"))
    assert found.manifest["averages"].keys() == {"ema_0.9"}
