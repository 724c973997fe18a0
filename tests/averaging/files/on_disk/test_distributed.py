import os
import pickle
import re
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed._shard.sharded_tensor import metadata as old
from torch.distributed.checkpoint.metadata import (
    MetadataIndex,
    StorageMeta,
    TensorStorageMetadata,
)

import polyak
from polyak import Averager
from polyak.averaging.files.foreign import open_weights
from polyak.averaging.files.on_disk.distributed import INDEX
from polyak.errors import FileError

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def trained():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    averager = Averager(model, [0.9, 0.99], dtype=torch.bfloat16)
    for _ in range(3):
        model(torch.randn(8, 3)).square().mean().backward()
        optimizer.step()
        averager.step()
    return model, optimizer, averager


@pytest.fixture
def folder(tmp_path):
    model, optimizer, _ = trained()
    state = {"model": model.state_dict(), "optim": optimizer.state_dict(), "step": 3}
    dcp.save(state, checkpoint_id=tmp_path / "a", no_dist=True)
    return tmp_path / "a"


def test_tensors_of_every_sort_are_read(tmp_path):
    state = {
        "scalar": torch.tensor(1.5),
        "none": torch.empty(0, 3),
        "truth": torch.tensor([True, False]),
        "narrow": torch.randn(4).to(torch.float8_e4m3fn),
        "pair": torch.randn(3, dtype=torch.complex64),
        "columns": torch.randn(6, 4)[:, ::2],
        "weight": torch.randn(2, 3, dtype=torch.float64),
    }
    dcp.save(state, checkpoint_id=tmp_path / "a", no_dist=True)
    [found] = polyak.read_foreign(tmp_path / "a").values()
    assert found.keys() == state.keys()
    for key, x in state.items():
        assert found[key].dtype == x.dtype
        assert found[key].tolist() == x.tolist()


def test_its_weights_are_those_that_were_saved_and_what_else_it_holds_is_listed(folder):
    found = polyak.read_foreign(folder)
    assert list(found) == ["model"]
    for key, x in trained()[0].state_dict().items():
        assert torch.equal(found["model"][key], x)
        assert found["model"][key].dtype == x.dtype
    assert found.manifest["steps"] == 3
    assert [entry["path"] for entry in found.manifest["left_out"]] == ["optim"]


def test_nothing_is_read_before_it_is_asked_for_but_counters(folder):
    disk = open_weights(folder)
    state = disk.weights["model"]
    assert state["0.weight"].isnan().all()
    assert state["0.weight"].untyped_storage().nbytes() == 4
    assert state["1.num_batches_tracked"].item() == 3
    read = dict(disk.read({"0.weight": state["0.weight"]}))
    assert torch.equal(read["0.weight"], trained()[0][0].weight)


def test_an_averagers_state_is_found_with_what_bfloat16_lacks(tmp_path):
    averager = trained()[2]
    dcp.save({"averager": averager}, checkpoint_id=tmp_path / "a", no_dist=True)
    found = polyak.read_foreign(tmp_path / "a")
    torch.save({"averager": averager.state_dict()}, tmp_path / "b.pt")
    wanted = polyak.read_foreign(tmp_path / "b.pt")
    assert {k: list(v) for k, v in found.items()} == {k: list(v) for k, v in wanted.items()}
    for name, state in wanted.items():
        assert all(torch.equal(found[name][key], x) for key, x in state.items())
    assert found.manifest["averages"] == wanted.manifest["averages"]


class Command:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def in_an_old_form(index):
    """As torch 2.1 wrote it, with the place where it lay."""
    for about in index.state_dict_metadata.values():
        if isinstance(about, TensorStorageMetadata):
            new = about.properties
            about.properties = old.TensorProperties(dtype=new.dtype, layout=new.layout)
    index.storage_meta = StorageMeta(checkpoint_id=Path("a"))


