"""Files of weights: whole or refused, and able to say what they hold."""

import json
import os
import struct
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from toys import Tied, assert_same_bits, batch, drift, net

import polyak
from polyak import EMA, Averager, PowerEMA, Uniform
from polyak.averaging import checkpoint
from polyak.errors import FileError

KINDS = (0.9, PowerEMA(gamma=3.0), Uniform())


def trained(model, averages=KINDS, **options) -> Averager:
    averager = Averager(model, averages, **options)
    for seed in range(5):
        drift(model, seed)
        averager.step()
    return averager


@pytest.fixture
def path(tmp_path):
    return tmp_path / "averages.safetensors"


def test_an_averager_comes_back(path):
    averager = trained(net())
    polyak.save(averager, path)
    read = polyak.load(path)
    assert list(read) == list(averager.names)
    for name in averager.names:
        assert_same_bits(read[name], averager.tensors(name))
        net().load_state_dict(read[name], strict=True)


def test_a_mapping_of_state_dicts_comes_back(path):
    weights = {"raw": net().state_dict(), "other": {"x": torch.arange(3)}, "empty": {}}
    polyak.save(weights, path, manifest={"epoch": 7, "note": "µ"})
    read = polyak.load(path)
    assert read.keys() == weights.keys()
    for name, tensors in weights.items():
        assert_same_bits(read[name], tensors)
    assert read.manifest == {"epoch": 7, "note": "µ"}


@pytest.mark.parametrize(
    "x",
    [
        torch.tensor(3),
        torch.tensor(True),
        torch.zeros(0, 3),
        torch.randn(3, dtype=torch.bfloat16),
        torch.randn(3, dtype=torch.float16),
        torch.randn(3, dtype=torch.float64),
        torch.randn(3, dtype=torch.complex64),
        torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        torch.randn(3, 4).T,
        torch.randn(10)[::3],
        torch.tensor([torch.nan, torch.inf, -0.0]),
        torch.nn.Parameter(torch.ones(2)),
    ],
    ids=lambda x: f"{x.dtype}{tuple(x.shape)}",
)
def test_tensors_of_every_form_come_back(path, x):
    polyak.save({"a": {"x": x}}, path)
    read = polyak.load(path)["a"]["x"]
    assert read.dtype == x.dtype
    torch.testing.assert_close(read, x.detach(), rtol=0, atol=0, equal_nan=True)


def test_the_manifest_says_what_the_weights_are(path):
    averager = trained(net(), every=2)
    averager.refresh_batchnorm([batch(0)], ["uniform"])
    polyak.save(averager, path, manifest={"epoch": 3})
    manifest = polyak.load(path).manifest
    assert {k: manifest[k] for k in ("every", "steps", "updates", "skipped", "epoch")} == {
        "every": 2,
        "steps": 5,
        "updates": 2,
        "skipped": 0,
        "epoch": 3,
    }
    assert manifest["averages"]["ema_0.9"]["decay"] == 0.9
    assert manifest["averages"]["ema_0.9"]["warmup_counts"] == "updates"
    assert manifest["averages"]["uniform"]["kind"] == "uniform"
    assert manifest["refreshed_batchnorm"] == ["uniform"]


def test_tied_weights_are_stored_once_and_come_back_tied(path, tmp_path):
    tied = Tied()
    untied = Tied()
    untied.head.weight = torch.nn.Parameter(untied.head.weight.detach().clone())
    for model, where in ((tied, path), (untied, tmp_path / "untied")):
        polyak.save(Averager(model, [0.9]), where)
    read = polyak.load(path)["ema_0.9"]
    assert read["head.weight"] is read["embedding.weight"]
    with safetensors.safe_open(path, "pt") as file:
        assert len(list(file.keys())) == len(list(tied.parameters()))
    polyak.save({"raw": tied.state_dict()}, path)
    assert polyak.load(path)["raw"]["head.weight"].shape == (5, 3)


def test_views_of_one_memory_store_only_their_own_bytes(path):
    """A row of a bank must not drag the others into a file; overlapping views come back too."""
    bank = torch.randn(5, 10_000)
    polyak.save({"a": {"row": bank[2]}, "b": {"row": bank[3], "part": bank[3, 5:9]}}, path)
    assert path.stat().st_size < 3 * 40_000
    read = polyak.load(path)
    assert torch.equal(read["a"]["row"], bank[2])
    assert torch.equal(read["b"]["row"], bank[3])
    assert torch.equal(read["b"]["part"], bank[3, 5:9])


def test_empty_tensors_are_told_apart(path):
    weights = {"a": {"x": torch.zeros(0, 3), "y": torch.zeros(2, 0, dtype=torch.int64)}}
    polyak.save(weights, path)
    assert_same_bits(polyak.load(path)["a"], weights["a"])


def test_what_is_written_is_plain_safetensors(path):
    averager = trained(net())
    polyak.save(averager, path)
    plain = safetensors.torch.load_file(path)
    assert torch.equal(plain["ema_0.9/0.weight"], averager.tensors("ema_0.9")["0.weight"])


