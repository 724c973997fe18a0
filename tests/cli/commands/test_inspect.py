"""polyak inspect and polyak export: which weights are these, and give me one of them."""

import argparse
import re

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import polyak
from polyak import EMA, Averager, PowerEMA, Uniform
from polyak.averaging.files.foreign import read_foreign


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def trained(**options) -> Averager:
    model = network()
    averager = Averager(model, [EMA(0.9), PowerEMA(gamma=3.0), Uniform()], every=2, **options)
    draws = torch.Generator().manual_seed(0)
    for _ in range(6):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn(parameter.shape, generator=draws)
        averager.step()
    return averager


@pytest.fixture
def path(tmp_path):
    return tmp_path / "averages.safetensors"


def row(text: str, key: str) -> str:
    [value] = re.findall(rf"^{key} +(.*)$", text, flags=re.MULTILINE)
    return value


def part(text: str, name: str) -> str:
    """The lines about one of the weights."""
    [lines] = [block for block in text.split("\n\n") if block.startswith(f"{name}: ")]
    return lines


def test_a_file_of_polyak_says_all_about_its_averages(path, told):
    averager = trained()
    batch = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    averager.refresh_batchnorm([batch], ["uniform"])
    polyak.save(averager, path, manifest={"epoch": 4})
    text = told("inspect", path)
    assert row(text, "tool") == "polyak"
    assert row(text, "versions") == f"polyak {polyak.__version__}, torch {torch.__version__}"
    assert row(text, "model class") == "torch.nn.modules.container.Sequential"
    assert row(text, "epoch") == "4"
    assert row(text, "steps") == "6"
    assert row(text, "updates") == "3, one every 2 steps"
    assert row(text, "checksums") == "agree, 27 tensors"
    ema = part(text, "ema_0.9")
    assert ema.startswith("ema_0.9: averaged\n")
    assert "decay 0.9" in ema
    # ln ½ / ln 0.9 = 6.579 updates of two steps
    assert "half-life 6.579 updates = 13.16 steps" in ema
    assert "not fresh" in ema
    # 3·4 + 4, twice 4, 4·2 + 2
    assert "float32, 9 tensors, 34 parameters" in ema
    uniform = part(text, "uniform")
    assert "BatchNorm statistics fresh" in uniform
    assert "half-life" not in uniform
    assert "gamma 3.0" in text


def test_plain_state_dicts_are_not_guessed_at(path, told):
    torch.save(network().state_dict(), path)
    text = told("inspect", path)
    assert row(text, "tool") == "state dict"
    assert row(text, "checksums") == "none in the file"
    assert "weights: unknown whether averaged or raw\n" in text
    assert "BatchNorm statistics: unknown whether fresh" in text


def test_averaged_model(path, told):
    average = AveragedModel(network())
    average.update_parameters(network())
    torch.save(average.state_dict(), path)
    text = told("inspect", path)
    assert row(text, "tool") == "torch AveragedModel"
    assert row(text, "updates") == "1"
    assert "average: averaged" in text


def test_parameters_in_order(path, told, refused, tmp_path):
    parameters = [x.detach() for x in network().parameters()]
    torch.save({"decay": 0.99, "num_updates": 4, "shadow_params": parameters}, path)
    text = told("inspect", path)
    assert row(text, "tool") == "torch-ema"
    assert row(text, "names") == "not stored: parameters in the model's order"
    assert "decay 0.99" in text
    assert "half-life 68.97 updates" in text
    assert "BatchNorm statistics, if any, are not stored" in text
    assert "in order, without names" in refused("export", path, "average", tmp_path / "out")


def test_the_averages_of_an_averager_inside_a_checkpoint_are_shown(path, told, tmp_path):
    averager = trained()
    batch = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    averager.refresh_batchnorm([batch], ["uniform"])
    model = averager.model.state_dict()
    torch.save({"model": model, "ema": averager.state_dict(), "epoch": 3}, path)
    text = told("inspect", path)
    assert row(text, "tool") == "checkpoint with polyak"
    assert row(text, "epoch") == "3"
    assert row(text, "updates") == "3, one every 2 steps"
    assert "did not train" in row(text, "left out")
    assert "model: unknown whether averaged or raw" in text
    assert "BatchNorm statistics: unknown whether fresh" in part(text, "model")
    ema = part(text, "ema.ema_0.9")
    assert ema.startswith("ema.ema_0.9: averaged\n")
    assert "decay 0.9" in ema
    assert "half-life 6.579 updates = 13.16 steps" in ema
    assert "BatchNorm statistics not fresh" in ema
    assert "float32, 9 tensors, 34 parameters" in ema
    assert "BatchNorm statistics fresh" in part(text, "ema.uniform")
    out = tmp_path / "uniform.safetensors"
    told("export", path, "ema.uniform", out)
    plain = safetensors.torch.load_file(out)
    expected = averager.tensors("uniform")
    assert plain.keys() == expected.keys()
    assert all(torch.equal(plain[key], x) for key, x in expected.items())


