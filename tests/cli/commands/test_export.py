"""polyak export RUN ARM OUT: a run's network for other tools. Of a file: see test_inspect.py."""

import json

import pytest
import safetensors.torch
import torch

import polyak
from polyak import runs


def test_an_arm_of_a_run_is_exported_with_a_card(noisy_search, tmp_path, told):
    out = tmp_path / "new" / "model.safetensors"
    said = told("export", noisy_search.path, "ema_acc_bn", out)
    assert f"ema_acc_bn of {noisy_search.path} -> {out}" in said
    assert f"card: {out}.json" in said
    run = runs.load(noisy_search.path)
    expected = run.network("ema_acc_bn").state_dict()
    found = safetensors.torch.load_file(out)
    assert all(torch.equal(found[key], x) for key, x in expected.items())
    card = json.loads((tmp_path / "new" / "model.safetensors.json").read_text())
    assert (card["run"], card["studies"]) == (run.id, ["small"])
    assert "ema_acc_bn: averaged" in told("inspect", out)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, in what it loads
def test_a_program_is_written_by_the_ending(noisy_search, tmp_path, told):
    told("export", noisy_search.path, "sgd", tmp_path / "model.pt2")
    run = runs.load(noisy_search.path)
    images = run.normalisation(run.data.test_images_nchw)
    logits = torch.export.load(tmp_path / "model.pt2").module()(images)
    assert torch.allclose(logits, run.logits("sgd"), atol=1e-5)


def test_a_run_is_found_by_its_id_in_out(noisy_out, noisy_search, tmp_path, told, monkeypatch):
    (tmp_path / "out").symlink_to(noisy_out)
    monkeypatch.chdir(tmp_path)
    told("export", noisy_search.path.name, "sgd", "model.safetensors")
    assert (tmp_path / "model.safetensors.json").is_file()


def test_endings_and_arms_that_there_are_not_are_refused(noisy_search, tmp_path, refused):
    run = noisy_search.path
    for name in ("model", "model.pt", "model.bin"):
        said = refused("export", run, "sgd", tmp_path / name)
        assert "one of .safetensors, .pt2, .onnx" in said
    said = refused("export", run, "ema_ac", tmp_path / "model.safetensors")
    assert "Did you mean 'ema_acc'" in said
    assert "a folder; expected a file" in refused("export", run, "sgd", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_has_not_ended_has_nothing_to_export(tmp_path, refused):
    begun = tmp_path / "0123456789ab"
    begun.mkdir()
    (begun / "config.json").write_text('{"kind": "train"}')
    assert "not finished" in refused("export", begun, "sgd", tmp_path / "m.safetensors")


def test_a_models_folder_is_no_run_though_it_has_a_config(tmp_path, told):
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    safetensors.torch.save_file({"w": torch.ones(2)}, folder / "model.safetensors")
    told("export", folder, "weights", tmp_path / "plain.safetensors")
    assert not (tmp_path / "plain.safetensors.json").exists()


def test_an_average_is_written_as_another_tools_file_and_said_how_it_is_loaded(
    tmp_path, told, refused
):
    model = torch.nn.Linear(2, 1)
    averager = polyak.Averager(model, 0.9)
    averager.update()
    polyak.save(averager, tmp_path / "averages.safetensors")
    source = (tmp_path / "averages.safetensors", "ema_0.9")
    said = told("export", *source, tmp_path / "ema.pt", "--as", "torch-ema")
    assert "ExponentialMovingAverage(model.parameters(), decay=0.9)" in said
    assert "2 parameters" in said
    found = torch.load(tmp_path / "ema.pt", weights_only=True)
    assert (found["decay"], found["num_updates"]) == (0.9, 0)
    assert "torch-ema" in told("inspect", tmp_path / "ema.pt")
    said = refused("export", *source, tmp_path / "ema.pt", "--as", "tensorflow")
    assert "as is 'tensorflow'; expected one of torch, timm" in said
    said = refused("export", *source, tmp_path / "ema.safetensors", "--as", "torch")
    assert "expected .pt or .pth" in said


def test_a_run_is_no_file_of_averages_for_other_tools(noisy_search, tmp_path, refused):
    said = refused("export", noisy_search.path, "sgd", tmp_path / "a.pt", "--as", "torch")
    assert "expected a file of averages for --as" in said
