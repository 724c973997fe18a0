"""Text as a data set: cut by file, seeded, known by its content; positions are samples."""

import random
import shutil
from dataclasses import replace

import pytest
import torch
from support.texts import write_texts

from polyak.data import DataConfig, NoiseConfig, load, partition, prepare
from polyak.data.device_images import DeviceImages
from polyak.data.text.windows import draw_files
from polyak.errors import DataError


@pytest.fixture
def folder(tmp_path):
    return write_texts(tmp_path / "texts")


@pytest.fixture
def config(folder):
    return DataConfig(source=f"text:{folder}", context=16)


def parts(config, *, holdout=True):
    """The prepared configuration, and its partition."""
    config = prepare(config)
    return config, partition(load(config), config, holdout=holdout)


def text_of(windows_nchw):
    return bytes(windows_nchw.flatten().tolist()).decode()


def test_a_label_is_the_next_byte_at_every_position(config, folder):
    _, found = parts(config)
    assert found.positions == 16
    assert len(found.classes) == 256
    whole = {path.name: path.read_text() for path in folder.rglob("*.txt")}
    everything = (
        (found.train_images_nchw, found.train_given_n, found.train_clean_n),
        (found.holdout_images_nchw, found.holdout_given_n, found.holdout_clean_n),
        (found.test_images_nchw, found.test_labels_n, found.test_labels_n),
    )
    for windows, given, clean in everything:
        assert windows.dtype == torch.uint8
        assert windows.shape[1:] == (1, 16, 1)
        assert torch.equal(given, clean)
        for window, after in zip(windows, given.view(-1, 16), strict=True):
            text = text_of(window)
            assert text_of(after) == text[1:] + text_of(after[-1:])
            assert any(text + text_of(after[-1:]) in content for content in whole.values())


def files_of(config, found):
    """Of train, hold-out and test the files that windows are from."""
    data = load(config)
    held = found.holdout_index_n if found.holdout_index_n is not None else torch.tensor([]).long()
    return (
        set(data.train.labels_n[found.train_index_n].tolist()),
        set(data.train.labels_n[held].tolist()),
        set(data.test.labels_n.tolist()),
    )


def test_train_hold_out_and_test_share_no_file(config):
    prepared, found = parts(config)
    train, held, test = files_of(prepared, found)
    assert all((train, held, test))
    assert not any((train & held, train & test, held & test))
    sizes = [len(x) for x in (found.train_images_nchw, found.holdout_images_nchw)]
    assert sizes[1] <= 0.2 * sum(sizes)
    assert len(found.test_images_nchw) <= 0.1 * (sum(sizes) + len(found.test_images_nchw))
    refit = parts(config, holdout=False)[1]
    assert files_of(prepared, refit)[0] == train | held


def test_seeds_decide_the_cuts(config):
    drawn = {}
    for name, changed in {
        "as it is": config,
        "test": replace(config, test_split=0.1, test_split_seed=1),
        "split": replace(config, split_seed=7),
    }.items():
        prepared, found = parts(changed)
        drawn[name] = files_of(prepared, found)
        assert files_of(*parts(changed)) == drawn[name]
    assert drawn["test"][2] != drawn["as it is"][2]
    assert drawn["split"][1] != drawn["as it is"][1]
    assert drawn["split"][2] == drawn["as it is"][2]


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5])
def test_a_share_is_drawn_in_whole_files_and_not_exceeded_unless_one_file_is(share):
    draws = random.Random(1)
    sizes = [draws.randint(1, 40) for _ in range(30)]
    files_n = torch.arange(30).repeat_interleave(torch.tensor(sizes))
    drawn = draw_files(files_n, share=share, generator=torch.Generator().manual_seed(3))
    chosen = set(files_n[drawn].tolist())
    assert all(bool((drawn == (file in chosen))[files_n == file].all()) for file in range(30))
    assert chosen
    largest = max(share * len(files_n), min(sizes))
    assert largest / 2 <= int(drawn.sum()) <= largest


def test_a_fingerprint_is_of_names_and_contents_wherever_they_lie(config, folder, tmp_path):
    fingerprint = prepare(config).fingerprint
    elsewhere = tmp_path / "moved" / "again"
    shutil.copytree(folder, elsewhere)
    assert prepare(replace(config, source=f"text:{elsewhere}")).fingerprint == fingerprint
    assert prepare(replace(config, context=24)).fingerprint != fingerprint
    some = next(elsewhere.rglob("*.txt"))
    some.write_text(some.read_text() + ".")
    changed = replace(config, source=f"text:{elsewhere}")
    assert prepare(changed).fingerprint != fingerprint
    with pytest.raises(DataError, match="It has changed since the configuration was written"):
        prepare(replace(changed, fingerprint="0" * 64))


