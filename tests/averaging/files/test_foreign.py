"""Other tools' files: each layout is known by its keys, and nothing in a file is run."""

import argparse
import json
import os
import pickle
import re
import shlex
import tempfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from support.small_networks import Tied, assert_same_bits, drift, net
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import polyak
from polyak.averaging.files.foreign import read_foreign
from polyak.averaging.files.state_dict_keys import name_by_order, strip_wrappers
from polyak.errors import FileError, WeightMismatchError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.pt"


def moved_net(seed=1):
    model = net()
    drift(model, seed)
    return model


def saved(path, content, **options):
    torch.save(content, path, **options)
    return read_foreign(path)


def with_prefix(prefix, state):
    return {prefix + key: x for key, x in state.items()}


# torch


@pytest.mark.parametrize("legacy", [False, True])
def test_averaged_model(path, legacy):
    model = net()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for seed in range(3):
        drift(model, seed)
        average.update_parameters(model)
    content = average.state_dict()
    read = saved(path, content, _use_new_zipfile_serialization=not legacy)
    assert read.manifest == {
        "tool": "torch AveragedModel",
        "weights": {"average": "averaged"},
        "updates": 3,
    }
    assert list(read) == ["average"]
    assert_same_bits(read["average"], average.module.state_dict())


def test_averaged_model_around_a_compiled_and_distributed_one(path):
    state = net().state_dict()
    content = {"n_averaged": torch.tensor(4), **with_prefix("module.module._orig_mod.", state)}
    assert_same_bits(saved(path, content)["average"], state)
    compiled = with_prefix("_orig_mod.", content)
    assert_same_bits(saved(path, compiled)["average"], state)
    assert read_foreign(path).manifest["updates"] == 4


@pytest.mark.parametrize("name", ["a.safetensors", "b.pt", "c"])
@pytest.mark.parametrize("format", ["pickle", "safetensors"])
def test_a_file_is_read_by_its_content_whatever_its_name(tmp_path, name, format):
    """torch.load itself goes by the ending."""
    state = net().state_dict()
    write = torch.save if format == "pickle" else safetensors.torch.save_file
    write(state, tmp_path / name)
    assert_same_bits(read_foreign(tmp_path / name)["weights"], state)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("format", ["pickle", "safetensors"])
def test_a_plain_state_dict_loses_its_wrappers_prefixes(path, prefix, format):
    state = net().state_dict()
    content = with_prefix(prefix, state)
    if format == "safetensors":
        safetensors.torch.save_file(content, path)
        read = read_foreign(path)
    else:
        read = saved(path, content)
    assert read.manifest["weights"] == {"weights": "unknown"}
    assert_same_bits(read["weights"], state)
    net().load_state_dict(read["weights"], strict=True)


def test_a_layer_that_is_called_module_keeps_its_name():
    state = {"module.w": torch.ones(1), "head.w": torch.ones(1)}
    assert strip_wrappers(state).keys() == state.keys()


def test_two_names_never_become_one(path):
    torch.save({"w": torch.ones(1), "_orig_mod.w": torch.zeros(1)}, path)
    with pytest.raises(FileError, match=r"checkpoint\.pt: 'w' stand twice"):
        read_foreign(path)


def test_what_a_module_adds_to_its_state_is_left_out(path):
    read = saved(path, {"w": torch.ones(1), "norm._extra_state": {"scale": 3}})
    assert list(read["weights"]) == ["w"]


def test_parameters_come_back_as_plain_tensors_on_the_cpu(path):
    read = saved(path, {"w": nn.Parameter(torch.ones(2))})
    assert type(read["weights"]["w"]) is torch.Tensor
    assert not read["weights"]["w"].requires_grad
    assert read["weights"]["w"].device.type == "cpu"


@pytest.mark.parametrize("x", [torch.ones(2, device="meta"), torch.eye(2).to_sparse()])
def test_tensors_without_dense_values_are_refused(path, x):
    torch.save({"w": x}, path)
    with pytest.raises(FileError, match=r"checkpoint\.pt.*expected"):
        read_foreign(path)


