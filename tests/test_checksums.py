"""Checksums: of files as any tool makes them, of tensors over all that makes them differ."""

import hashlib

import pytest
import torch

from polyak import checksums


def test_a_files_checksum_is_that_of_other_tools(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"weights")
    assert checksums.of_file(path) == hashlib.sha256(b"weights").hexdigest()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6, dtype=torch.float32).reshape(2, 3),
        torch.arange(6, dtype=torch.int32).reshape(3, 2).t(),
        torch.tensor(2.5),
        torch.zeros(0, 4),
        torch.randn(3, requires_grad=True),
    ],
    ids=["matrix", "transposed", "number", "empty", "parameter"],
)
def test_a_tensors_checksum_covers_dtype_shape_and_bytes(tensor):
    values = tensor.detach().contiguous()
    described = f"{values.dtype} {list(values.shape)} ".encode() + values.numpy().tobytes()
    assert checksums.of_tensor(tensor) == hashlib.sha256(described).hexdigest()


def test_equal_bytes_of_another_dtype_or_shape_are_another_tensor():
    x = torch.zeros(2, 3)
    others = [x.view(torch.int32), x.reshape(3, 2), x.reshape(6)]
    assert len({checksums.of_tensor(each) for each in (x, *others)}) == 4


@pytest.mark.parametrize("threads", [1, 2])
def test_checksums_of_many_in_threads_are_those_of_each(threads):
    tensors = {f"x{i}": torch.randn(i, 100) for i in range(9)}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = checksums.of_tensors(tensors)
    finally:
        torch.set_num_threads(before)
    assert found == {name: checksums.of_tensor(x) for name, x in tensors.items()}
    assert list(found) == list(tensors)
    assert checksums.of_tensors({}) == {}