def test_a_model_that_trains_on_does_not_change_the_file(path):
    model = net()
    averager = trained(model)
    held = averager.tensors("uniform")
    polyak.save(averager, path)
    drift(model, 7)
    averager.step()
    assert_same_bits(polyak.load(path)["uniform"], held)


def test_a_name_with_a_slash_is_refused(path):
    with pytest.raises(FileError, match=r"'a/b'; expected one without '/'"):
        polyak.save({"a/b": {}}, path)
    assert not path.exists()


# Damage


@pytest.fixture
def written(path):
    polyak.save(trained(net(), [EMA(0.9)]), path, manifest={"epoch": 1})
    return path


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_noticed_and_named(written, share):
    content = written.read_bytes()
    written.write_bytes(content[: int(share * len(content))])
    with pytest.raises(FileError, match=r"averages\.safetensors"):
        polyak.load(written)


def test_a_file_with_bytes_added_is_noticed(written):
    written.write_bytes(written.read_bytes() + b"\0")
    with pytest.raises(FileError, match="damaged"):
        polyak.load(written)


def test_any_altered_byte_is_noticed_and_named(written):
    """Safetensors has no checksum of its own, so ours covers tensors and manifest."""
    content = written.read_bytes()
    [header_size] = struct.unpack("<Q", content[:8])
    silent, messages = [], []
    reference = polyak.load(written)
    for place in range(0, len(content), 7):
        altered = bytearray(content)
        altered[place] ^= 0x04
        written.write_bytes(altered)
        try:
            read = polyak.load(written)
        except FileError as error:
            messages.append(str(error))
        else:
            silent.append(place)
            assert read.manifest == reference.manifest
            assert_same_bits(read["ema_0.9"], reference["ema_0.9"])
    assert all(str(written) in message for message in messages)
    # Only the padding after the header may change without changing what is read.
    assert len(silent) <= 2
    assert all(place < 8 + header_size for place in silent)


def test_a_lost_tensor_is_noticed(written):
    with safetensors.safe_open(written, "pt") as file:
        metadata = file.metadata()
    tensors = safetensors.torch.load_file(written)
    tensors.pop("ema_0.9/0.bias")
    safetensors.torch.save_file(tensors, written, metadata=metadata)
    with pytest.raises(FileError, match="damaged"):
        polyak.load(written)


def test_a_foreign_safetensors_file_is_told_apart_from_a_damaged_one(path):
    safetensors.torch.save_file({"x": torch.ones(2)}, path)
    with pytest.raises(FileError, match=r"averages\.safetensors has no manifest"):
        polyak.load(path)


def test_files_that_are_no_safetensors_are_named(path):
    torch.save(net().state_dict(), path)
    with pytest.raises(FileError, match=r"averages\.safetensors is damaged"):
        polyak.load(path)


@pytest.mark.parametrize("name", ["absent", "."])
def test_what_is_no_file_is_named(tmp_path, name):
    with pytest.raises(FileError, match="is no file; expected one that polyak"):
        polyak.load(tmp_path / name)


def test_a_later_format_is_refused(path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_FORMAT", 2)
    polyak.save({"a": {"x": torch.ones(2)}}, path)
    monkeypatch.undo()
    with pytest.raises(FileError, match="has format 2; expected 1"):
        polyak.load(path)


# Crashes


def test_a_fault_while_writing_leaves_the_old_file(written, monkeypatch):
    old = written.read_bytes()

    def half(_tensors, path, **_):
        path.write_bytes(b"half a file")
        raise OSError("no space left")

    monkeypatch.setattr(checkpoint, "save_file", half)
    with pytest.raises(OSError, match="no space left"):
        polyak.save({"a": {"x": torch.ones(2)}}, written)
    assert written.read_bytes() == old
    assert os.listdir(written.parent) == [written.name]


@pytest.mark.parametrize("manifest", [{"x": object()}, {"x": torch.ones(1)}])
def test_a_manifest_that_is_no_json_leaves_the_old_file(written, manifest):
    old = written.read_bytes()
    with pytest.raises(TypeError):
        polyak.save({"a": {"x": torch.ones(2)}}, written, manifest=manifest)
    assert written.read_bytes() == old


KILLED = """
import os, sys, torch, polyak
from polyak.averaging import checkpoint
def half(tensors, path, **_):
    path.write_bytes(b"half a file")
    os.kill(os.getpid(), 9)
checkpoint.save_file = half
polyak.save({"a": {"x": torch.ones(2)}}, sys.argv[1])
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_process_killed_while_writing_leaves_the_old_file(written):
    old = written.read_bytes()
    done = subprocess.run([sys.executable, "-c", KILLED, str(written)], check=False)
    assert done.returncode == -9
    assert written.read_bytes() == old
    assert len(polyak.load(written)) == 1


def test_the_header_holds_plain_json(written):
    with safetensors.safe_open(written, "pt") as file:
        record = json.loads(file.metadata()["polyak"])
    assert record["format"] == 1
    assert record["manifest"]["epoch"] == 1
