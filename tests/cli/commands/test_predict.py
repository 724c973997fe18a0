"""polyak predict: a run's network on pictures of the user."""

import csv
import io
import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from polyak import runs
from polyak.cli.main import main


@pytest.fixture
def run(noisy_search):
    return runs.load(noisy_search.path)


@pytest.fixture
def pictures(run, tmp_path):
    """The run's test images as PNG, by their number."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, image_chw in enumerate(run.data.test_images_nchw):
        Image.fromarray(image_chw[0].numpy()).save(folder / f"{number:03}.png")
    return folder


def table(text):
    return list(csv.DictReader(io.StringIO(text)))


def probabilities(rows, classes):
    return torch.tensor([[float(row[f"p_{name}"]) for name in classes] for row in rows])


@pytest.mark.parametrize("arm", ["ema_acc_bn", "sgd", "ema_loss"])
def test_the_test_images_as_png_get_the_runs_own_logits(run, pictures, told, arm):
    rows = table(told("predict", run.path, pictures, "--arm", arm))
    assert [row["path"] for row in rows] == [str(path) for path in sorted(pictures.iterdir())]
    expected = run.logits(arm).softmax(dim=1)
    found = probabilities(rows, run.classes)
    assert torch.allclose(found, expected, atol=1e-6)
    assert [row["class"] for row in rows] == [run.classes[k] for k in expected.argmax(dim=1)]


def test_no_temperature_is_applied(run, pictures, told):
    rows = table(told("predict", run.path, pictures, "--arm", "ema_acc"))
    found = probabilities(rows, run.classes).double().log()
    logits = run.logits("ema_acc").double()
    # Differences of logarithms are differences of logits.
    assert torch.allclose(found - found[:, :1], logits - logits[:, :1], atol=1e-4)


def test_the_usual_arm_is_the_papers(run, pictures, told):
    usual = told("predict", run.path, pictures)
    assert usual == told("predict", run.path, pictures, "--arm", "ema_acc_bn")


def test_a_run_is_found_by_its_id_in_out(run, pictures, told, monkeypatch, noisy_out, tmp_path):
    (tmp_path / "out").symlink_to(noisy_out)
    monkeypatch.chdir(tmp_path)
    assert told("predict", run.id, pictures) == told("predict", run.path, pictures)


def test_a_file_is_written_and_said(run, pictures, told, tmp_path):
    text = told("predict", run.path, pictures)
    path = tmp_path / "new" / "said.csv"
    assert f"60 images by ema_acc_bn -> {path}" in told(
        "predict", run.path, pictures, "--out", path
    )
    assert path.read_text() == text


def test_json_has_the_same_numbers_and_may_go_with_a_file(run, pictures, told, tmp_path):
    path = tmp_path / "said.csv"
    found = json.loads(told("predict", run.path, pictures, "--json", "--out", path))
    assert found["out"] == str(path)
    rows = table(path.read_text())
    assert [image["path"] for image in found["images"]] == [row["path"] for row in rows]
    for image, row in zip(found["images"], rows, strict=True):
        assert image["class"] == row["class"]
        expected = [float(row[f"p_{name}"]) for name in found["classes"]]
        assert image["probabilities"] == pytest.approx(expected, rel=1e-8)


def test_more_pictures_than_a_chunk_make_no_difference(run, pictures, told, monkeypatch):
    whole = probabilities(table(told("predict", run.path, pictures)), run.classes)
    monkeypatch.setattr("polyak.cli.commands.predict.CHUNK", 7)
    parts = probabilities(table(told("predict", run.path, pictures)), run.classes)
    assert torch.allclose(whole, parts, atol=1e-6)


def test_damaged_pictures_are_named_and_nothing_is_written(run, pictures, refused, tmp_path):
    for name in ("001.png", "017.png"):
        (pictures / name).write_bytes(b"\x89PNG half")
    said = refused("predict", run.path, pictures, "--out", tmp_path / "said.csv")
    assert "001.png' cannot be decoded" in said
    assert "Nor can be used: " in said
    assert "017.png'" in said
    assert not (tmp_path / "said.csv").exists()


def test_another_size_needs_resize(run, tmp_path, refused, capsys):
    path = tmp_path / "big.jpg"
    Image.effect_noise((40, 24), 60).convert("RGB").save(path)
    assert "big.jpg' is 40×24; expected 8×8" in refused("predict", run.path, path)
    ways = []
    for how in ("squash", "shorter-side-crop"):
        assert main(["predict", str(run.path), str(path), "--resize", how]) == 0
        said = capsys.readouterr()
        assert said.err.startswith("note: ")
        assert f"resized to 8×8 ({how})" in said.err
        ways.append(said.out)
    assert ways[0] != ways[1]


def test_a_run_whose_images_were_resized_resizes_as_they_were(run, tmp_path, monkeypatch, capsys):
    path = tmp_path / "big.png"
    Image.effect_noise((40, 24), 60).save(path)
    said = []
    data = replace(run.config.data, resize=8, resize_how="squash")
    resized = replace(run, config=replace(run.config, data=data))
    for loaded, words in ((run, ["--resize", "squash"]), (resized, [])):
        monkeypatch.setattr("polyak.cli.commands.predict.load", lambda path, run=loaded: run)
        assert main(["predict", str(run.path), str(path), *words]) == 0
        said.append(capsys.readouterr().out)
    assert said[0].splitlines()[1] == said[1].splitlines()[1]


def test_what_cannot_be_asked_is_refused(run, pictures, noisy_out, refused, tmp_path):
    assert "Did you mean 'ema_acc'" in refused("predict", run.path, pictures, "--arm", "ema_ac")
    assert "image is 'absent'" in refused("predict", run.path, "absent")
    assert "a folder; expected a file" in refused("predict", run.path, pictures, "--out", tmp_path)
    said = refused("predict", noisy_out / "small", pictures)
    assert f"{noisy_out}/runs/" in said
    assert f"polyak status '{noisy_out / 'small'}'" in said


def test_its_help_says_that_there_is_no_temperature(capsys):
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    assert "without a temperature" in " ".join(capsys.readouterr().out.split())
