import json
import os
import signal
import subprocess
import sys
from functools import partial

import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.api import CheckpointException

from polyak import tensor_files
from polyak.averaging.files.mixtures.merge import Mean, merge
from polyak.averaging.files.on_disk.writing import write_distributed, write_shards
from polyak.errors import ConfigError, FileError

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.int16, torch.bool, torch.complex64]


def weights():
    torch.manual_seed(0)
    return {
        "b.w": torch.randn(3, 4),
        "a": torch.randn(5).bfloat16(),
        "ü": torch.tensor([True, False, True]),
        "n": torch.tensor(3),
        "none": torch.empty(0, 4),
        "z": torch.randn(2, 2, dtype=torch.float64),
        "c": torch.randn(2).to(torch.float8_e4m3fn),
    }


def reading(state):
    return lambda keys: ((key, state[key]) for key in keys)


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(-1).view(torch.uint8)


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for key, x in wanted.items():
        assert found[key].dtype == x.dtype
        assert found[key].shape == x.shape
        assert torch.equal(bits(found[key]), bits(x)), key


def test_a_file_that_is_written_in_turn_is_the_librarys_to_the_byte(tmp_path):
    state = weights()
    save_file(state, tmp_path / "theirs", metadata={"format": "pt"})
    tensor_files.write_in_turn(tmp_path / "ours", state, reading(state), {"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@given(
    shapes=st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=6),
    dtype=st.sampled_from(DTYPES),
    most=st.integers(1, 200),
)
def test_shards_hold_what_was_given_none_larger_than_said(tmp_path_factory, shapes, dtype, most):
    state = {f"{i}": torch.ones(shape).to(dtype) * i for i, shape in enumerate(shapes)}
    folder = tmp_path_factory.mktemp("f") / "out"
    write_shards(folder, state, reading(state), {"format": "pt"}, most=most)
    parts = {path.name: load_file(path) for path in folder.glob("*.safetensors")}
    same({k: x for part in parts.values() for k, x in part.items()}, state)
    for part in parts.values():
        assert len(part) == 1 or sum(x.nbytes for x in part.values()) <= most
    if len(parts) > 1:
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(x.nbytes for x in state.values())
        assert index["weight_map"] == {k: name for name, part in parts.items() for k in part}


def test_a_folder_of_torchs_distributed_checkpoint_is_loaded_by_torch(tmp_path):
    state = weights()
    write_distributed(tmp_path / "out", state, reading(state))
    loaded = {key: torch.zeros_like(x) for key, x in state.items()}
    dcp.load(loaded, checkpoint_id=tmp_path / "out", no_dist=True)
    same(loaded, state)


WRITERS = {"shards": partial(write_shards, metadata={}, most=50), "distributed": write_distributed}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_what_fails_half_way_leaves_nothing(tmp_path, write):
    state = weights()

    def read(keys):
        for i, key in enumerate(keys):
            if i or key == "z":
                raise OSError("gone")
            yield key, state[key]

    with pytest.raises((OSError, CheckpointException), match="gone"):
        write(tmp_path / "out", state, read)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="exists; expected a new folder"):
        write_shards(tmp_path / "out", weights(), reading(weights()), {}, most=50)


def pieces(folder, count=3, *, layout="file"):
    """Checkpoints of one network, as a file, in shards or as a distributed checkpoint."""
    paths = []
    for i in range(count):
        torch.manual_seed(i)
        state = {
            "big": torch.randn(40, 8),
            "half": torch.randn(30).bfloat16(),
            "bias": torch.randn(8),
            "count": torch.tensor(i),
        }
        paths.append(folder / f"{i}{'.safetensors' if layout == 'file' else ''}")
        if layout == "file":
            save_file(state, paths[-1])
        elif layout == "shards":
            write_shards(paths[-1], state, reading(state), {"format": "pt"}, most=1000)
        else:
            dcp.save({"model": state}, checkpoint_id=paths[-1], no_dist=True)
    return paths


