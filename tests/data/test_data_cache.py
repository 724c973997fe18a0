import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from polyak.data import DataConfig, NoiseConfig, load, partition, prepare, sources
from polyak.data.cache import cache_root
from polyak.errors import ConfigError, DataError, FileError

TRAIN_LABELS = np.arange(12) % 3  # those of idx_folder


@pytest.fixture
def config(idx_folder):
    return DataConfig(source=str(idx_folder))


@pytest.fixture
def no_decoding(monkeypatch):
    """Call it: from then on, decoding is a failure."""

    def forbid():
        def fail(*_, **__):
            raise AssertionError("decoded again")

        monkeypatch.setattr("polyak.data.sources.decode_reading", fail)

    return forbid


@pytest.fixture
def no_hashing(monkeypatch):
    """Call it: from then on, hashing the source's files is a failure."""

    def forbid():
        def fail(*_, **__):
            raise AssertionError("hashed again")

        monkeypatch.setattr("polyak.data.fingerprints.of_files", fail)

    return forbid


def test_what_is_loaded_is_what_was_decoded(config):
    prepared = prepare(config)
    assert prepared == replace(config, fingerprint=prepared.fingerprint)
    loaded, decoded = load(prepared), sources.decode(config)
    assert (loaded.name, loaded.fingerprint) == (decoded.name, decoded.fingerprint)
    for part in ("train", "test"):
        ours, theirs = getattr(loaded, part), getattr(decoded, part)
        assert torch.equal(ours.images_nchw, theirs.images_nchw)
        assert torch.equal(ours.labels_n, theirs.labels_n)
        assert ours.classes == theirs.classes


def test_an_unchanged_source_is_neither_decoded_nor_hashed_again(config, no_decoding, no_hashing):
    first = prepare(config)
    no_decoding()
    no_hashing()
    assert prepare(config) == first


def test_touched_files_are_hashed_but_not_decoded_again(config, idx_folder, no_decoding):
    first = prepare(config)
    no_decoding()
    path = idx_folder / "t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes())
    assert prepare(config) == first


def test_a_changed_source_is_another_data_set(config, idx_folder, write_idx):
    first = prepare(config)
    write_idx(idx_folder / "t10k-labels-idx1-ubyte", np.array([2, 1, 0, 0, 0, 0], np.uint8))
    second = prepare(config)
    assert second.fingerprint != first.fingerprint
    assert load(first).test.labels_n.tolist() == [0, 1, 2, 0, 1, 2]
    assert load(second).test.labels_n.tolist() == [2, 1, 0, 0, 0, 0]
    shutil.rmtree(cache_root() / "data" / first.fingerprint)
    with pytest.raises(DataError, match="has changed since the configuration was written"):
        prepare(first)


def test_a_prepared_source_may_be_gone(config, idx_folder):
    prepared = prepare(config)
    shutil.rmtree(idx_folder)
    assert prepare(prepared) == prepared
    assert len(load(prepared).train) == 12


def test_the_same_data_elsewhere_is_the_same_data_set(config, idx_folder, no_decoding):
    first = prepare(config)
    moved = idx_folder.rename(idx_folder.with_name("moved"))
    no_decoding()
    assert prepare(DataConfig(source=str(moved))).fingerprint == first.fingerprint


def test_what_is_not_prepared_says_what_to_run(tmp_path):
    config = DataConfig(source=f"{tmp_path}/my data")
    with pytest.raises(DataError, match=r"Run `polyak data prepare --source '.*/my data'`"):
        load(config)
    with pytest.raises(DataError, match="polyak data prepare"):
        load(replace(config, fingerprint="0" * 64))


def test_a_damaged_cache_is_named_by_load_and_repaired_by_prepare(config):
    prepared = prepare(config)
    path = cache_root() / "data" / prepared.fingerprint / "train_images.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        FileError, match=r"train_images\.npy' has a different checksum.*data prepare"
    ):
        load(prepared)
    assert prepare(prepared) == prepared
    assert len(load(prepared).train) == 12


def test_a_damaged_index_is_ignored(config):
    first = prepare(config)
    (path,) = (cache_root() / "index").iterdir()
    for content in ("", "[]", '{"stats": 1}'):
        path.write_text(content)
        assert prepare(config) == first