def test_an_index_of_an_older_torch_is_read(folder):
    changed(folder, in_an_old_form)
    found = polyak.read_foreign(folder)
    assert torch.equal(found["model"]["0.weight"], trained()[0][0].weight)


@pytest.mark.parametrize("place", ["instead of the index", "in it"])
def test_an_index_that_names_a_command_is_refused_and_nothing_is_run(folder, tmp_path, place):
    index = folder / INDEX
    metadata = pickle.loads(index.read_bytes())
    metadata.planner_data = Command(str(tmp_path / "made"))
    index.write_bytes(pickle.dumps(metadata if place == "in it" else metadata.planner_data))
    with pytest.raises(FileError, match=r"\.metadata is damaged .*mkdir"):
        polyak.read_foreign(folder)
    assert not (tmp_path / "made").exists()


def test_a_value_that_names_a_command_is_refused_and_nothing_is_run(folder, tmp_path):
    index = pickle.loads((folder / INDEX).read_bytes())
    info = next(info for key, info in index.storage_data.items() if key.fqn == "step")
    data = pickle.dumps(Command(str(tmp_path / "made")), protocol=2)
    info.offset, info.length = 0, len(data)
    (folder / "other").write_bytes(data)
    info.relative_path = "other"
    (folder / INDEX).write_bytes(pickle.dumps(index))
    with pytest.raises(FileError, match="other is damaged"):
        polyak.read_foreign(folder)
    assert not (tmp_path / "made").exists()


def changed(folder, change):
    index = pickle.loads((folder / INDEX).read_bytes())
    change(index)
    (folder / INDEX).write_bytes(pickle.dumps(index))


def elsewhere(index):
    for info in index.storage_data.values():
        info.relative_path = f"../a/{info.relative_path}"


def fewer(index):
    index.state_dict_metadata["model.0.weight"].chunks.clear()


def other_size(index):
    about = index.state_dict_metadata["model.0.weight"]
    about.size = about.chunks[0].sizes = torch.Size([2, 6])


def huge(index):
    about = index.state_dict_metadata["model.0.weight"]
    about.size = about.chunks[0].sizes = torch.Size([10**9, 10**9])


def no_place(index):
    del index.storage_data[MetadataIndex("model.0.weight", [0, 0])]


def no_place_of_a_value(index):
    del index.storage_data[MetadataIndex("step")]


def odd_parts(index):
    index.storage_data = dict.fromkeys(index.storage_data, 3)


def odd_paths(index):
    index.planner_data = {"step": 3}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (odd_parts, r"\.metadata is damaged .*attribute"),
        (odd_paths, r"\.metadata is damaged"),
        (huge, "its index has 1000000000000000000 values"),
        (no_place, "lacks a place of 'model.0.weight'"),
        (no_place_of_a_value, "lacks a place of 'step'"),
        (elsewhere, "outside its folder"),
        (fewer, "its index has 0 values of 'model.0.weight'"),
        (other_size, "a part of 'model.0.weight' is not as indexed"),
    ],
)
def test_an_index_that_does_not_fit_its_files_is_refused(folder, change, said):
    changed(folder, change)
    with pytest.raises(FileError, match=said):
        polyak.read_foreign(folder)


def test_a_file_that_is_missing_or_cut_off_is_named(folder):
    [part] = folder.glob("*.distcp")
    part.write_bytes(part.read_bytes()[:2000])
    with pytest.raises(FileError, match=rf"{part.name} is damaged"):
        polyak.read_foreign(folder)
    part.unlink()
    said = (
        f"{folder} lacks '{part.name}'; expected the files of all processes. Copy the whole folder."
    )
    with pytest.raises(FileError, match=f"^{re.escape(said)}$"):
        polyak.read_foreign(folder)


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps({"a": 1})])
def test_what_is_no_index_is_refused(folder, content):
    (folder / INDEX).write_bytes(content)
    with pytest.raises(FileError, match=r"\.metadata is damaged"):
        polyak.read_foreign(folder)
