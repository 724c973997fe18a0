import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.decoded import decoded

import polyak.data.formats.tables as tables
from polyak.data.formats.columns import find_columns
from polyak.data.formats.found import Wanted
from polyak.errors import DataError

datasets = pytest.importorskip("datasets")
huggingface_hub = pytest.importorskip("huggingface_hub")
CLASSES = datasets.ClassLabel(names=["a", "b"])
IMAGE = datasets.Image()
INTEGER = datasets.Value("int64")
NONE = (None, None)


def stored(folder: Path, images, labels, names=("a", "b"), write=None):
    """The same rows as training and test files."""
    for split in ("train", "test"):
        write(folder / f"{split}.parquet", images, {"label": list(names)}, label=labels)
    return folder


@pytest.fixture(autouse=True)
def quiet():
    """`datasets` shows progress while fixtures write; ours must switch it off for itself."""
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def test_cifar100_is_read_with_its_fine_labels(cifar100_folder, pixels):
    train, test = decoded(cifar100_folder)
    assert train.classes == ("apple", "bear", "worm")
    assert train.labels_n.tolist() == [i % 3 for i in range(9)]
    assert np.array_equal(train.images_nchw.numpy(), pixels(9, 8, 8, 3).transpose(0, 3, 1, 2))
    assert np.array_equal(
        test.images_nchw.numpy(), pixels(6, 8, 8, 3, seed=1).transpose(0, 3, 1, 2)
    )


def test_a_named_column_wins(cifar100_folder):
    train, _ = decoded(cifar100_folder, ("img", "coarse_label"))
    assert train.classes == ("animal", "fruit")
    assert train.labels_n.tolist() == [1, 0, 0] * 3


def test_class_folders_are_read_with_brackets_in_their_path(class_folder, pixels):
    train, test = decoded(class_folder)
    assert train.classes == test.classes == ("cat", "dog")
    assert train.labels_n.tolist() == [0, 0, 0, 1, 1, 1]
    assert np.array_equal(train.images_nchw[4].numpy(), pixels(6, 7, 3, seed=11).transpose(2, 0, 1))
    assert len(test) == 4


@pytest.mark.parametrize(
    ("features", "columns", "expected"),
    [
        ({"img": IMAGE, "label": CLASSES}, NONE, ("img", "label")),
        ({"img": IMAGE, "id": INTEGER, "label": CLASSES}, NONE, ("img", "label")),
        ({"img": IMAGE, "digit": INTEGER}, NONE, ("img", "digit")),
        ({"img": IMAGE, "coarse_label": CLASSES, "fine_label": CLASSES}, NONE,
         ("img", "fine_label")),
        ({"img": IMAGE, "id": INTEGER, "label": CLASSES}, (None, "id"), ("img", "id")),
        ({"a": IMAGE, "b": IMAGE, "label": CLASSES}, ("b", None), ("b", "label")),
        ({"raw": datasets.Value("binary"), "label": CLASSES}, NONE, ("raw", "label")),
    ],
)  # fmt: skip
def test_columns_are_found_by_type_or_named(features, columns, expected):
    assert find_columns(features, columns) == expected


@pytest.mark.parametrize(
    ("features", "columns", "phrase"),
    [
        ({"a": IMAGE, "b": IMAGE, "label": CLASSES}, NONE, "image_column is None and 2 .* a, b"),
        ({"img": IMAGE, "x": CLASSES, "y": CLASSES}, NONE, "label_column is None and 2 .* x, y"),
        ({"img": IMAGE, "x": INTEGER, "y": INTEGER}, NONE, "label_column is None and 2 .* x, y"),
        ({"img": IMAGE}, NONE, "label_column is None and 0 columns"),
        ({"img": IMAGE, "label": CLASSES}, ("imgs", None), "'imgs'; .* Did you mean 'img'"),
        ({"img": IMAGE, "label": CLASSES}, (None, "img"), "label_column is 'img'.* label"),
    ],
)
def test_columns_that_cannot_be_told_are_listed(features, columns, phrase):
    with pytest.raises(DataError, match=phrase):
        find_columns(features, columns)


@pytest.mark.parametrize("bare", [True, False])
def test_tables_of_other_writers_are_read(tmp_path, pixels, bare):
    """Encoded images as bytes, or as {bytes, path}, without the hub's own description."""
    import pyarrow
    import pyarrow.parquet as parquet
    from PIL import Image

    encoded = []
    for image in pixels(2, 4, 5, 3):
        Image.fromarray(image).save(buffer := io.BytesIO(), "PNG")
        encoded.append(buffer.getvalue() if bare else {"bytes": buffer.getvalue(), "path": "x"})
    for split in ("train", "test"):
        table = pyarrow.table({"picture": encoded, "digit": [0, 1]})
        parquet.write_table(table, tmp_path / f"{split}.parquet")
    train, _ = decoded(tmp_path)
    assert np.array_equal(train.images_nchw.numpy(), pixels(2, 4, 5, 3).transpose(0, 3, 1, 2))