def test_raw_weights_are_called_raw(path, told):
    state = network().state_dict()
    torch.save({"state_dict": state, "state_dict_ema": state, "arch": "x", "epoch": 1}, path)
    text = told("inspect", path)
    assert "BatchNorm statistics of training" in part(text, "raw")
    assert "decay not stored" in part(text, "average")


def test_tied_and_integer_tensors_are_counted_once_and_said(path, told):
    x = torch.ones(2, 3)
    polyak.save({"a": {"x": x, "y": x}, "b": {"n": torch.arange(3)}}, path)
    text = told("inspect", path)
    assert "float32, 2 tensors, 6 parameters" in part(text, "a")
    assert "integers, 1 tensors, 3 parameters" in part(text, "b")


@pytest.mark.parametrize(
    "manifest",
    [
        {"averages": 3, "weights": [], "refreshed_batchnorm": 1},
        {"averages": {"a": "x"}, "every": "y", "updates": {}},
        {"averages": {"a": {"kind": 1, "decay": "z"}}, "every": None},
        {"averages": {"a": {"kind": "ema", "decay": 2.0}}, "every": -1},
        {"weights": {"a": None}, "tool": None, "names": []},
    ],
    ids=str,
)
def test_a_manifest_may_hold_anything(path, told, manifest):
    polyak.save({"a": network().state_dict()}, path, manifest=manifest)
    assert "float32, 9 tensors, 34 parameters" in part(told("inspect", path), "a")


def test_what_is_no_weights_is_listed_with_what_it_is(path, told):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    content = {
        "student": model.state_dict(),
        "teacher": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=0.1),
        "center": torch.ones(1, 9),
        "best": 0.5,
        "date": "2026",
        "more": {f"x{i}": argparse.Namespace() for i in range(3)},
    }
    torch.save(content, path)
    text = told("inspect", path)
    lines = text.partition("\n\n")[0].splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("left out"))
    shown = [line[13:] for line in lines[at : at + 5]]
    assert shown == [
        "optimizer: dict 2 entries, an optimizer's state",
        "args: object argparse.Namespace, no tensor",
        "center: tensor float32 (1, 9), in no state dict",
        "more: dict 3 entries, holds no weights",
        "numbers and texts: best, date",
    ]
    assert "teacher: averaged, by its name" in text


def test_a_long_list_of_what_is_no_weights_ends(path, told):
    content = {f"x{i}": argparse.Namespace() for i in range(30)}
    torch.save({"model": network().state_dict(), **content}, path)
    text = told("inspect", path)
    assert "and 10 more" in text
    assert text.count("argparse.Namespace") == 20


def test_a_list_of_what_was_left_out_may_hold_anything(path, told):
    for odd in ([1, {"path": 3}], {"a": 1}, [], "text", 3):
        polyak.save({"a": {"x": torch.ones(1)}}, path, manifest={"left_out": odd})
        assert "a: unknown" in told("inspect", path)


def test_control_characters_of_a_file_do_not_reach_the_terminal(path, told, refused):
    state = {"x": torch.ones(1)}
    polyak.save({"a\x1b[2Jb": state}, path, manifest={"tool": "\x1b]0;x\x07", "epoch": "1\n2"})
    text = told("inspect", path)
    assert all(c.isprintable() or c == "\n" for c in text)
    assert row(text, "epoch") == r"1\n2"
    torch.save({"m": state, "a\x1b": argparse.Namespace(), "b\n": 1}, path)
    assert all(c.isprintable() or c == "\n" for c in told("inspect", path))
    safetensors.torch.save_file({"w\x1b": torch.ones(1), "_orig_mod.w\x1b": torch.ones(1)}, path)
    assert "\x1b" not in refused("inspect", path)


