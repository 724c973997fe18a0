"""Files of weights: whole or refused, and able to say what they hold."""

import hashlib
import json
import os
import struct
import subprocess
import sys
import threading

import pytest
import safetensors.torch
import torch
from support.small_networks import Tied, assert_same_bits, batch, drift, net

import polyak
from polyak import EMA, Averager, PowerEMA, Uniform, checksums, tensor_files
from polyak.averaging.files import manifest
from polyak.averaging.files.foreign import read_foreign
from polyak.errors import ConfigError, FileError

KINDS = (0.9, PowerEMA(gamma=3.0), Uniform())


def trained(model, averages=KINDS, **options) -> Averager:
    averager = Averager(model, averages, **options)
    for seed in range(5):
        drift(model, seed)
        averager.step()
    return averager


def addresses(tensors) -> set[int]:
    return {x.data_ptr() for x in tensors}


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


def test_saving_copies_no_average_and_no_frozen_weight(path, monkeypatch):
    """Only what a forward pass may write to meanwhile."""
    model = net()
    model.register_parameter("base", torch.nn.Parameter(torch.ones(3), requires_grad=False))
    averager = trained(model, buffers={"*": "average", "*.running_var": "live"})
    written = {}
    monkeypatch.setattr(tensor_files, "write", lambda _, tensors, __: written.update(tensors))
    polyak.save(averager, path)
    state = averager.state_dict()
    rests = [x for row in (*state["tensors"].values(), state["copied"]) for x in row.values()]
    copied = {
        key for key, x in written.items() if x.data_ptr() not in addresses([*rests, model.base])
    }
    assert copied == {f"{averager.names[0]}/{key}" for key in model.state_dict() if "_var" in key}
    for name in averager.names:
        own = {key: x for key, x in averager.tensors(name).items() if f"{name}/{key}" in written}
        assert_same_bits({key: written[f"{name}/{key}"] for key in own}, own)


def test_an_update_of_another_thread_waits_for_the_file(path, monkeypatch):
    model = net()
    averager = trained(model)
    before = {name: averager.tensors(name) for name in averager.names}
    drift(model, 7)
    updating = threading.Thread(target=averager.step)
    write = tensor_files.write

    def write_slowly(*given):
        updating.start()
        updating.join(0.05)
        write(*given)

    monkeypatch.setattr(tensor_files, "write", write_slowly)
    polyak.save(averager, path)
    updating.join()
    assert averager.updates == 6
    for name, tensors in polyak.load(path).items():
        assert_same_bits(tensors, before[name])


def test_a_mapping_of_state_dicts_comes_back(path):
    weights = {"raw": net().state_dict(), "other": {"x": torch.arange(3)}, "empty": {}}
    polyak.save(weights, path, manifest={"epoch": 7, "note": "µ"})
    read = polyak.load(path)
    assert read.keys() == weights.keys()
    for name, tensors in weights.items():
        assert_same_bits(read[name], tensors)
    assert read.manifest.items() >= {"epoch": 7, "note": "µ", "tool": "polyak"}.items()
    assert read.manifest["polyak"] == polyak.__version__
    assert read.manifest["torch"] == torch.__version__


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
    said = polyak.load(path).manifest
    assert {k: said[k] for k in ("every", "steps", "updates", "skipped", "epoch")} == {
        "every": 2,
        "steps": 5,
        "updates": 2,
        "skipped": 0,
        "epoch": 3,
    }
    assert said["averages"]["ema_0.9"]["decay"] == 0.9
    assert said["averages"]["ema_0.9"]["warmup_counts"] == "updates"
    assert said["averages"]["uniform"]["kind"] == "uniform"
    assert said["refreshed_batchnorm"] == ["uniform"]
    assert said["dtypes"] == dict.fromkeys(averager.names, "float32")
    assert said["model_class"] == "torch.nn.modules.container.Sequential"


@pytest.mark.parametrize("policy", ["average", "copy"])
def test_the_manifest_says_how_buffers_were_treated(path, policy):
    polyak.save(trained(net(), buffers=policy), path)
    assert polyak.load(path).manifest["buffers"] == policy


