"""Commands on text: what `data prepare` says, what a run on it is evaluated on, what is refused."""

import pytest
from support.texts import text_run, write_texts

from polyak.cli.main import main
from polyak.records.runs import run_folder
from polyak.training.jobs import carry_out


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished run, and that of its text."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYAK_CACHE", str(tmp_path_factory.mktemp("cache")))
        texts = write_texts(tmp_path_factory.mktemp("texts"))
        config = text_run(texts, epochs=2)
        out = tmp_path_factory.mktemp("out")
        carry_out(config, out)
        yield run_folder(out, config.id).path, texts


def test_prepare_says_windows_and_files(run, capsys):
    _, texts = run
    assert main(["data", "prepare", "--source", f"text:{texts}", "--context", "16"]) == 0
    said = capsys.readouterr().out
    assert "windows of 16 bytes, 24 files" in said
    assert "of 24 files are the test set" in said


def test_a_run_is_evaluated_on_other_text_in_windows_of_its_own_length(run, tmp_path, capsys):
    folder, _ = run
    other = write_texts(tmp_path / "other", seed=5)
    assert main(["evaluate", str(folder), "--source", f"text:{other}", "--arms", "sgd"]) == 0
    said = capsys.readouterr().out
    assert "test positions of other-" in said
    assert "SGD" in said


@pytest.mark.parametrize("command", ["predict", "audit"])
def test_what_is_of_pictures_and_their_labels_is_refused_for_text(run, command, tmp_path, capsys):
    folder, _ = run
    (tmp_path / "a.png").write_bytes(b"x")
    pictures = [str(tmp_path / "a.png")] if command == "predict" else []
    assert main([command, str(folder), *pictures]) == 2
    assert "is of text" in capsys.readouterr().err


def test_text_with_a_network_of_images_is_refused_before_anything_is_read(tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["train", "--data", "text:nowhere", "--model", "vit", "--out", out]) == 2
    assert "model.name is 'vit'; expected gpt or file.py:build for text" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
