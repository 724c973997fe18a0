import gzip

import numpy as np
import pytest
from support.decoded import decoded

from polyak.data.formats.idx import DEBIAN_FOLDER, idx_files, read_idx
from polyak.errors import DataError, FileError


def test_the_four_files_become_two_sets(idx_folder, pixels):
    train, test = decoded(idx_folder)
    assert np.array_equal(train.images_nchw.numpy(), pixels(12, 5, 5)[:, None])
    assert np.array_equal(test.images_nchw.numpy(), pixels(6, 5, 5, seed=1)[:, None])
    assert test.labels_n.tolist() == [0, 1, 2, 0, 1, 2]
    assert train.classes == test.classes == ("0", "1", "2")


def test_missing_files_are_named_with_debians_package(idx_folder):
    (idx_folder / "train-labels-idx1-ubyte.gz").unlink()
    (idx_folder / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(DataError) as caught:
        idx_files(idx_folder)
    message = str(caught.value)
    assert "lacks train-labels-idx1-ubyte, t10k-images-idx3-ubyte;" in message
    assert "dataset-fashion-mnist" in message


@pytest.mark.parametrize("cut", [3, 7, 40])
def test_a_truncated_file_is_named(idx_folder, cut):
    path = idx_folder / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(FileError, match="t10k-images"):
        read_idx(path)


@pytest.mark.parametrize("keep", [15, 60])
def test_a_truncated_gzip_file_is_named(idx_folder, keep):
    path = idx_folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FileError, match=r"train-images-idx3-ubyte\.gz.* damaged gzip"):
        read_idx(path)


def test_other_types_of_values_are_refused(tmp_path):
    (tmp_path / "floats").write_bytes(b"\0\0\x0d\1" + bytes(8))
    with pytest.raises(FileError, match="expected an IDX file of uint8"):
        read_idx(tmp_path / "floats")


def test_gzip_is_known_by_content_not_by_name(tmp_path, write_idx):
    write_idx(tmp_path / "plain", np.arange(6, dtype=np.uint8))
    (tmp_path / "packed").write_bytes(gzip.compress((tmp_path / "plain").read_bytes()))
    assert read_idx(tmp_path / "packed").tolist() == list(range(6))


def test_debians_fashion_mnist_has_its_published_statistics():
    if not DEBIAN_FOLDER.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    train, test = decoded(DEBIAN_FOLDER)
    assert train.images_nchw.shape == (60_000, 1, 28, 28)
    assert train.classes[9] == "Ankle boot"
    assert train.labels_n.bincount().tolist() == [6000] * 10
    assert test.labels_n.bincount().tolist() == [1000] * 10
    assert train.images_nchw.double().mean().item() / 255 == pytest.approx(0.2860, abs=5e-5)
