"""Averagers that the first round wrote are read, and go on bit for bit where it did."""

import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from support.first_round_averagers import (
    AFTER,
    AVERAGERS,
    BANKS,
    BEFORE,
    EXACT,
    averager_of,
    before,
    flat,
    go_on,
    here,
    numbers,
    profiles,
)
from torch import Tensor

import polyak
from polyak import Averager
from polyak.cli.main import main
from polyak.integrations.statefile import load_state, save_state

# Averages that warm-up alone has set so far are equal, which is said at the first reading.
pytestmark = pytest.mark.filterwarnings("ignore:.*equal so far:RuntimeWarning")

RECORD: dict[str, Any] = json.loads((AVERAGERS / "averagers.json").read_text())
EACH_BANK = pytest.mark.parametrize("bank", BANKS)
FROM_THEN_ON = range(BEFORE + 1, BEFORE + AFTER + 1)


def tensors(name: str) -> dict[str, Tensor]:
    return safetensors.torch.load_file(AVERAGERS / f"{name}.safetensors")


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor], *, computed: bool) -> None:
    """Bit for bit; what another processor computed, up to roundings."""
    assert found.keys() == wanted.keys()
    rounds_otherwise = computed and here() != RECORD["environment"]
    for key, x in wanted.items():
        assert found[key].dtype == x.dtype
        if rounds_otherwise and key.partition("/")[0] not in EXACT:
            torch.testing.assert_close(found[key], x, rtol=1e-5, atol=1e-5)
        else:
            assert torch.equal(found[key], x), key


def loaded(bank: str, form: str) -> Averager:
    """A new averager with the state that a file of the first round holds."""
    averager = averager_of(bank)
    if form == "torch.save":
        averager.load_state_dict(torch.load(AVERAGERS / f"{bank}.pt")["averager"])
    else:
        averager.load_state_dict(load_state(AVERAGERS / f"{bank}-state.safetensors"))
    return averager


EACH_FORM = pytest.mark.parametrize("form", ["torch.save", "statefile"])


@EACH_BANK
@EACH_FORM
def test_a_state_holds_the_averages_that_it_held(bank, form):
    averager = loaded(bank, form)
    assert numbers(averager) == RECORD["banks"][bank]["before"]
    assert_same(flat(averager), tensors(f"{bank}-before"), computed=False)


@EACH_BANK
@EACH_FORM
def test_a_state_taken_in_mid_period_goes_on_as_it_did(bank, form):
    averager = loaded(bank, form)
    assert averager.steps % averager.every or averager.every == 1
    go_on(averager, FROM_THEN_ON)
    assert numbers(averager) == RECORD["banks"][bank]["after"]
    assert_same(flat(averager), tensors(f"{bank}-after"), computed=True)


@EACH_BANK
def test_averages_begun_now_are_those_of_then(bank):
    averager = before(bank)
    found = flat(averager)
    if bank == "copy":
        assert found.keys() == tensors("copy-before").keys()
    else:
        assert_same(found, tensors(f"{bank}-before"), computed=True)
    go_on(averager, FROM_THEN_ON)
    assert_same(flat(averager), tensors(f"{bank}-after"), computed=True)


@pytest.mark.parametrize("bank", [bank for bank in BANKS if "profiles" in RECORD["banks"][bank]])
def test_profiles_are_those_of_then(bank):
    averager = loaded(bank, "torch.save")
    go_on(averager, FROM_THEN_ON)
    found, wanted = profiles(averager), RECORD["banks"][bank]["profiles"]
    assert found.keys() == wanted.keys()
    for name, text in wanted.items():
        # Powers and exponentials are the C library's.
        weights = [float(word) for word in text.split()]
        assert [float(word) for word in found[name].split()] == pytest.approx(weights, rel=1e-12)