# timm


def test_timm(path):
    raw, average = net().state_dict(), moved_net().state_dict()
    content = {
        "epoch": 7,
        "arch": "resnet18",
        "state_dict": raw,
        "optimizer": {"state": {0: {"m": torch.ones(1)}}, "param_groups": [{"lr": 0.1}]},
        "version": 2,
        "state_dict_ema": average,
        "metric": 71.2,
    }
    read = saved(path, content)
    assert read.manifest["tool"] == "timm"
    assert read.manifest["weights"] == {"average": "averaged", "raw": "raw"}
    assert (read.manifest["epoch"], read.manifest["model_class"]) == (7, "resnet18")
    assert_same_bits(read["average"], average)
    assert_same_bits(read["raw"], raw)
    content.pop("state_dict_ema")
    assert saved(path, content).manifest["weights"] == {"raw": "raw"}


# torch-ema, diffusers: parameters in order


def shadow(model, **settings):
    parameters = [x.detach().clone() for x in model.parameters()]
    return {"decay": 0.99, "shadow_params": parameters, **settings}


def torch_ema(model):
    return shadow(model, num_updates=5, collected_params=None)


def diffusers(model):
    settings = {"min_decay": 0.0, "update_after_step": 0, "use_ema_warmup": False}
    return shadow(model, optimization_step=5, inv_gamma=1.0, power=2 / 3, **settings)


@pytest.mark.parametrize(("layout", "tool"), [(torch_ema, "torch-ema"), (diffusers, "diffusers")])
def test_parameters_in_order_get_names_from_a_model(path, layout, tool):
    model = moved_net()
    torch.save(layout(model), path)
    read = read_foreign(path, net())
    assert_same_bits(read["average"], {k: p.detach() for k, p in model.named_parameters()})
    assert (read.manifest["tool"], read.manifest["updates"]) == (tool, 5)
    assert read.manifest["averages"]["average"]["decay"] == 0.99
    assert read.manifest["buffers"] == "not stored"
    unnamed = read_foreign(path)
    assert unnamed.manifest["names"] == "order"
    assert list(unnamed["average"]) == ["0", "1", "2", "3", "4", "5"]


def test_a_stored_backup_of_torch_ema_is_the_raw_weights(path):
    content = {**torch_ema(moved_net()), "collected_params": list(net().parameters())}
    torch.save(content, path)
    read = read_foreign(path, net())
    assert read.manifest["weights"] == {"average": "averaged", "raw": "raw"}
    assert read["raw"].keys() == read["average"].keys()


def test_only_the_parameters_that_train_may_have_been_averaged():
    model = net()
    model[0].requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert list(name_by_order(trained, model)) == ["1.weight", "1.bias", "4.weight", "4.bias"]


def test_tied_parameters_get_all_their_names():
    tied = Tied()
    found = name_by_order(list(tied.parameters()), tied)
    assert found.keys() == tied.state_dict().keys()
    assert found["head.weight"] is found["embedding.weight"]


@pytest.mark.parametrize("other", [nn.Linear(3, 4), Tied()])
def test_another_models_parameters_are_refused(path, other):
    torch.save(torch_ema(net()), path)
    with pytest.raises(WeightMismatchError, match=r"checkpoint\.pt: the file holds 6 parameters"):
        read_foreign(path, other)


CONFIG = {
    "_class_name": "UNet2DModel",
    "decay": 0.9999,
    "min_decay": 0.0,
    "optimization_step": 300,
    "update_after_step": 0,
    "use_ema_warmup": True,
    "inv_gamma": 1.0,
    "power": 0.75,
}