@pytest.mark.parametrize("layout", ["shards", "distributed"])
def test_a_mean_is_the_same_however_its_files_are_laid_out(tmp_path, layout):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    wanted, _ = merge(pieces(tmp_path / "a"))
    found, about = merge(pieces(tmp_path / "b", layout=layout))
    assert about["averages"]["merged"]["of"] == ["0", "1", "2"]
    same(found, wanted)


def test_tensors_whose_means_are_in_memory_together_are_one_or_a_quarter_of_the_largest(
    tmp_path, monkeypatch
):
    asked = []
    taken = Mean._mean
    monkeypatch.setattr(
        Mean, "_mean", lambda self, keys: asked.append(list(keys)) or taken(self, keys)
    )
    merge(pieces(tmp_path))
    sizes = {"big": 320, "half": 30, "bias": 8, "count": 2}
    assert sorted(key for keys in asked for key in keys) == sorted(sizes)
    assert all(len(keys) == 1 or sum(sizes[key] for key in keys) <= 80 for keys in asked)


def test_a_missing_shard_is_named(tmp_path):
    paths = pieces(tmp_path, layout="shards")
    gone = next(paths[1].glob("model-00002*"))
    os.remove(gone)
    with pytest.raises(FileError, match=gone.name):
        merge(paths)


KILLED = """
import os, signal, sys, warnings
from polyak.averaging.files.mixtures.merge import Mean
from polyak.averaging.files.on_disk import writing
from polyak import tensor_files
warnings.simplefilter("ignore")
how, out, last, *files = sys.argv[1:]
mean, reads = Mean(files), []
def read(keys):
    for key, x in mean.read(keys):
        if len(reads) == int(last):
            os.kill(os.getpid(), signal.SIGKILL)
        reads.append(key)
        yield key, x
if how == "file":
    tensor_files.write_in_turn(out, mean.layout, read, {})
elif how == "shards":
    writing.write_shards(out, mean.layout, read, {}, most=1000)
else:
    writing.write_distributed(out, mean.layout, read)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["file", "shards", "distributed"])
@pytest.mark.parametrize("last", [0, 2, 3])
def test_a_process_that_is_killed_leaves_nothing_that_looks_whole(tmp_path, how, last):
    paths, out = pieces(tmp_path), tmp_path / "out" / "mean"
    done = subprocess.run([sys.executable, "-c", KILLED, how, out, str(last), *paths], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not out.exists()
    assert [path.name[:8] for path in out.parent.iterdir()] == [".polyak-"]
    state, _ = merge(paths)
    write_shards(out, state, reading(state), {}, most=1000)
    assert list(out.parent.iterdir()) == [out]


HELD = """
import sys
from pathlib import Path
from polyak import tensor_files
from polyak.averaging.files.mixtures.merge import Mean
from polyak.averaging.files.on_disk import writing
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
def merge(files, out):
    mean = Mean(files)
    if how == "file":
        tensor_files.write_in_turn(out, mean.layout, mean.read, {})
    elif how == "shards":
        writing.write_shards(out, mean.layout, mean.read, {}, most=1 << 28)
    else:
        writing.write_distributed(out, mean.layout, mean.read)
how, folder = sys.argv[1], Path(sys.argv[2])
merge(sorted(folder.glob("small-*")), folder / "first")  # imports what is imported late
before = peak()
merge(sorted(folder.glob("large-*")), folder / "out")
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for its memory")
@pytest.mark.parametrize(("how", "most"), [("file", 2), ("shards", 2), ("distributed", 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_so_many_of_the_largest_tensors_are_in_memory_at_most(tmp_path, dtype, how, most):
    for name, size in (("small", 10), ("large", largest := 1 << 24)):
        for i in range(3):
            state = {f"{k}": torch.full((size,), float(i + 1), dtype=dtype) for k in range(6)}
            save_file(state, tmp_path / f"{name}-{i}")
    command = [sys.executable, "-W", "ignore", "-c", HELD, how, tmp_path]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    # Something for the pieces in which they are summed; one tensor more is far beyond it.
    assert int(done.stdout) < (most + 0.4) * 4 * largest
