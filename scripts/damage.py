"""Damages every file of a finished study, one bit or one cut at a time, and reads it.

    python scripts/damage.py                   # 300 bits and 100 cuts of every file
    python scripts/damage.py --flips 20 --cuts 5

What is read afterwards is what was written (harmless: the damage was to what carries no value), or
the file is named. Anything else is a failure: read as something else in silence, or a traceback.
"""

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared import finished_study, print_place_and_date, print_table

from polyak import checksums, load
from polyak.data import load as load_data
from polyak.errors import PolyakError
from polyak.records.predictions import Predictions
from polyak.records.runs import RunFolder
from polyak.records.studies import read_study
from polyak.training.config_file import read_config

OUTCOMES = ("named", "harmless", "silently wrong", "traceback")
Read = Callable[[], Any]


def main() -> int:
    """Exit code: 0 if nothing was believed that was not written, and nothing a traceback."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flips", type=int, default=300, help="bits of each file")
    parser.add_argument("--cuts", type=int, default=100, help="lengths of each file")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        out = finished_study(Path(folder))
        lines = []
        for what, path, read in readers(Path(folder), out):
            found = damage(path, read, chance, flips=options.flips, cuts=options.cuts)
            lines.append([what, sum(found.values()), *(found[name] for name in OUTCOMES)])
    sums = [sum(line[i] for line in lines) for i in range(1, 2 + len(OUTCOMES))]
    print_table(("file, read by", "cases", *OUTCOMES), [*lines, ["all", *sums]])
    print_place_and_date()
    return 1 if sums[3] or sums[4] else 0


def readers(folder: Path, out: Path) -> list[tuple[str, Path, Read]]:
    """Every kind of file, with what reads it, as a value that can be compared."""
    study = out / "small"
    search = read_study(study).rows[0].search["0.1"]["0"]
    run = RunFolder(out / "runs" / search)
    config = read_config(run.path / "config.json")
    entry = next((folder / "cache").rglob("train_images.npy")).parent
    data = [
        (f"cache {name}", entry / name, lambda: _data(config.data))
        for name in ("train_images.npy", "test_labels.npy", "manifest.json")
    ]
    return [
        ("averages, `polyak.load`", run.arm("sgd"), lambda: _weights(run.arm("sgd"))),
        ("predictions, all of them", run.predictions, lambda: _predictions(run.predictions)),
        *data,
        ("config.json, `read_config`", run.path / "config.json", lambda: _config(run)),
        ("log.jsonl, `epochs()`", run.log, run.epochs),
        ("monitor.jsonl, `monitors()`", run.path / "monitor.jsonl", run.monitors),
        ("DONE, `facts()`", run.path / "DONE", run.facts),
        ("plan.json, `read_study`", study / "plan.json", lambda: read_study(study)),
        ("choices.json, `read_study`", study / "choices.json", lambda: read_study(study)),
        ("results.parquet, pyarrow", study / "results.parquet", lambda: _parquet(study)),
    ]


def damage(path: Path, read: Read, chance: random.Random, *, flips: int, cuts: int) -> Counter[str]:
    """Outcomes of so many damages of a file, which is whole again afterwards."""
    whole = path.read_bytes()
    expected = repr(read())
    found: Counter[str] = Counter()
    for _ in range(flips):
        place = chance.randrange(8 * len(whole))
        hurt = bytearray(whole)
        hurt[place // 8] ^= 1 << place % 8
        found[_outcome(path, bytes(hurt), read, expected)] += 1
    lengths = {0, 1, 7, 8, 9, len(whole) - 1}
    lengths |= {chance.randrange(len(whole)) for _ in range(cuts)}
    for length in sorted(lengths)[:cuts]:
        found[_outcome(path, whole[:length], read, expected)] += 1
    path.write_bytes(whole)
    return found


def _outcome(path: Path, content: bytes, read: Read, expected: str) -> str:
    # A new file: what an earlier reader has mapped stays as it was.
    path.unlink()
    path.write_bytes(content)
    try:
        value = repr(read())
    except PolyakError as error:
        return "named" if path.name.split(".")[0] in str(error) else "traceback"
    except Exception as error:
        if path.suffix == ".parquet" and type(error).__module__ in ("builtins", "pyarrow.lib"):
            return "named"  # by the library that anybody reads it with
        print(f"{path.name}: {type(error).__name__}: {error}", file=sys.stderr)
        return "traceback"
    return "harmless" if value == expected else "silently wrong"


def _weights(path: Path) -> Any:
    saved = load(path)
    sums = {(name, key): checksums.of_tensor(x) for name in saved for key, x in saved[name].items()}
    return sums, saved.manifest


def _predictions(path: Path) -> Any:
    said = Predictions(path)
    said.check()
    return [
        (part, arm, checksums.of_tensor(said.logits_nk(part, arm)))
        for part in ("test", "holdout")
        for arm in said.arms(part)
    ]


def _data(config: Any) -> Any:
    data = load_data(config)
    images = [checksums.of_tensor(part.images_nchw) for part in (data.train, data.test)]
    labels = [checksums.of_tensor(part.labels_n) for part in (data.train, data.test)]
    return images, labels, data.train.classes


def _config(run: RunFolder) -> Any:
    return read_config(run.path / "config.json")


def _parquet(study: Path) -> Any:
    import pyarrow.parquet

    path = study / "results.parquet"
    return pyarrow.parquet.read_table(path, page_checksum_verification=True).to_pylist()


if __name__ == "__main__":
    raise SystemExit(main())