def diffusers_folder(folder, config, *, form="one", stem="diffusion_pytorch_model"):
    state = moved_net().state_dict()
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    stem = folder / stem
    if form == "pickle":
        torch.save(state, f"{stem}.bin")
    elif form == "one":
        safetensors.torch.save_file(state, f"{stem}.safetensors")
    else:
        names = list(state)
        write, ending = safetensors.torch.save_file, "safetensors"
        if form == "pickled parts":
            write, ending = torch.save, "bin"
        places = {name: f"part{i % 2}.{ending}" for i, name in enumerate(names)}
        for part in sorted(set(places.values())):
            held = {name: state[name] for name in names if places[name] == part}
            write(held, folder / part)
        index = Path(f"{stem}.{ending}.index.json")
        index.write_text(json.dumps({"weight_map": places}))
    return state


@pytest.mark.parametrize("form", ["one", "parts", "pickle"])
def test_a_folder_of_diffusers(tmp_path, form):
    state = diffusers_folder(tmp_path / "unet_ema", CONFIG, form=form)
    read = read_foreign(tmp_path / "unet_ema")
    assert_same_bits(dict(sorted(read["average"].items())), dict(sorted(state.items())))
    assert read.manifest["model_class"] == "UNet2DModel"
    assert read.manifest["updates"] == 300
    assert read.manifest["averages"]["average"]["decay"] == 0.9999
    assert read.manifest["averages"]["average"]["power"] == 0.75


def test_a_folder_of_diffusers_without_an_average(tmp_path):
    diffusers_folder(tmp_path / "unet", {"_class_name": "UNet2DModel"})
    assert read_foreign(tmp_path / "unet").manifest["weights"] == {"weights": "unknown"}


@pytest.mark.parametrize(
    ("stem", "form"),
    [
        ("model", "one"),
        ("model", "parts"),
        ("pytorch_model", "pickle"),
        ("pytorch_model", "pickled parts"),
    ],
)
def test_a_folder_of_transformers(tmp_path, stem, form):
    config = {"model_type": "bert", "architectures": ["BertModel"]}
    state = diffusers_folder(tmp_path / "bert", config, form=form, stem=stem)
    read = read_foreign(tmp_path / "bert")
    assert_same_bits(dict(sorted(read["weights"].items())), dict(sorted(state.items())))
    assert read.manifest == {
        "tool": "transformers",
        "model_class": "BertModel",
        "weights": {"weights": "unknown"},
    }


def test_a_folder_of_weights_is_read_without_a_config(tmp_path):
    state = net().state_dict()
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    assert_same_bits(read_foreign(tmp_path)["weights"], state)