def test_what_the_averager_says_cannot_be_overridden(path):
    with pytest.raises(ConfigError, match=r"manifest sets 'steps', .*expected other names"):
        polyak.save(trained(net()), path, manifest={"steps": 1})
    assert not path.exists()


def test_weights_that_were_read_keep_their_manifest(path, tmp_path):
    averager = trained(net(), every=2)
    polyak.save(averager, path)
    again = tmp_path / "again"
    polyak.save(polyak.load(path), again, manifest={"note": "copy"})
    assert polyak.load(again).manifest == {**polyak.load(path).manifest, "note": "copy"}


def test_weights_do_not_change_with_the_file_they_were_read_from(path):
    """Mapped memory would: a file written in place would change tensors that were checked."""
    polyak.save({"a": {"x": torch.ones(1000)}}, path)
    read = polyak.load(path)["a"]["x"]
    size = path.stat().st_size
    with path.open("rb+") as file:
        file.seek(size - 4000)
        file.write(bytes(4000))
    assert torch.equal(read, torch.ones(1000))
    with pytest.raises(FileError, match="'a/x'"):
        polyak.load(path)


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


def test_a_dtype_that_the_format_lacks_is_refused_by_name_and_leaves_the_old_file(path):
    polyak.save({"a": {"x": torch.ones(1)}}, path)
    before = path.read_bytes()
    weights = {"a": {"x": torch.ones(1), "z": torch.ones(1, dtype=torch.complex128)}}
    with pytest.raises(FileError, match=r"the dtype of 'a/z' is complex128; expected one that"):
        polyak.save(weights, path)
    assert path.read_bytes() == before


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
    with pytest.raises(FileError, match=r"averages\.safetensors is a zip file; expected one that"):
        polyak.load(path)
    path.write_bytes(b"")
    with pytest.raises(FileError, match=r"averages\.safetensors is empty"):
        polyak.load(path)


@pytest.mark.parametrize("name", ["absent", "."])
def test_what_is_no_file_is_named(tmp_path, name):
    with pytest.raises(FileError, match="is no file; expected one of weights"):
        polyak.load(tmp_path / name)


def test_a_later_format_is_refused(path, monkeypatch):
    monkeypatch.setattr(manifest, "FORMAT", 2)
    polyak.save({"a": {"x": torch.ones(2)}}, path)
    monkeypatch.undo()
    with pytest.raises(FileError, match="has format 2; expected 1 or lower"):
        polyak.load(path)


# Hostile files: header, the length that it claims, bytes after it


def float32(shape, begin, end):
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


HEADERS = {
    "a length beyond memory": (b"{}", 2**63, b""),
    "a length beyond the file": (b"{}", 90_000_000, b""),
    "overlapping tensors": ({"a": float32([2], 0, 8), "b": float32([2], 4, 12)}, None, bytes(12)),
    "a hole": ({"a": float32([1], 4, 8)}, None, bytes(8)),
    "offsets that go back": ({"a": float32([1], 8, 4)}, None, bytes(8)),
    "a shape that overflows": ({"a": float32([2**62, 4], 0, 8)}, None, bytes(8)),
    "a side beyond int64": ({"a": float32([0, 2**63], 0, 0)}, None, b""),
    "an unknown dtype": ({"a": {**float32([1], 0, 4), "dtype": "Q9"}}, None, bytes(4)),
    "metadata that is no text": ({"__metadata__": {"polyak": 1}}, None, b""),
    "metadata that is no object": ({"__metadata__": []}, None, b""),
    "no JSON": (b"{" * 1000, None, b""),
    "deep JSON": (b'{"a":' + b"[" * 100_000, None, b""),
    "no UTF-8": (b'{"__metadata__":{"polyak":"\xff"}}', None, b""),
}


def write_header(path, header, length=None, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + body)


@pytest.mark.parametrize("case", HEADERS)
@pytest.mark.parametrize("read", [polyak.load, read_foreign])
def test_a_hostile_header_is_refused(path, case, read):
    write_header(path, *HEADERS[case])
    with pytest.raises(FileError, match=r"averages\.safetensors is damaged"):
        read(path)