def test_integers_become_classes_in_their_order(tmp_path, pixels, write_parquet):
    files = stored(tmp_path, list(pixels(4, 3, 3)), [7, 5, 5, 9], names=(), write=write_parquet)
    train, _ = decoded(files)
    assert train.classes == ("5", "7", "9")
    assert train.labels_n.tolist() == [1, 0, 0, 2]


def test_integers_that_only_test_has_are_refused(tmp_path, pixels, write_parquet):
    write_parquet(tmp_path / "train.parquet", list(pixels(2, 3, 3)), {}, label=[0, 1])
    write_parquet(tmp_path / "test.parquet", list(pixels(2, 3, 3)), {}, label=[0, 2])
    with pytest.raises(DataError, match="test holds 2, which no row of train has"):
        decoded(tmp_path)


def test_text_becomes_classes_if_it_is_named(tmp_path, pixels, write_parquet):
    for split in ("train", "test"):
        path = tmp_path / f"{split}.parquet"
        write_parquet(path, list(pixels(3, 3, 3)), {}, label=["dog", "ant", "dog"])
    files = tmp_path
    with pytest.raises(DataError, match="0 columns can be it; expected one of label\\. Name it"):
        decoded(files)
    train, test = decoded(files, (None, "label"))
    assert train.classes == test.classes == ("ant", "dog")
    assert train.labels_n.tolist() == test.labels_n.tolist() == [1, 0, 1]


def test_text_with_gaps_is_refused(tmp_path, pixels, write_parquet):
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", list(pixels(2, 3, 3)), {}, label=["dog", None])
    with pytest.raises(DataError, match="'label' has rows without a label"):
        decoded(tmp_path, (None, "label"))


def test_rows_without_a_label_are_refused(tmp_path, pixels, write_parquet):
    files = stored(tmp_path, list(pixels(2, 3, 3)), [0, None], names=(), write=write_parquet)
    with pytest.raises(DataError, match="'label' has rows without a label"):
        decoded(files)


def test_grey_images_keep_one_channel_and_mixed_ones_become_rgb(tmp_path, pixels, write_parquet):
    grey = list(pixels(2, 3, 3))
    files = stored(tmp_path / "grey", grey, [0, 1], write=write_parquet)
    train, _ = decoded(files)
    assert np.array_equal(train.images_nchw.numpy(), np.stack(grey)[:, None])

    mixed = [grey[0], pixels(3, 3, 3), grey[1]]
    files = stored(tmp_path / "mixed", mixed, [0, 1, 0], write=write_parquet)
    train, _ = decoded(files)
    assert torch.equal(train.images_nchw[0, 0], train.images_nchw[0, 2])
    assert np.array_equal(train.images_nchw[0, 1].numpy(), grey[0])
    assert train.images_nchw.shape == (3, 3, 3, 3)


def test_images_of_several_sizes_are_refused_with_the_sizes(tmp_path, pixels, write_parquet):
    images = [pixels(3, 3), pixels(3, 5), pixels(3, 5)]
    files = stored(tmp_path, images, [0, 1, 1], write=write_parquet)
    with pytest.raises(
        DataError, match=r"2 sizes, 5×3 \(4 times, .*\), 3×3 \(2 times, such as .*row 0 of"
    ):
        decoded(files)


def test_images_of_16_bits_are_refused(tmp_path, write_parquet):
    deep = [np.full((3, 3), 40_000, np.uint16)] * 2
    files = stored(tmp_path, deep, [0, 1], write=write_parquet)
    with pytest.raises(
        DataError,
        match=r"train image 0 \(row 0 of '.*train\.parquet'.* has mode I;16; expected 8 bits",
    ):
        decoded(files)


def test_a_damaged_image_is_named_by_its_place(class_folder):
    (class_folder / "train" / "dog" / "0.png").write_bytes(b"no image")
    with pytest.raises(
        DataError, match=r"train image 3 \('.*/train/dog/0\.png'\) cannot be decoded"
    ):
        decoded(class_folder)


def test_a_truncated_parquet_file_is_refused(cifar100_folder):
    path = cifar100_folder / "cifar100" / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="the parquet source cannot be read"):
        decoded(cifar100_folder)