def test_a_file_of_polyak_in_a_folder_says_what_it_is(tmp_path):
    polyak.save(polyak.Averager(net(), [0.9]), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    read = read_foreign(tmp_path)
    assert (list(read), read.manifest["tool"]) == (["ema_0.9"], "polyak")


def test_a_folder_without_weights_is_called_so_and_no_file_is_complained_of(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileError, match=r"is a folder without .*model.* Name the file\."):
        read_foreign(tmp_path)


@pytest.mark.parametrize("text", ["[]", "{", "[" * 100_000, None])
def test_a_folder_whose_config_is_none_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(FileError, match=re.escape(str(tmp_path))):
        read_foreign(tmp_path)


@pytest.mark.parametrize("names", ["../outside.safetensors", "/outside.safetensors"])
def test_an_index_names_files_of_its_own_folder_only(tmp_path, names):
    diffusers_folder(tmp_path / "a", CONFIG, form="parts")
    index = tmp_path / "a" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": names}}))
    safetensors.torch.save_file({"w": torch.ones(1)}, tmp_path / "outside.safetensors")
    with pytest.raises(FileError, match="outside its folder"):
        read_foreign(tmp_path / "a")


# ema-pytorch, Lightning, training scripts


def ema_pytorch(model, average, *, begun=True):
    return {
        **with_prefix("online_model.", model.state_dict()),
        **with_prefix("ema_model.", average.state_dict()),
        "initted": torch.tensor(begun),
        "step": torch.tensor(40),
    }


def test_ema_pytorch(path):
    raw, average = net(), moved_net()
    read = saved(path, ema_pytorch(raw, average))
    assert (read.manifest["tool"], read.manifest["steps"]) == ("ema-pytorch", 40)
    assert read.manifest["averages"]["average"]["begun"] is True
    assert_same_bits(read["average"], average.state_dict())
    assert_same_bits(read["raw"], raw.state_dict())
    content = ema_pytorch(raw, average, begun=False)
    alone = {k: x for k, x in content.items() if not k.startswith("online_model")}
    read = saved(path, alone)
    assert list(read) == ["average"]
    assert read.manifest["averages"]["average"]["begun"] is False


def lightning(**more):
    return {
        "epoch": 3,
        "global_step": 1000,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": moved_net().state_dict(),
        "loops": {},
        "callbacks": {},
        "optimizer_states": [],
        **more,
    }


def test_lightning_weight_averaging_keeps_the_average_where_weights_are_expected(path):
    raw = net().state_dict()
    averaging = {"n_averaged": torch.tensor(900)}
    content = lightning(current_model_state=raw, averaging_state=averaging)
    read = saved(path, content)
    assert read.manifest == {
        "tool": "Lightning 2.6.0 WeightAveraging",
        "weights": {"average": "averaged", "raw": "raw"},
        "steps": 1000,
        "epoch": 3,
        "updates": 900,
    }
    assert_same_bits(read["average"], content["state_dict"])
    assert_same_bits(read["raw"], raw)


def test_lightning_stochastic_weight_averaging(path):
    average = net().state_dict()
    callback = {"n_averaged": 4, "latest_update_epoch": 9, "average_model_state": average}
    content = lightning(callbacks={"StochasticWeightAveraging": callback})
    read = saved(path, content)
    assert read.manifest["updates"] == 4
    assert_same_bits(read["average"], average)
    assert_same_bits(read["raw"], content["state_dict"])


def test_lightning_without_averages_does_not_guess(path):
    read = saved(path, lightning())
    assert read.manifest["weights"] == {"weights": "unknown"}


def test_a_training_scripts_checkpoint(path):
    raw, average = net().state_dict(), moved_net().state_dict()
    content = {"model": raw, "model_ema": average, "epoch": 3, "step": 12, "args": {"lr": 0.1}}
    read = saved(path, content)
    assert read.manifest["weights"] == {"model": "unknown", "model_ema": "averaged, by its name"}
    assert (read.manifest["epoch"], read.manifest["steps"]) == (3, 12)
    assert_same_bits(read["model_ema"], average)


def test_an_average_inside_a_training_scripts_checkpoint(path):
    content = {"model": net().state_dict(), "ema": torch_ema(moved_net()), "optimizer": {}}
    torch.save(content, path)
    read = read_foreign(path, net())
    assert list(read) == ["model", "ema.average"]
    assert read.manifest["tool"] == "checkpoint with torch-ema"
    assert read.manifest["weights"]["ema.average"] == "averaged"
    assert read.manifest["averages"]["ema.average"]["decay"] == 0.99
    assert read.manifest["updates"] == 5


def test_the_averages_of_a_lightning_callback_are_not_left_out(path):
    averager = polyak.Averager(net(), [0.9])
    content = lightning(callbacks={"Averaging": averager.state_dict()})
    read = saved(path, content)
    assert read.manifest["tool"] == "Lightning 2.6.0 with polyak"
    assert read.manifest["weights"] == {"ema_0.9": "averaged", "raw": "raw"}
    assert read.manifest["epoch"] == 3
    expected = averager.tensors("ema_0.9")
    assert_same_bits(dict(sorted(read["ema_0.9"].items())), dict(sorted(expected.items())))
    assert_same_bits(read["raw"], content["state_dict"])


def test_bfloat16_averages_inside_a_checkpoint_are_whole(path):
    model, twin = net(), net()
    twin.load_state_dict(model.state_dict())
    split = polyak.Averager(model, [0.9], dtype=torch.bfloat16)
    exact = polyak.Averager(twin, [0.9])
    for seed in range(3):
        for each, averager in ((model, split), (twin, exact)):
            drift(each, seed)
            averager.step()
    read = saved(path, {"ema": split.state_dict()})["ema.ema_0.9"]
    for key, x in exact.tensors("ema_0.9").items():
        torch.testing.assert_close(read[key], x, rtol=1e-6, atol=1e-6)


def test_a_state_that_is_none_is_not_taken_for_one(path):
    kept = {"w": torch.ones(1)}
    for odd in ({"averages": 1, "tensors": 2}, {"averages": {}, "tensors": {"a": 1, "b": {}}}):
        read = saved(path, {"model": kept, "ema": {**odd, "history": 3, "refreshed": []}})
        assert list(read) == ["model"]


def test_what_was_read_can_be_saved_as_polyaks_own(path, tmp_path):
    read = saved(path, ema_pytorch(net(), moved_net()))
    polyak.save(read, tmp_path / "own")
    own = polyak.load(tmp_path / "own")
    assert own.manifest.items() >= read.manifest.items()
    assert_same_bits(own["average"], read["average"])


# What is refused


class Hostile:
    """Unpickled, it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {shlex.quote(str(self.path))}",)


def write_torch(content, path):
    torch.save(content, path)


def write_legacy(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def write_pickle(content, path):
    path.write_bytes(pickle.dumps(content))


def write_old_pickle(content, path):
    path.write_bytes(pickle.dumps(content, protocol=2))


WRITERS = (write_torch, write_legacy, write_pickle, write_old_pickle)


@pytest.mark.parametrize("write", WRITERS)
def test_a_hostile_pickle_is_refused_and_does_nothing(path, tmp_path, write):
    made = tmp_path / "made"
    write({"state_dict": {"w": torch.ones(1)}, "x": Hostile(made)}, path)
    # A plain pickle of tensors needs torch's own unrestricted reader first.
    refused = r"'(posix\.system|nt\.system|torch\.storage\._load_from_bytes)'"
    with pytest.raises(FileError, match=rf"checkpoint\.pt needs .*{refused}"):
        read_foreign(path)
    assert not made.exists()
    pickle.loads(pickle.dumps(Hostile(made)))
    assert made.exists()  # it would have


def test_a_whole_module_is_refused_with_what_to_save_instead(path):
    torch.save(net(), path)
    with pytest.raises(FileError, match=r"needs .*Sequential.*Save the model's state_dict\(\)"):
        read_foreign(path)


class MakesFolder:
    """Unpickled, it would call a function that torch does not block by its module."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return tempfile.mkdtemp, ("", "made", str(self.folder))


def test_objects_beside_weights_are_left_out_and_nothing_of_them_is_run(path, tmp_path):
    """timm's own checkpoints hold argparse's Namespace, many others a number of numpy."""
    np = pytest.importorskip("numpy")
    hostile = MakesFolder(tmp_path)
    state = net().state_dict()
    content = {
        "state_dict": state,
        "state_dict_ema": state,
        "args": argparse.Namespace(lr=0.1),
        "metric": np.float64(3),
        "deep": [{"x": hostile, "n": np.int64(3)}, 3],
    }
    torch.save(content, path)
    read = read_foreign(path)
    assert read.manifest["tool"] == "timm"
    assert_same_bits(read["average"], state)
    found = {entry["path"]: entry["detail"] for entry in read.manifest["left_out"]}
    assert found.keys() == {"args", "metric", "deep"}
    assert found["args"] == "argparse.Namespace"
    assert found["metric"].startswith("numpy.")
    assert not list(tmp_path.glob("made*"))
    pickle.loads(pickle.dumps(hostile))
    assert list(tmp_path.glob("made*"))  # it would have


def test_a_name_from_a_file_is_never_code(path):
    """Protocol 2's GLOBAL takes any text up to the end of the line."""
    name = 'evil"]); import os; os.system("touch x") #\'; touch x; \''
    path.write_bytes(b"\x80\x02c" + name.encode() + b"\nx\n.")
    with pytest.raises(FileError, match="checkpoint") as caught:
        read_foreign(path)
    assert "python -c" not in str(caught.value)
    assert not list(path.parent.glob("x"))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("write", WRITERS)
def test_a_truncated_pickle_is_refused(path, write, share):
    write(torch_ema(net()), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(FileError, match=r"checkpoint\.pt"):
        read_foreign(path)


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        3,
        torch.ones(2),
        {"a": 1},
        {1: torch.ones(1)},
        {"shadow_params": [1], "decay": 0.9},
        {"initted": torch.tensor(True), "step": "x"},
        {"state_dict": {}, "state_dict_ema": {}},
        {"pytorch-lightning_version": 1, "state_dict": 2, "callbacks": 3},
    ],
    ids=str,
)
def test_what_holds_no_weights_is_refused(path, content):
    torch.save(content, path)
    with pytest.raises(FileError, match=r"checkpoint\.pt holds a \w+ without weights"):
        read_foreign(path)