GOOD = {"format": 1, "weights": {"a": {"x": "a/x"}}, "manifest": {}, "sha256": {"a/x": "0"}}
RECORDS = {
    "no JSON": "{",
    "deep JSON": "[" * 100_000,
    "a list": "[]",
    "a number with too many digits": "1" * 5000,
    "another format": json.dumps({**GOOD, "format": 0}),
    "a format that is true": json.dumps({**GOOD, "format": True}),
    "no weights": json.dumps({**GOOD, "weights": None}),
    "weights that are no objects": json.dumps({**GOOD, "weights": {"a": ["x"]}}),
    "weights that are numbers": json.dumps({**GOOD, "weights": {"a": {"x": 1}}}),
    "no manifest": json.dumps({**GOOD, "manifest": "x"}),
    "checksums that are a list": json.dumps({**GOOD, "sha256": ["a/x"]}),
    "a wrong checksum": json.dumps(GOOD),
}


@pytest.mark.parametrize("case", RECORDS)
def test_a_hostile_manifest_is_refused_even_with_its_own_checksum(path, case):
    text = RECORDS[case]
    metadata = {"polyak": text, "polyak_sha256": hashlib.sha256(text.encode()).hexdigest()}
    safetensors.torch.save_file({"a/x": torch.ones(2)}, path, metadata=metadata)
    with pytest.raises(FileError, match=r"averages\.safetensors is damaged"):
        polyak.load(path)


def test_a_name_of_no_tensor_is_noticed(path):
    x = torch.ones(2)
    sums = {"a/x": checksums.of_tensor(x)}
    text = json.dumps({**GOOD, "weights": {"a": {"y": "a/y"}}, "sha256": sums})
    metadata = {"polyak": text, "polyak_sha256": hashlib.sha256(text.encode()).hexdigest()}
    safetensors.torch.save_file({"a/x": x}, path, metadata=metadata)
    with pytest.raises(FileError, match="'a/y' are named but not in it"):
        polyak.load(path)


def test_a_renamed_tensor_is_noticed_and_named(written):
    with safetensors.safe_open(written, "pt") as file:
        metadata = file.metadata()
    tensors = safetensors.torch.load_file(written)
    tensors["ema_0.9/0.wait"] = tensors.pop("ema_0.9/0.weight")
    safetensors.torch.save_file(tensors, written, metadata=metadata)
    with pytest.raises(FileError, match=r"'ema_0\.9/0\.wait', 'ema_0\.9/0\.weight'"):
        polyak.load(written)


@pytest.mark.parametrize(
    "other", [torch.ones(3, 2), torch.ones(6), torch.ones(2, 3).view(torch.int32)]
)
def test_the_same_bytes_in_another_form_are_noticed(path, other):
    x = torch.ones(2, 3)
    polyak.save({"a": {"x": x}}, path)
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    safetensors.torch.save_file({"a/x": other}, path, metadata=metadata)
    with pytest.raises(FileError, match="the values of 'a/x'"):
        polyak.load(path)


def test_a_file_is_known_by_its_content_not_its_name(written, tmp_path):
    renamed = written.rename(tmp_path / "averages.pt")
    assert list(polyak.load(renamed)) == ["ema_0.9"]
    assert read_foreign(renamed).manifest == polyak.load(renamed).manifest


# Crashes


def test_a_fault_while_writing_leaves_the_old_file(written, monkeypatch):
    old = written.read_bytes()

    def half(_tensors, path, **_):
        path.write_bytes(b"half a file")
        raise OSError("no space left")

    monkeypatch.setattr(tensor_files, "save_file", half)
    with pytest.raises(OSError, match="no space left"):
        polyak.save({"a": {"x": torch.ones(2)}}, written)
    assert written.read_bytes() == old
    assert os.listdir(written.parent) == [written.name]


@pytest.mark.parametrize("given", [{"x": object()}, {"x": torch.ones(1)}])
def test_a_manifest_that_is_no_json_leaves_the_old_file(written, given):
    old = written.read_bytes()
    with pytest.raises(TypeError):
        polyak.save({"a": {"x": torch.ones(2)}}, written, manifest=given)
    assert written.read_bytes() == old


KILLED = """
import os, sys, torch, polyak
from polyak import tensor_files
def half(tensors, path, **_):
    path.write_bytes(b"half a file")
    os.kill(os.getpid(), 9)
tensor_files.save_file = half
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
