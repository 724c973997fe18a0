import os

import numpy as np
import pytest
import torch

from polyak.data.formats.cifar_n import read_cifar_n
from polyak.errors import DataError, FileError

CLEAN = np.arange(20) % 4
WORSE = (CLEAN + (np.arange(20) < 8)) % 4
CLEAN_N = torch.from_numpy(CLEAN)


@pytest.fixture
def file(tmp_path, write_cifar_n):
    path = tmp_path / "human.pt"
    coarse = [int(c) // 2 for c in CLEAN]
    write_cifar_n(path, clean_label=CLEAN, worse_label=WORSE, coarse_label=coarse)
    return path


def test_labels_of_the_key_are_read(file):
    given_n = read_cifar_n(file, "worse_label", CLEAN_N)
    assert given_n.dtype == torch.int64
    assert given_n.tolist() == WORSE.tolist()


def test_an_unknown_key_lists_those_in_the_file(file):
    with pytest.raises(DataError, match=r"clean_label, coarse_label, worse_label.*'worse_label'\?"):
        read_cifar_n(file, "worst_label", CLEAN_N)


def test_labels_of_other_classes_are_refused(file):
    with pytest.raises(DataError, match="20 labels of 2 classes"):
        read_cifar_n(file, "coarse_label", CLEAN_N)


def test_another_order_of_the_images_is_refused_with_its_first_place(file):
    swapped = CLEAN_N.clone()
    swapped[[5, 6]] = swapped[[6, 5]]
    with pytest.raises(DataError, match=r"differs .* at 2 of 20 images, first at 5"):
        read_cifar_n(file, "worse_label", swapped)


def test_another_number_of_images_is_refused(file):
    with pytest.raises(DataError, match="has 20 labels; expected 8"):
        read_cifar_n(file, "worse_label", CLEAN_N[:8])


class Payload:
    """What a malicious file would run."""

    def __reduce__(self):
        return os.mkdir, (os.environ["POLYAK_TEST_PAYLOAD"],)


def test_no_code_in_the_file_is_run(tmp_path, monkeypatch):
    monkeypatch.setenv("POLYAK_TEST_PAYLOAD", str(tmp_path / "ran"))
    torch.save({"clean_label": CLEAN, "worse_label": Payload()}, tmp_path / "bad.pt")
    with pytest.raises(FileError, match="cannot be read as a CIFAR-N file"):
        read_cifar_n(tmp_path / "bad.pt", "worse_label", CLEAN_N)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("size", [0, 10, 300])
def test_a_truncated_file_is_refused_by_name(file, size):
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(FileError, match=r"human\.pt"):
        read_cifar_n(file, "worse_label", CLEAN_N)


def test_files_of_another_kind_are_refused(tmp_path):
    torch.save({"weights": torch.ones(2)}, tmp_path / "model.pt")
    with pytest.raises(FileError, match="has no clean_label"):
        read_cifar_n(tmp_path / "model.pt", "worse_label", CLEAN_N)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(FileError, match=r"list\.pt"):
        read_cifar_n(tmp_path / "list.pt", "worse_label", CLEAN_N)
    with pytest.raises(FileError, match="expected a file there"):
        read_cifar_n(tmp_path / "nowhere.pt", "worse_label", CLEAN_N)


@pytest.mark.parametrize(
    ("name", "key", "classes", "rate"),
    [
        ("CIFAR-10_human.pt", "worse_label", 10, 0.4021),
        ("CIFAR-100_human.pt", "noisy_label", 100, 0.4020),
    ],
)
def test_the_authors_files_have_their_published_noise(real_data, name, key, classes, rate):
    clean_n = read_cifar_n(
        real_data / "cifar-n" / name, "clean_label", _clean(real_data / "cifar-n" / name)
    )
    given_n = read_cifar_n(real_data / "cifar-n" / name, key, clean_n)
    assert len(clean_n.unique()) == classes
    assert (given_n != clean_n).double().mean().item() == pytest.approx(rate, abs=5e-5)


def _clean(path):
    from polyak.data.formats.cifar_n import _read_arrays

    return torch.from_numpy(_read_arrays(path)["clean_label"])