def test_faults_are_refused_before_the_source_is_looked_at():
    with pytest.raises(ConfigError, match=r"train_limit is 0.*; holdout is 1"):
        prepare(DataConfig(source="/nowhere", train_limit=0, holdout=1))


def test_data_of_a_users_file_is_what_its_arrays_are(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import torch\nfrom polyak.data import ImageSet\n"
        "def some(first):\n"
        "    images = torch.arange(first, first + 16, dtype=torch.uint8).reshape(4, 1, 2, 2)\n"
        "    labels = torch.arange(4) % 2\n"
        "    return ImageSet(images_nchw=images, labels_n=labels, classes=('a', 'b'))\n"
        "def load():\n"
        "    return some(0), some(100)\n"
    )
    prepared = prepare(DataConfig(source=f"{path}:load"))
    assert load(prepared).train.labels_n.tolist() == [0, 1, 0, 1]
    assert load(prepared).name == "mine"
    path.rename(tmp_path / "renamed.py")
    again = prepare(DataConfig(source=f"{tmp_path}/renamed.py:load"))
    assert again.fingerprint == prepared.fingerprint


class TestNoiseFile:
    @pytest.fixture
    def noisy(self, config, tmp_path, write_cifar_n):
        path = tmp_path / "human.pt"
        write_cifar_n(path, clean_label=TRAIN_LABELS, worse_label=(TRAIN_LABELS + 1) % 3)
        return replace(config, noise=NoiseConfig(kind="file", file=str(path), key="worse_label"))

    def test_it_is_kept_in_the_cache(self, noisy):
        prepared = prepare(noisy)
        assert prepared.noise.fingerprint is not None
        Path(noisy.noise.file).unlink()
        assert prepare(prepared) == prepared
        made = partition(load(prepared), prepared, holdout=False)
        assert torch.equal(made.train_given_n, (made.train_clean_n + 1) % 3)

    def test_another_content_is_refused(self, noisy, write_cifar_n):
        prepared = prepare(noisy)
        shutil.rmtree(cache_root() / "labels")
        write_cifar_n(Path(noisy.noise.file), clean_label=TRAIN_LABELS, worse_label=TRAIN_LABELS)
        with pytest.raises(
            DataError, match="has other content than before; expected the fingerprint"
        ):
            prepare(prepared)

    def test_faults_are_found_while_preparing(self, noisy):
        with pytest.raises(DataError, match="Did you mean 'worse_label'"):
            prepare(replace(noisy, noise=replace(noisy.noise, key="worst_label")))
        with pytest.raises(DataError, match="expected a file there"):
            prepare(replace(noisy, noise=replace(noisy.noise, file="/nowhere.pt")))

    def test_a_damaged_copy_gives_way_to_the_file(self, noisy):
        prepared = prepare(noisy)
        (copy,) = (cache_root() / "labels").iterdir()
        copy.write_bytes(b"damaged")
        assert prepare(prepared) == prepared
        assert copy.read_bytes() == Path(noisy.noise.file).read_bytes()


def test_the_cache_lies_where_the_environment_says(monkeypatch, tmp_path):
    assert cache_root(tmp_path / "x") == tmp_path / "x"
    monkeypatch.setenv("POLYAK_CACHE", str(tmp_path / "y"))
    assert cache_root() == tmp_path / "y"
    monkeypatch.delenv("POLYAK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "z"))
    assert cache_root() == tmp_path / "z" / "polyak"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_root() == tmp_path / "home" / ".cache" / "polyak"


def test_training_from_a_cache_imports_neither_datasets_nor_sklearn(config, tmp_path):
    prepared = prepare(config, root=tmp_path / "cache")
    script = f"""
import sys, torch
from polyak.data import *
config = DataConfig(source="gone", holdout=0.4, fingerprint={prepared.fingerprint!r})
config = prepare(config, root={str(tmp_path / "cache")!r})
part = partition(load(config, root={str(tmp_path / "cache")!r}), config, holdout=True)
for batch in epoch_batches(len(part.train_given_n), 4, torch.Generator()):
    augment(part.train_images_nchw[batch], padding=1, flip=True, generator=torch.Generator())
heavy = {{"datasets", "sklearn", "scipy", "PIL", "pyarrow", "pandas"}} & set(sys.modules)
assert not heavy, heavy
"""
    source = str(Path(sources.__file__).parents[2])
    subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        check=True,
        env={"PYTHONPATH": source, "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
    )
