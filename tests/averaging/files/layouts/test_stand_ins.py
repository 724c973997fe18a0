"""Objects of classes that are not torch's: read inertly, listed, and never made."""

import argparse
import collections
import datetime
import enum
import functools
import pathlib
import sys
import types

import pytest
import torch
from support.small_networks import assert_same_bits, net
from torch import nn

from polyak.averaging.files.foreign import read_foreign
from polyak.averaging.files.layouts.stand_ins import StandIn
from polyak.averaging.files.on_disk.pickles import read_pickled
from polyak.errors import FileError


class Ordered(collections.OrderedDict):
    """A state dict of a class of its own."""


class WithAttribute(dict):
    """As EasyDict, CfgNode and the like."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.frozen = True


class Listed(list):
    pass


class Level(enum.Enum):
    HIGH = 1


class Outer:
    class Inner:
        pass

    def method(self):
        pass


class Slotted:
    __slots__ = ("x",)

    def __init__(self):
        self.x = 3


class Booby:
    """Says so if anything but pickle makes, fills, or looks at it."""

    def __new__(cls, *_):
        Booby.touched.append("new")
        return super().__new__(cls)

    def __getattribute__(self, name):
        if name not in ("__reduce_ex__", "__class__", "__dict__", "__getstate__"):
            Booby.touched.append(name)
        return super().__getattribute__(name)

    def __setstate__(self, state):
        Booby.touched.append("setstate")

    touched: list[str] = []  # noqa: RUF012


def numpy_parts():
    np = pytest.importorskip("numpy")
    return {"scalar": np.float32(3), "whole": np.int64(3), "array": np.ones((2, 3))}


def odd_parts():
    inner = Outer.Inner()
    inner.a = 1
    return {
        "namespace": argparse.Namespace(lr=0.1, deep=argparse.Namespace(a=[1])),
        "level": Level.HIGH,
        "inner": inner,
        "method": Outer.method,
        "slotted": Slotted(),
        "path": pathlib.PurePosixPath("/a/b"),
        "time": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        "partial": functools.partial(print, 3, end=""),
        "class": nn.ReLU,
        "frozen": frozenset([1, 2]),
        "slice": slice(1, 2),
        "settings": WithAttribute(a=WithAttribute(b=1)),
        "deque": collections.deque([1, 2], maxlen=4),
        "default": collections.defaultdict(list, {"a": [1]}),
        "list": Listed([1, 2]),
        "dtype": torch.float16,
    }


@pytest.mark.parametrize("legacy", [False, True])
def test_weights_are_read_and_each_object_beside_them_is_listed(tmp_path, legacy):
    path, state = tmp_path / "checkpoint.pt", net().state_dict()
    content = {**odd_parts(), **numpy_parts()}
    if legacy:
        # It wrote classes of modules in a way of its own, which is refused.
        del content["class"]
    torch.save({"model": state, **content}, path, _use_new_zipfile_serialization=not legacy)
    before = set(torch.serialization.get_safe_globals())
    read = read_foreign(path)
    assert list(read) == ["model"]
    assert_same_bits(read["model"], state)
    assert {entry["path"] for entry in read.manifest["left_out"]} == content.keys()
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("kind", [Ordered, WithAttribute, collections.OrderedDict, dict])
def test_a_state_dict_of_another_class_is_one(tmp_path, kind):
    path, state = tmp_path / "checkpoint.pt", net().state_dict()
    torch.save({"model": kind(state), "best": kind(deep=kind(state))}, path)
    read = read_foreign(path)
    assert list(read) == ["model", "best.deep"]
    for found in read.values():
        assert_same_bits(found, dict(state))


def test_a_default_dict_of_states_is_read(tmp_path):
    """audiocraft keeps its averages so."""
    path, state = tmp_path / "checkpoint.pt", net().state_dict()
    torch.save({"ema": collections.defaultdict(dict, {"model": dict(state)})}, path)
    assert_same_bits(read_foreign(path)["ema.model"], dict(state))


def test_weights_in_an_objects_attributes_are_found(tmp_path):
    path, state = tmp_path / "checkpoint.pt", net().state_dict()
    torch.save({"trainer": argparse.Namespace(ema=dict(state), lr=0.1)}, path)
    read = read_foreign(path)
    assert list(read) == ["trainer.ema"]
    assert read.manifest["weights"] == {"trainer.ema": "averaged, by its name"}


def test_no_class_of_a_file_is_made_filled_or_looked_at(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"model": net().state_dict(), "booby": [Booby(), {"x": Booby()}]}, path)
    Booby.touched.clear()
    read_foreign(path)
    assert not Booby.touched


def test_no_module_of_a_file_is_imported(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    module = types.ModuleType("not_there_later")
    exec("class Kept:\n    pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "not_there_later", module)
    torch.save({"model": net().state_dict(), "kept": module.Kept()}, path)
    monkeypatch.delitem(sys.modules, "not_there_later")
    read = read_foreign(path)
    assert [entry["detail"] for entry in read.manifest["left_out"]] == ["not_there_later.Kept"]
    assert "not_there_later" not in sys.modules


def test_a_stand_in_holds_what_the_file_would_have_made_the_object_of(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"args": argparse.Namespace(lr=0.1)}, path)
    content, names = read_pickled(path)
    assert names == ["argparse.Namespace"]
    args = content["args"]
    assert isinstance(args, StandIn)
    assert (args.kind, args.args, args.state) == ("argparse.Namespace", (), {"lr": 0.1})


def test_what_getattr_would_give_is_never_taken_from_anything(tmp_path):
    """By getattr pickles name methods and nested classes, and hostile ones reach any function."""
    path = tmp_path / "checkpoint.pt"

    class Reaches:
        def __reduce__(self):
            return getattr, (pathlib.Path, "cwd")

    class Calls:
        def __reduce__(self):
            return eval, ("1/0",)

    torch.save({"model": net().state_dict(), "x": [Reaches()]}, path)
    entries = read_foreign(path).manifest["left_out"]
    assert [entry["path"] for entry in entries] == ["x"]
    torch.save({"model": net().state_dict(), "x": Calls()}, path)
    with pytest.raises(FileError, match=r"needs .*eval.*They can run commands"):
        read_foreign(path)


@pytest.mark.parametrize("name", ["posix.system", "os.path.join", "subprocess.run", "sys.exit"])
def test_a_name_that_runs_commands_refuses_the_whole_file(tmp_path, name):
    path = tmp_path / "checkpoint.pt"
    module, _, function = name.rpartition(".")
    path.write_bytes(f"\x80\x02c{module}\n{function}\n)R.".encode("latin1"))
    with pytest.raises(FileError, match=rf"needs '{name}' .*They can run commands"):
        read_foreign(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickled_module_is_refused_if_there_is_nothing_else(tmp_path, legacy):
    path = tmp_path / "checkpoint.pt"
    content = {"model": None, "ema": net(), "updates": 3}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(FileError, match=r"needs .*Save the model's state_dict\(\)"):
        read_foreign(path)


def test_a_pickled_module_beside_weights_is_listed_with_what_to_do(tmp_path):
    """Lightning's hyper_parameters often hold a loss."""
    path, state = tmp_path / "checkpoint.pt", net().state_dict()
    torch.save({"state_dict": state, "hyper_parameters": {"loss": nn.PReLU(), "lr": 1}}, path)
    read = read_foreign(path)
    assert list(read) == ["state_dict"]
    [entry] = read.manifest["left_out"]
    assert entry["path"] == "hyper_parameters"
    torch.save({"state_dict": state, "loss": nn.PReLU()}, path)
    [entry] = read_foreign(path).manifest["left_out"]
    assert entry["detail"] == "torch.nn.modules.activation.PReLU, 1 tensor"
    assert "save its state_dict()" in entry["why"]


class Named(torch.Tensor):
    """A tensor of a class of its own."""


def test_tensors_of_another_class_are_refused_by_the_name_of_it(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"model": {"w": torch.ones(2).as_subclass(Named)}}, path)
    with pytest.raises(FileError, match=r"needs '.*Named'.*Save the model's state_dict\(\)"):
        read_foreign(path)


def test_a_later_protocol_is_named(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"model": net().state_dict()}, path, pickle_protocol=4)
    with pytest.raises(FileError, match="is pickled by protocol 4 or a later one"):
        read_foreign(path)


def test_what_others_have_allowed_stays_allowed(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"model": net().state_dict(), "args": argparse.Namespace(lr=1)}, path)
    with torch.serialization.safe_globals([argparse.Namespace]):
        before = set(torch.serialization.get_safe_globals())
        assert list(read_foreign(path)) == ["model"]
        assert set(torch.serialization.get_safe_globals()) == before
