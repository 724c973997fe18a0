"""Means of large checkpoints, beside plain copies of the same files: time and memory.

python benchmarks/checkpoints.py                           # 3 checkpoints of 1 GB
python benchmarks/checkpoints.py --gigabytes 4 --files 2

A transformer's tensors, the largest of them an eighth of all. Each way is a process of its own, in
turns; memory is the most that it held beyond what it held after its imports, with the pages of
mapped files, in units of the largest tensor in float32. A copy reads all files and writes the
first's bytes. Linux only.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import timing
import torch
from torch import Tensor

from polyak import tensor_files
from polyak.averaging.files.mixtures.merge import Mean
from polyak.averaging.files.on_disk.writing import write_distributed, write_shards

SHARD = 1 << 28
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of each checkpoint")
    parser.add_argument("--files", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(measured(*given.worker)))
        return
    print("| files | way | CPU, s | wall, s | CPU of a copy's | peak beyond, largest tensors |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        for layout in WRITERS:
            files = Path(folder, "in")
            for i in range(given.files):
                make(files / str(i), layout, given.gigabytes, DTYPES[given.dtype], seed=i)
            compare(files, layout, given.rounds, largest=4 * largest_of(files / "0"))
            shutil.rmtree(files)


def make(path: Path, layout: str, gigabytes: float, dtype: torch.dtype, *, seed: int) -> None:
    """A checkpoint of eight layers' matrices, of which the embedding is the largest."""
    torch.manual_seed(seed)
    side = int((gigabytes * 1e9 / dtype.itemsize / 8 / 14) ** 0.5)
    shapes = {"embedding": (14 * side, side)}
    for i in range(7):
        shapes |= {f"layers.{i}.{j}": (side, side) for j in range(14)}
        shapes |= {f"layers.{i}.norm": (side,)}
    state = {
        key: torch.randn(shape, dtype=torch.float32).to(dtype) for key, shape in shapes.items()
    }
    path.parent.mkdir(exist_ok=True)
    WRITERS[layout](path, state, lambda keys: ((key, state[key]) for key in keys))


def largest_of(path: Path) -> int:
    """Values of the largest tensor."""
    return max(x.numel() for x in Mean([path, path]).layout.values())


def compare(files: Path, layout: str, rounds: int, *, largest: int) -> None:
    """Both ways in turns, a process each."""
    found: dict[str, list[Sequence[float]]] = {"copy": [], "mean": []}
    for i in range(rounds):
        for way in sorted(found, reverse=bool(i % 2)):
            command = [sys.executable, __file__, "--worker", way, layout, str(files)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[way].append(json.loads(done.stdout))
    copied, _, _ = zip(*found["copy"], strict=True)
    for way, rows in found.items():
        cpu, wall, peak = zip(*rows, strict=True)
        low, middle, high = timing.ratios(list(cpu), list(copied))
        times = f"{timing.median(list(cpu)):.2f} | {timing.median(list(wall)):.2f}"
        ratio = "1" if way == "copy" else f"{low:.1f} / {middle:.1f} / {high:.1f}"
        print(f"| {layout} | {way} | {times} | {ratio} | {max(peak) / largest:.2f} |")


def measured(way: str, layout: str, folder: str) -> tuple[float, float, float]:
    """Seconds of this process and by the clock, and bytes."""
    files = sorted(Path(folder).iterdir())
    out = Path(folder).parent / "out"
    warnings.simplefilter("ignore")
    if layout == "distributed":
        import torch.distributed.checkpoint  # noqa: F401
    before = peak()
    cpu, wall = time.process_time(), time.perf_counter()
    if way == "copy":
        copy(files, out)
    else:
        mean = Mean(files)
        WRITERS[layout](out, mean.layout, mean.read)
    found = time.process_time() - cpu, time.perf_counter() - wall, peak() - before
    shutil.rmtree(out) if out.is_dir() else out.unlink()
    return found


def copy(files: Sequence[Path], out: Path) -> None:
    """Read all, write the first, to the disk."""
    with out.open("wb") as to:
        for i, path in enumerate(files):
            for part in sorted(path.rglob("*")) if path.is_dir() else [path]:
                with part.open("rb") as file:
                    while block := file.read(1 << 24):
                        if not i:
                            to.write(block)
        to.flush()
        os.fsync(to.fileno())


def peak() -> int:
    """The most memory that this process has held, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def one_file(path: Path, layout: dict[str, Tensor], read: Callable[..., object]) -> None:
    tensor_files.write_in_turn(path, layout, read, {})  # type: ignore[arg-type]


def shards(path: Path, layout: dict[str, Tensor], read: Callable[..., object]) -> None:
    write_shards(path, layout, read, {}, most=SHARD)  # type: ignore[arg-type]


WRITERS: dict[str, Callable[..., object]] = {
    "one file": one_file,
    "shards": shards,
    "distributed": write_distributed,
}


if __name__ == "__main__":
    main()