def test_limits_count_windows_and_read_no_others(config):
    whole, _ = parts(config)
    limited = replace(config, train_limit=60, test_limit=5)
    prepared, found = parts(limited)
    assert len(found.train_images_nchw) + len(found.holdout_images_nchw) <= 60
    assert len(found.test_images_nchw) == 5
    # A hold-out is no larger than the test set.
    assert len(found.holdout_images_nchw) == 5
    refit = parts(limited, holdout=False)[1]
    assert len(refit.train_images_nchw) == 60
    assert whole.fingerprint == prepared.fingerprint


def test_windows_that_limits_keep_are_the_same_from_a_whole_cache(
    config, monkeypatch, tmp_path_factory
):
    limited = replace(config, train_limit=60, test_limit=5)
    monkeypatch.setenv("POLYAK_CACHE", str(tmp_path_factory.mktemp("part")))
    prepared, part = parts(limited)
    assert load(prepared).train.places_n is not None
    monkeypatch.setenv("POLYAK_CACHE", str(tmp_path_factory.mktemp("whole")))
    parts(config)
    _, whole = parts(limited)
    for one, other in (
        (part.train_images_nchw, whole.train_images_nchw),
        (part.train_given_n, whole.train_given_n),
        (part.holdout_given_n, whole.holdout_given_n),
        (part.test_labels_n, whole.test_labels_n),
    ):
        assert torch.equal(one, other)


def test_without_a_limit_twenty_thousand_positions_are_tested_on(tmp_path):
    folder = write_texts(tmp_path / "long", 24, words=20_000)
    _, found = parts(DataConfig(source=f"text:{folder}", context=96))
    for labels_n in (found.test_labels_n, found.holdout_given_n):
        assert 20_000 <= len(labels_n) < 20_000 + 96


def test_too_little_text_is_refused(tmp_path):
    (tmp_path / "short.txt").write_text("x" * 60)
    with pytest.raises(DataError, match="context is 16, and the longest of 1 files has 60 bytes"):
        parts(DataConfig(source=f"text:{tmp_path}", context=16))
    write_texts(tmp_path)
    config = DataConfig(source=f"text:{tmp_path}", context=16, train_limit=1)
    with pytest.raises(DataError, match="0 windows are left to train on and 1 for the hold-out"):
        parts(config)


def test_what_makes_no_sense_for_text_is_refused_all_at_once():
    config = DataConfig(
        source="text:stdlib",
        noise=NoiseConfig(kind="symmetric", rate=0.2),
        crop_padding=2,
        flip=False,
        resize=32,
        image_column="pixels",
        validation="ignore",
    )
    found = "; ".join(config.faults())
    for phrase in (
        "crop_padding is 2; expected 0 for text",
        "noise.kind is 'symmetric'; expected 'none' for text",
        "resize is 32; expected None for text",
        "image_column is 'pixels'; expected None for text",
        "validation is 'ignore'; expected 'holdout' for text",
    ):
        assert phrase in found
    assert DataConfig(context=64).faults() == [
        "context is 64; expected 128 for images, which have no such setting"
    ]
    assert DataConfig(source="text:").faults() == [
        "source is 'text:'; expected text:stdlib, or text: and a path"
    ]
    assert DataConfig(source="text:stdlib", context=0).faults() == [
        "context is 0; expected >= 1 byte"
    ]


def test_crops_and_flips_are_off_by_default():
    text = DataConfig(source="text:stdlib")
    assert (text.crop_padding, text.flip, text.faults()) == (0, False, [])
    assert (DataConfig().crop_padding, DataConfig().flip) == (4, True)


def test_batches_bring_windows_with_the_labels_of_all_their_positions(config):
    _, data = parts(config)
    images = DeviceImages(data, 0, False, torch.device("cpu"))
    order, draws = (torch.Generator().manual_seed(seed) for seed in (0, 1))
    batches = list(images.batches(16, order=order, draws=draws))
    chosen = torch.randperm(
        len(data.train_images_nchw), generator=torch.Generator().manual_seed(0)
    ).split(16)
    for (x_bchw, labels), windows in zip(batches, chosen, strict=True):
        assert torch.equal(x_bchw, data.train_images_nchw[windows].float())
        expected = [data.train_given_n[16 * w : 16 * w + 16] for w in windows.tolist()]
        assert torch.equal(labels, torch.cat(expected))