@pytest.mark.parametrize(
    ("begin", "said"),
    [
        (b"", "is empty"),
        (b"hello", "is of an unknown format"),
        (b"\x89HDF\r\n", "is a HDF5 file"),
        (b"GGUF\0", "is a GGUF file"),
    ],
)
def test_other_formats_are_named(path, begin, said):
    path.write_bytes(begin)
    with pytest.raises(FileError, match=said):
        read_foreign(path)


def test_a_torchscript_archive_is_named(path):
    with pytest.warns((DeprecationWarning, FutureWarning), match="torch.jit"):
        torch.jit.trace(nn.Linear(1, 1), torch.ones(1, 1)).save(path)
    with pytest.raises(FileError, match="is a TorchScript archive"):
        read_foreign(path)


def test_an_averagers_state_is_not_taken_for_weights(path):
    torch.save(polyak.Averager(net(), [0.9]).state_dict(), path)
    with pytest.raises(FileError, match=r"is an averager's state_dict\(\)"):
        read_foreign(path)


def test_nothing_in_the_source_unpickles_freely():
    sources = list(Path(polyak.__file__).parent.rglob("*.py"))
    assert len(sources) > 50
    free = re.compile(r"weights_only\s*=\s*False|pickle\.loads?\b|\bUnpickler\(")
    assert not [path for path in sources if free.search(path.read_text(encoding="utf-8"))]
    for text in (path.read_text(encoding="utf-8") for path in sources):
        assert text.count("torch.load(") == text.count("weights_only=True")


