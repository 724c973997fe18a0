"""Decode a source once, keep it as memory-mapped arrays, and read nothing else from then on.

$POLYAK_CACHE/data/<fingerprint>/      manifest.json and four .npy files
$POLYAK_CACHE/data/<fingerprint>.<train>.<test>/   the same of what limits keep of both parts
$POLYAK_CACHE/labels/<fingerprint>.pt  a copy of a noise file
$POLYAK_CACHE/index/<hash>.json        a source's file times and fingerprint
"""

import hashlib
import json
import os
import shlex
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from polyak import checksums
from polyak.data import entries, fingerprints, sources
from polyak.data.config import (
    EVERYTHING,
    NAMES,
    DataConfig,
    Limits,
    NoiseConfig,
    SourceConfig,
    name_of,
)
from polyak.data.decoding import OnDecoded, images_in_both
from polyak.data.formats.cifar_n import read_cifar_n
from polyak.data.images import DataSet
from polyak.errors import ConfigError, DataError, FileError, warn
from polyak.files import read_json, replacing, write_json

Root = str | os.PathLike[str] | None

_SHARED_SHARE = 0.001
"""Of the test images that are training images too, from which on it is worth a warning."""


def cache_root(root: Root = None) -> Path:
    """The cache's folder: `root`, else $POLYAK_CACHE, else polyak in the user's cache folder."""
    chosen = root or os.environ.get("POLYAK_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "polyak"


Config = TypeVar("Config", bound=SourceConfig)


def prepare(config: Config, *, root: Root = None, on_decoded: OnDecoded | None = None) -> Config:
    """Decode a source into the cache if it is not there yet, and fill in what identifies it.

    With `config.fingerprint` given and in the cache, the source is not looked at, so that a
    machine without it (or without a network) can do this too. A damaged entry is replaced.
    Functions of a user's file, whose inputs nobody knows, are run each time. Where the fingerprint
    is that of the source's files, only those images are decoded that the limits keep.

    Args:
        config: The data; `fingerprint` may be None.
        root: The cache's folder instead of $POLYAK_CACHE.
        on_decoded: Told of progress, where anything is decoded.

    Returns:
        `config` with `fingerprint` and, for a noise file, `noise.fingerprint`.

    Raises:
        ConfigError, DataError, FileError: if settings, source or noise file are at fault.
    """
    found = config.faults()
    if found:
        raise ConfigError.of("data", found)
    folder = cache_root(root)
    wanted = config.fingerprint
    if wanted is None or not entries.find_whole(folder / "data", wanted, config.limits):
        fingerprint = _prepare_source(config, folder, on_decoded)
        if wanted not in (None, fingerprint):
            fingerprint = _prepare_as_earlier(config, folder, on_decoded)
        if wanted not in (None, fingerprint):
            raise DataError(
                f"source {config.source!r} has the fingerprint {fingerprint[:12]}…; expected "
                f"{str(wanted)[:12]}…. It has changed since the configuration was written."
            )
        config = replace(config, fingerprint=fingerprint)
    _warn_of_shared(config, folder)
    if isinstance(config, DataConfig) and config.noise.kind == "file":
        labels_n = load(config, root=root).train.labels_n
        config = replace(config, noise=prepare_noise(config.noise, labels_n, root=root))
    return config


def load(config: SourceConfig, *, root: Root = None) -> DataSet:
    """Read a prepared data set from the cache, memory-mapped; nothing else is looked at.

    All labels are in it, and at least the images that the limits keep (`ImageSet.places_n`).
    Checksums of all arrays are compared first.

    Raises:
        DataError: if it was not prepared; the message says what to run.
        FileError: that names the damaged file.
    """
    command = f"polyak data prepare --source {shlex.quote(config.source)}"
    folder = entries.find(cache_root(root) / "data", str(config.fingerprint), config.limits)
    if config.fingerprint is None or folder is None:
        raise DataError(
            f"source {config.source!r} is not in the cache '{cache_root(root)}'; expected it "
            f"prepared there. Run `{command}`."
        )
    found = entries.faults(folder)
    if found:
        raise FileError(f"{'; '.join(found)}. Run `{command}`, which replaces it.")
    name = name_of(config.source)
    return replace(entries.read(folder), name=name, fingerprint=config.fingerprint)


def noise_file(noise: NoiseConfig, *, root: Root = None) -> Path:
    """Where to read a noise file: the cache's copy, else the file itself if it is unchanged."""
    copy = cache_root(root) / "labels" / f"{noise.fingerprint}.pt"
    if noise.fingerprint and copy.is_file() and checksums.of_file(copy) == noise.fingerprint:
        return copy
    path = Path(noise.file or "").expanduser()
    if not path.is_file():
        raise DataError(f"noise.file is {noise.file!r}; expected a file there.")
    if noise.fingerprint not in (None, checksums.of_file(path)):
        raise DataError(
            f"noise.file {noise.file!r} has other content than before; expected the fingerprint "
            f"{str(noise.fingerprint)[:12]}…. It has changed since the configuration was written."
        )
    return path


def prepare_noise(noise: NoiseConfig, clean_labels_n: Tensor, *, root: Root = None) -> NoiseConfig:
    """Check a noise file against the labels that it stands for, and keep a copy of it.

    Raises:
        DataError, FileError: if it is another data set's, or changed.
    """
    path = noise_file(noise, root=root)
    read_cifar_n(path, noise.key or "", clean_labels_n)
    fingerprint = checksums.of_file(path)
    copy = cache_root(root) / "labels" / f"{fingerprint}.pt"
    # One that is there and whole stays, so that a cache may be for reading only.
    if path != copy and not (copy.is_file() and checksums.of_file(copy) == fingerprint):
        with replacing(copy) as temporary:
            shutil.copyfile(path, temporary)
    return replace(noise, fingerprint=fingerprint)


def _prepare_source(config: SourceConfig, folder: Path, on_decoded: OnDecoded | None) -> str:
    """Fingerprint of a source, which is in the cache afterwards."""
    source = sources.find(config)
    # Taken first, so that a change while the files are read is seen the next time.
    stats = fingerprints.of_stats(source.files, reading=source.reading) if source.files else None
    index = folder / "index" / f"{_index_key(config)}.json"
    known = _known_fingerprint(index, stats)
    if known and entries.find_whole(folder / "data", known, config.limits):
        return known
    fingerprint = source.identity() if source.identity else None
    if fingerprint is None or not entries.find_whole(folder / "data", fingerprint, config.limits):
        # What its own pixels identify has to be decoded whole.
        limits = EVERYTHING if fingerprint is None else _to_decode(config, folder, fingerprint)
        dataset = source.decode(limits, on_decoded)
        dataset.check()
        fingerprint = fingerprint or fingerprints.of_arrays(dataset)
        shared = images_in_both(dataset.train, dataset.test)
        partly = dataset.train.places_n is not None
        kept = limits.within(len(dataset.train), len(dataset.test)) if partly else EVERYTHING
        place = entries.place(folder / "data", fingerprint, kept)
        entries.write(place, replace(dataset, shared_images=shared))
    if stats:
        # It only saves time, and a complete cache may be for reading only.
        with suppress(OSError):
            write_json(index, {"source": config.source, "stats": stats, "fingerprint": fingerprint})
    return fingerprint


def _to_decode(config: SourceConfig, folder: Path, fingerprint: str) -> Limits:
    """What the configuration needs, or what an entry has that is damaged and is replaced."""
    damaged = entries.find(folder / "data", fingerprint, config.limits)
    limits = None if damaged is None else entries.limits_of(damaged)
    return config.limits if limits is None else limits


def _prepare_as_earlier(config: SourceConfig, folder: Path, on_decoded: OnDecoded | None) -> str:
    """The fingerprint without the source's own hold-out, which earlier versions did not read."""
    return _prepare_source(replace(config, validation="ignore"), folder, on_decoded)


def _warn_of_shared(config: SourceConfig, folder: Path) -> None:
    """Warn if test images are training images; the known sets have a handful among thousands."""
    place = entries.find(folder / "data", str(config.fingerprint), config.limits)
    assert place is not None, "it was prepared just now"
    found = entries.read(place)
    count, n = found.shared_images or 0, len(found.test.images_nchw)
    one, of = ("window", "byte by byte") if found.text else ("image", "pixel by pixel")
    if count and count >= _SHARED_SHARE * n:
        warn(
            f"{count} of the {n} test {one}s of source {config.source!r} are training {one}s too, "
            f"{of}: test accuracy says nothing of new {one}s. Take them out of either part."
        )


def _index_key(config: SourceConfig) -> str:
    path = Path(config.source).expanduser()
    place = str(path.resolve()) if path.exists() else config.source
    key: list[object] = [config.source in NAMES, place]
    key += [config.image_column, config.label_column]
    options = config.decoding() | ({} if config.validation == "holdout" else {"validation": "no"})
    text = json.dumps([*key, options] if options else key)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _known_fingerprint(index: Path, stats: str | None) -> str | None:
    try:
        entry = read_json(index)
        return str(entry["fingerprint"]) if stats and entry["stats"] == stats else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