def test_reading_is_silent_and_leaves_progress_bars_as_they_were(cifar100_folder, capfd):
    datasets.enable_progress_bars()
    decoded(cifar100_folder)
    assert capfd.readouterr() == ("", "")
    assert datasets.is_progress_bar_enabled()
    assert not huggingface_hub.utils.are_progress_bars_disabled()


def test_a_data_set_of_the_hub_is_read_by_its_splits(monkeypatch, cifar100_folder):
    """Validation is the test set where there is no other, as for Tiny-ImageNet."""
    home = cifar100_folder / "cifar100"
    files = {split: str(home / f"{split}-00000-of-00001.parquet") for split in ("train", "test")}
    local = datasets.load_dataset(
        "parquet", data_files=files, cache_dir=str(cifar100_folder / "cache")
    )
    asked = []

    def load_dataset(name):
        asked.append(name)
        return datasets.DatasetDict({"train": local["train"], "valid": local["test"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    read = tables.read_hub("owner/name", Wanted()).splits
    assert {role: len(split) for role, split in read.items()} == {"train": 9, "test": 6}
    identity = tables.hub_identity("owner/name", Wanted())
    assert identity == tables.hub_identity("owner/name", Wanted()) != ""
    assert set(asked) == {"owner/name"}


def test_a_validation_split_of_the_hub_is_the_holdout_and_part_of_its_identity(monkeypatch):
    rows = {"label": [0, 1], "image": [b"x", b"y"]}
    splits = {name: datasets.Dataset.from_dict(rows) for name in ("train", "validation", "test")}
    monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict(splits))
    assert list(tables.read_hub("owner/name", Wanted()).splits) == ["train", "test", "holdout"]
    ignoring = Wanted(validation=False)
    read = tables.read_hub("owner/name", ignoring)
    assert list(read.splits) == ["train", "test"]
    assert read.notes == ["left out: split 'validation'"]
    # As earlier versions, which did not read it, named it.
    earlier = f"{splits['train']._fingerprint} {splits['test']._fingerprint}"
    assert tables.hub_identity("owner/name", ignoring) == earlier
    assert tables.hub_identity("owner/name", Wanted()).startswith(f"{earlier} ")


def test_a_hub_data_set_without_test_images_is_refused(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda name: {"train": [], "extra": []})
    with pytest.raises(DataError, match=r"splits train, extra; expected train and one of test"):
        tables.read_hub("owner/name", Wanted())


def test_an_unreachable_hub_is_an_error_that_says_so(monkeypatch):
    def load_dataset(name):
        raise ConnectionError("Couldn't reach 'owner/name' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"owner/name cannot be read \(Couldn't reach .* network"):
        tables.read_hub("owner/name", Wanted())


def test_a_missing_library_is_an_error_that_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"Install `polyak\[study\]`"):
        tables.read_hub("owner/name", Wanted())


def test_real_cifar10_rows_are_read(real_data, tmp_path):
    """A few hundred rows of the real files, so that the ordinary run stays short."""
    import pyarrow
    import pyarrow.parquet as parquet

    for split in ("train", "test"):
        whole = parquet.ParquetFile(real_data / "cifar10-jpeg" / f"{split}-00000-of-00001.parquet")
        rows = next(whole.iter_batches(batch_size=300))
        part = pyarrow.Table.from_batches([rows], schema=whole.schema_arrow)
        parquet.write_table(part, tmp_path / f"{split}-00000-of-00001.parquet")
    train, test = decoded(tmp_path)
    assert train.images_nchw.shape == test.images_nchw.shape == (300, 3, 32, 32)
    assert train.classes[6] == "frog"
    # The first labels of CIFAR-10's first training batch and of its test batch.
    assert train.labels_n[:5].tolist() == [6, 9, 9, 4, 1]
    assert test.labels_n[:5].tolist() == [3, 8, 8, 0, 6]
    assert 0.3 < train.images_nchw.double().mean().item() / 255 < 0.6


@pytest.mark.slow
def test_the_whole_of_real_cifar10_is_balanced(real_data):
    train, test = decoded(real_data / "cifar10-jpeg")
    assert train.labels_n.bincount().tolist() == [5000] * 10
    assert test.labels_n.bincount().tolist() == [1000] * 10
    # The field's means, which JPEG hardly moves.
    means = train.images_nchw.float().mean((0, 2, 3)) / 255
    torch.testing.assert_close(means, torch.tensor([0.4914, 0.4822, 0.4465]), rtol=0, atol=3e-3)