# The tools themselves


@pytest.mark.oracle
@pytest.mark.parametrize("stored", [False, True])
def test_a_file_of_torch_ema(path, stored):
    tool = pytest.importorskip("torch_ema")
    model = net()
    peer = tool.ExponentialMovingAverage(model.parameters(), decay=0.95)
    for seed in range(3):
        drift(model, seed)
        peer.update()
    if stored:
        peer.store()
    torch.save(peer.state_dict(), path)
    read = read_foreign(path, net())
    other = net()
    peer.copy_to(other.parameters())
    assert_same_bits(read["average"], {k: p.detach() for k, p in other.named_parameters()})
    assert list(read) == (["average", "raw"] if stored else ["average"])
    assert read.manifest["averages"]["average"]["decay"] == 0.95
    assert read.manifest["updates"] == 3


@pytest.mark.oracle
@pytest.mark.parametrize("online", [False, True])
def test_a_file_of_ema_pytorch(path, online):
    tool = pytest.importorskip("ema_pytorch")
    model = net()
    options = {"update_after_step": 0, "update_every": 1, "include_online_model": online}
    peer = tool.EMA(model, beta=0.9, **options)
    for seed in range(3):
        drift(model, seed)
        peer.update()
    read = saved(path, peer.state_dict())
    assert_same_bits(read["average"], peer.ema_model.state_dict())
    assert list(read) == (["average", "raw"] if online else ["average"])
    assert read.manifest["tool"] == "ema-pytorch"
    assert read.manifest["steps"] == 3