def test_what_is_no_file_of_weights_is_refused_in_one_line(path, tmp_path, refused):
    path.write_text("hello, hello")
    assert "averages.safetensors is of an unknown format" in refused("inspect", path)
    assert "absent is no file" in refused("inspect", tmp_path / "absent")
    torch.save(network(), path)
    assert "needs 'torch.nn." in refused("inspect", path)


def test_a_damaged_file_is_refused_with_what_is_damaged(path, refused):
    polyak.save({"a": {"x": torch.zeros(4), "y": torch.zeros(4)}}, path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert "the values of 'a/y' are not those that were written" in refused("inspect", path)
    path.write_bytes(content[:-1])
    assert "damaged" in refused("inspect", path)


# export


def test_an_average_is_exported_as_a_plain_state_dict(path, tmp_path, told):
    averager = trained()
    polyak.save(averager, path)
    out = tmp_path / "new" / "ema.safetensors"
    assert str(out) in told("export", path, "ema_0.9", out)
    plain = safetensors.torch.load_file(out)
    expected = averager.tensors("ema_0.9")
    assert plain.keys() == expected.keys()
    assert all(torch.equal(plain[key], x) for key, x in expected.items())
    network().load_state_dict(plain, strict=True)


def test_an_exported_average_still_says_what_it_is(path, tmp_path, told):
    polyak.save(trained(), path)
    out = tmp_path / "ema.safetensors"
    told("export", path, "ema_0.9", out)
    text = told("inspect", out)
    for key in ("tool", "model class", "steps", "updates"):
        assert row(text, key) == row(told("inspect", path), key)
    assert row(text, "checksums") == "none in the file"
    assert part(text, "ema_0.9").split() == part(told("inspect", path), "ema_0.9").split()
    assert list(read_foreign(out)) == ["ema_0.9"]
    told("export", out, "ema_0.9", tmp_path / "again")
    assert safetensors.torch.load_file(tmp_path / "again").keys() == network().state_dict().keys()


@pytest.mark.parametrize("about", ["{", "[]", "{}", '{"name": 3}'])
def test_an_export_that_says_nonsense_is_refused(path, refused, about):
    metadata = {"polyak_export": about}
    safetensors.torch.save_file({"x": torch.ones(1)}, path, metadata=metadata)
    assert "damaged" in refused("inspect", path)


def test_an_export_whose_description_lacks_a_tool_is_read(path, told):
    metadata = {"polyak_export": '{"name": "a"}'}
    safetensors.torch.save_file({"x": torch.ones(1)}, path, metadata=metadata)
    assert "a: unknown whether averaged or raw" in told("inspect", path)


def test_foreign_prefixes_are_gone_and_tied_weights_have_all_names(path, tmp_path, told):
    x = torch.ones(2)
    average = {f"module.{name}": x for name in ("a", "b")}
    torch.save({"n_averaged": torch.tensor(1), **average}, path)
    told("export", path, "average", tmp_path / "out")
    assert safetensors.torch.load_file(tmp_path / "out").keys() == {"a", "b"}


def test_an_unknown_name_is_refused_with_the_nearest(path, tmp_path, refused):
    polyak.save(trained(), path)
    said = refused("export", path, "ema_0.99", tmp_path / "out")
    assert "is 'ema_0.99'; expected one of ema_0.9, " in said
    assert "Did you mean 'ema_0.9'?" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("where", ["itself", "a folder"])
def test_a_file_is_never_exported_over_itself(path, refused, where):
    polyak.save(trained(), path)
    before = path.read_bytes()
    out = path if where == "itself" else path.parent
    assert "expected another file" in refused("export", path, "uniform", out)
    assert path.read_bytes() == before


# endings


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.bin", "a.ckpt", "a.npz", "a.PT"])
def test_an_ending_that_promises_another_format_is_refused(path, tmp_path, refused, name):
    polyak.save(trained(), path)
    said = refused("export", path, "uniform", tmp_path / name)
    assert "what is written is safetensors; expected that ending" in said
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["a.onnx", "a.pt2"])
def test_a_file_of_weights_does_not_become_a_network(path, tmp_path, refused, name):
    polyak.save(trained(), path)
    said = refused("export", path, "uniform", tmp_path / name)
    assert "which holds a network; expected .safetensors" in said
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["ema_0.998", "ema", "a.SafeTensors"])
def test_an_ending_that_promises_nothing_is_safetensors(path, tmp_path, told, name):
    polyak.save(trained(), path)
    told("export", path, "ema_0.9", tmp_path / name)
    assert safetensors.torch.load_file(tmp_path / name).keys() == network().state_dict().keys()