@EACH_BANK
def test_explain_says_the_same_numbers(bank):
    found = loaded(bank, "torch.save").explain(total_steps=100).splitlines()
    wanted = RECORD["banks"][bank]["explain"]
    # What happens to buffers has a line of its own now, without a number.
    found = [line for line in found if not line.startswith("buffers: ")]
    # Noise is said beside the mean age now.
    found = [re.sub(r", [\d.]+ effective weights", "", line) for line in found]
    assert [digits(line) for line in found] == [digits(line) for line in wanted]


def digits(line: str) -> list[str]:
    return re.findall(r"\d[\d.,]*", line)


@EACH_BANK
def test_saved_averages_are_read_and_written_again_the_same(bank, tmp_path):
    saved = polyak.load(AVERAGERS / f"{bank}.safetensors")
    found = {f"{name}/{key}": x for name, state in saved.items() for key, x in state.items()}
    assert_same(found, tensors(f"{bank}-before"), computed=False)
    again = tmp_path / "again.safetensors"
    polyak.save(loaded(bank, "statefile"), again, manifest={"epoch": 2})
    assert_same_file(again, AVERAGERS / f"{bank}.safetensors")


@EACH_BANK
def test_a_state_is_written_again_the_same(bank, tmp_path):
    again = tmp_path / "again.safetensors"
    save_state(loaded(bank, "torch.save"), again)
    assert_same_file(again, AVERAGERS / f"{bank}-state.safetensors")


def assert_same_file(found: Path, wanted: Path) -> None:
    """But for the versions that wrote them."""
    ours, theirs = polyak.load(found), polyak.load(wanted)
    for saved in (ours, theirs):
        for version in ("polyak", "torch"):
            del saved.manifest[version]
    # Newer files say it too where updates did not come on time; an old one is read without.
    ours.manifest.pop("folded", None)
    assert ours.manifest == theirs.manifest
    assert list(ours) == list(theirs)
    for name in theirs:
        assert_same(ours[name], theirs[name], computed=False)


@EACH_BANK
@pytest.mark.parametrize("form", ["inspect", "inspect .pt"])
def test_inspect_says_of_a_file_what_it_said(bank, form, capsys):
    path = AVERAGERS / f"{bank}{'.pt' if form.endswith('.pt') else '.safetensors'}"
    assert main(["inspect", str(path)]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    # Lag and noise have a line of their own now.
    lines = [line for line in lines if not line.endswith(" effective weights")]
    assert lines == RECORD["banks"][bank][form]


def test_a_folder_of_torch_distributed_checkpoint_goes_on_as_it_did(tmp_path):
    import torch.distributed.checkpoint as dcp

    folder = shutil.copytree(AVERAGERS / "pair-dcp", tmp_path / "pair")
    averager = averager_of("pair")
    with warnings.catch_warnings():
        # torch itself says that this is a single process.
        warnings.simplefilter("ignore")
        dcp.load({"averager": averager}, checkpoint_id=folder)
    assert_same(flat(averager), tensors("pair-before"), computed=False)
    go_on(averager, FROM_THEN_ON)
    assert_same(flat(averager), tensors("pair-after"), computed=True)


FILES = [AVERAGERS / "plain.safetensors", AVERAGERS / "plain-later.safetensors"]


def test_files_of_then_still_give_an_average_that_nobody_kept():
    found = polyak.synthesize(FILES, 0.93, largest_error=1.0)
    made, wanted = found.manifest["synthesis"], RECORD["synthesis"]
    assert made["error"] == pytest.approx(wanted["error"], rel=1e-3)
    assert [[Path(file).name, name] for file, name, _ in made["of"]] == [
        [file, name] for file, name, _ in wanted["of"]
    ]
    for key, x in tensors("synthesis").items():
        torch.testing.assert_close(found["ema_0.93"][key], x, rtol=1e-5, atol=1e-5)


def test_files_of_then_still_give_a_mean(tmp_path, capsys):
    out = tmp_path / "mean.safetensors"
    files = [str(path) for path in FILES]
    assert main(["merge", *files, "--name", "ema_0.9", "--out", str(out)]) == 0
    assert capsys.readouterr().err == ""
    assert_same(safetensors.torch.load_file(out), tensors("merged"), computed=False)
