"""safetensors' faults are those of any file."""

import errno
import os

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from polyak import tensor_files
from polyak.errors import FileError


def test_tensors_and_metadata_come_back(tmp_path):
    path = tmp_path / "a.safetensors"
    tensor_files.write(path, {"x": torch.arange(3.0)}, {"what": "a test"})
    with tensor_files.opened(path) as file:
        assert torch.equal(file.get_tensor("x"), torch.arange(3.0))
        assert file.metadata() == {"what": "a test"}
    assert os.listdir(tmp_path) == ["a.safetensors"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_refuses_is_an_error_of_the_system_that_names_the_file(
    tmp_path, monkeypatch, number
):
    path = tmp_path / "a.safetensors"
    tensor_files.write(path, {"x": torch.zeros(1)}, {})

    def refuse(*_, **__):
        raise SafetensorError(f"Error while serializing: I/O error: no (os error {number})")

    monkeypatch.setattr(tensor_files, "save_file", refuse)
    with pytest.raises(OSError, match=os.strerror(number)) as raised:
        tensor_files.write(path, {"x": torch.ones(1)}, {})
    assert (raised.value.errno, raised.value.filename) == (number, str(path))
    assert load_file(path)["x"] == 0
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_an_error_that_is_none_of_the_system_stays_what_it_is(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise SafetensorError("invalid dtype")

    monkeypatch.setattr(tensor_files, "save_file", refuse)
    with pytest.raises(SafetensorError, match="invalid dtype"):
        tensor_files.write(tmp_path / "a", {}, {})


@pytest.mark.parametrize("content", [b"", b"x" * 7, b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}trailing"])
def test_a_damaged_file_is_named_with_what_to_do(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with (
        pytest.raises(FileError, match=r"a\.safetensors is damaged .*; expected .*Do that\."),
        tensor_files.opened(path, advice="Do that."),
    ):
        pass


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), RuntimeError("mmap")])
def test_a_disk_that_does_not_answer_is_said_while_a_file_is_read(tmp_path, error):
    path = tmp_path / "a.safetensors"
    tensor_files.write(path, {"x": torch.zeros(1)}, {})
    with (
        pytest.raises(FileError, match=r"a\.safetensors cannot be read .*a disk that answers"),
        tensor_files.opened(path),
    ):
        raise error


def test_a_name_that_no_utf8_can_hold_is_refused_and_shown_as_its_escape(tmp_path):
    """From names of files that are not UTF-8."""
    with pytest.raises(FileError, match=r"caf\\udce9.*Rename it"):
        tensor_files.write(tmp_path / "a", {"caf\udce9": torch.zeros(1)}, {})
    assert os.listdir(tmp_path) == []
