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


class TestReadOnly:
    """A complete cache is used as it is: on another machine, by another path, with a noise file."""

    @pytest.fixture
    def locked(self, monkeypatch):
        """Call it: from then on, every write into the cache fails as on a read-only disk."""

        def lock():
            def refuse(*_, **__):
                raise OSError(30, "Read-only file system")

            for name in ("write_json", "replacing", "entries.write"):
                monkeypatch.setattr(f"polyak.data.cache.{name}", refuse)

        return lock

    def test_data_at_another_path_and_after_touch(self, config, idx_folder, locked):
        first = prepare(config)
        locked()
        (idx_folder / "t10k-labels-idx1-ubyte").touch()
        assert prepare(config) == first
        moved = idx_folder.rename(idx_folder.with_name("moved"))
        assert prepare(DataConfig(source=str(moved))).fingerprint == first.fingerprint

    def test_a_file_of_labels(self, config, tmp_path, write_cifar_n, locked):
        path = tmp_path / "human.pt"
        write_cifar_n(path, clean_label=TRAIN_LABELS, worse_label=(TRAIN_LABELS + 1) % 3)
        noise = NoiseConfig(kind="file", file=str(path), key="worse_label")
        first = prepare(replace(config, noise=noise))
        locked()
        assert prepare(replace(config, noise=noise)) == first

    def test_what_is_not_in_it_fails_as_before(self, config, locked):
        locked()
        with pytest.raises(OSError, match="Read-only"):
            prepare(config)


class TestSharedImages:
    def folder(self, tmp_path, pixels, write_image, shared: int, n: int = 10):
        for split in ("train", "test"):
            for i in range(n):
                seed = i if split == "train" or i < shared else 100 + i
                name = f"{split}/{'ab'[i % 2]}/{i}.png"
                write_image(tmp_path / name, pixels(4, 4, 3, seed=seed))
        return DataConfig(source=str(tmp_path))

    def test_test_images_that_are_training_images_are_warned_of_each_time(
        self, tmp_path, pixels, write_image
    ):
        config = self.folder(tmp_path, pixels, write_image, shared=3)
        for _ in range(2):
            with pytest.warns(RuntimeWarning, match="3 of the 10 test images .* training images"):
                prepared = prepare(config)
        assert load(prepared).shared_images == 3

    def test_none_is_no_warning(self, tmp_path, pixels, write_image):
        assert load(prepare(self.folder(tmp_path, pixels, write_image, shared=0))).notes == ()

    def test_one_among_thousands_is_said_and_not_warned_of(self, tmp_path, image_set):
        train, test = image_set(2000, side=3), image_set(1001, side=3, seed=1)
        test.images_nchw[7] = train.images_nchw[11]
        torch.save({"train": train.images_nchw, "test": test.images_nchw}, tmp_path / "images.pt")
        (tmp_path / "mine.py").write_text(
            "import torch\nfrom polyak.data import ImageSet\n"
            f"images = torch.load({str(tmp_path / 'images.pt')!r})\n"
            "def some(part):\n"
            "    labels = torch.arange(len(images[part])) % 2\n"
            "    return ImageSet(images_nchw=images[part], labels_n=labels, classes=('a', 'b'))\n"
            "def load():\n    return some('train'), some('test')\n"
        )
        assert load(prepare(DataConfig(source=f"{tmp_path}/mine.py:load"))).shared_images == 1


def test_a_run_of_before_goes_on_with_its_drawn_holdout(class_folder, pixels, write_image):
    """Earlier versions did not read a validation split beside a test split."""
    earlier = prepare(DataConfig(source=str(class_folder)))
    for i, name in enumerate(("cat", "dog") * 2):
        write_image(class_folder / "val" / name / f"{i}.png", pixels(6, 7, 3, seed=200 + i))
    ours = prepare(DataConfig(source=str(class_folder)))
    assert load(ours).holdout_images == 4
    shutil.rmtree(cache_root())
    again = prepare(earlier)
    assert again == earlier
    assert load(again).holdout_images == 0
    assert len(load(again).train) == 6
