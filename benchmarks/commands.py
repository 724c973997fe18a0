"""Commands of two source trees in turns on one machine, each a process of its own.

git worktree add BEFORE 7d8c9c0
python benchmarks/commands.py BEFORE/src src --rounds 5 --study out/demo
python benchmarks/commands.py BEFORE/src src --rounds 2 --demo
python benchmarks/commands.py BEFORE/src src --rounds 5 --arms

Processor time counts the processes that a command starts, too.
"""

import argparse
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import timing

SCRIPT = """\
import sys
from polyak.cli.main import entry
if __name__ == "__main__":
    sys.exit(entry())
"""
"""What pip installs as `polyak`; worker processes import it again."""

DEMO = """\
from dataclasses import replace
from polyak.study.fitting import scaled_decays
from polyak.study.paper.presets import preset
def study():
    demo = preset("demo")
    (row,) = demo.rows
    config = replace(
        row.config,
        data=replace(row.config.data, crop_padding=0),
        averaging=replace(row.config.averaging, decays=scaled_decays(450)),
        epochs=25,
    )
    row = replace(row, config=config, learning_rates=(0.2, 0.4), seeds=(0, 1, 2, 3))
    return replace(demo, name="timed", rows=(row,))
"""
"""The demo as it is, in a tree where it has other settings too."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds of one call."""

    cpu: float
    wall: float


def call(source: str, words: Sequence[str]) -> Taken:
    """A command line of the tree at `source`, from its start to its end."""
    environment = {**os.environ, "PYTHONPATH": str(Path(source).resolve())}
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "polyak")
        script.write_text(SCRIPT)
        command = [sys.executable, str(script), *words]
        before, started = _children(), time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env=environment)
        return Taken(_children() - before, time.perf_counter() - started)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def commands_on(study: Path) -> dict[str, list[str]]:
    """By name, what is called with a study's folder."""
    out = study.parent
    weights = next((out / "runs").glob("*/averages/*.safetensors"))
    return {
        "--help": ["--help"],
        "list": ["list"],
        "status": ["status", str(study)],
        "inspect": ["inspect", str(weights)],
        "report": ["report", str(study)],
    }


TWO_EPOCHS = ["train", "--epochs", "2", "--optim.warmup-epochs", "1"]


def arms_share(source: str) -> float:
    """Of the processor time of a two-epoch `polyak train` what follows its last epoch, percent."""
    environment = {**os.environ, "PYTHONPATH": str(Path(source).resolve()), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "polyak")
        script.write_text(SCRIPT)
        command = [sys.executable, str(script), *TWO_EPOCHS, "--out", folder]
        before = _children()
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
        ) as process:
            assert process.stderr is not None
            so_far = 0.0
            for line in process.stderr:
                if line.startswith("evaluating"):
                    so_far = _used(process.pid)
        whole = _children() - before
        return 100 * (1 - so_far / whole)


def _used(pid: int) -> float:
    """Processor seconds of a process that runs (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def demo(source: str) -> tuple[Taken, bytes]:
    """The demo of now, and its results."""
    with tempfile.TemporaryDirectory() as out:
        study = Path(out, "study.py")
        study.write_text(DEMO)
        taken = call(source, ["study", str(study), "--out", out])
        return taken, Path(out, "timed", "results.parquet").read_bytes()


def row(name: str, before: Sequence[Taken], after: Sequence[Taken]) -> str:
    """A line of the table."""
    cells = [name]
    for clock in ("cpu", "wall"):
        old, new = ([getattr(taken, clock) for taken in calls] for calls in (before, after))
        low, middle, high = timing.ratios(new, old)
        cells += [f"{timing.median(times):.2f}" for times in (old, new)]
        cells.append(f"{low:.2f} / {middle:.2f} / {high:.2f}")
    return f"| {' | '.join(cells)} |"


def print_arms(sources: Sequence[str], rounds: int, draws: random.Random) -> None:
    """Low, median and high share in each tree, in percent."""
    shares: dict[str, list[float]] = {source: [] for source in sources}
    for _ in range(rounds):
        for source in draws.sample(list(sources), len(sources)):
            shares[source].append(arms_share(source))
    print("| after the last of two epochs, % of the command | low | median | high |")
    print("|---|---|---|---|")
    for name, found in zip(("before", "after"), shares.values(), strict=True):
        cells = (min(found), timing.median(found), max(found))
        print(f"| {name} | {' | '.join(f'{share:.1f}' for share in cells)} |")


def main() -> None:
    """Print medians in seconds, and ratios round by round, after to before."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", nargs=2, help="two folders that hold polyak/")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--study", type=Path, help="a finished study's folder")
    parser.add_argument("--arms", action="store_true", help="share of a two-epoch run")
    parser.add_argument("--demo", action="store_true", help="time `polyak demo`")
    given = parser.parse_args()
    draws = random.Random(0)
    if given.arms:
        print_arms(given.sources, given.rounds, draws)
        return
    lines = {} if given.study is None else commands_on(given.study)
    taken: dict[str, dict[str, list[Taken]]] = {}
    results: set[bytes] = set()
    for _ in range(given.rounds):
        for name, words in lines.items():
            for source in draws.sample(given.sources, 2):
                found = taken.setdefault(name, {}).setdefault(source, [])
                found.append(call(source, words))
        for source in draws.sample(given.sources, 2) if given.demo else ():
            seconds, result = demo(source)
            results.add(result)
            taken.setdefault("demo", {}).setdefault(source, []).append(seconds)
            print(f"{source}: {seconds}", file=sys.stderr)
    ratio = "after / before: low / median / high"
    print(f"| command | before, CPU s | after | {ratio} | before, wall s | after | {ratio} |")
    print("|---|---|---|---|---|---|---|")
    for name, of_trees in taken.items():
        print(row(name, *(of_trees[source] for source in given.sources)))
    if given.demo:
        print(f"\nResults of all demos are {'equal' if len(results) == 1 else 'NOT equal'}.")


if __name__ == "__main__":
    main()
