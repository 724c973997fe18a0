"""Lets every call of the system fail once, and looks at what is said and at what is left.

    python scripts/io_faults.py                      # all operations, every call: an hour
    python scripts/io_faults.py --of merge train --at-most 40
    python scripts/io_faults.py --full               # from the n-th call on the disk is full

Each point is a process forked from one that has everything imported: it repeats an operation on
fresh copies of its inputs, while the n-th call that concerns them fails (scripts/io_faults.c, built
with the system's compiler and preloaded). Then the operation is repeated without faults, which must
end as if nothing had happened.
"""

import argparse
import ctypes
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from io_operations import OPERATIONS, WITHOUT_STUDY, digest, make_inputs
from shared import print_place_and_date, print_table

from polyak.errors import PolyakError

SOURCE = Path(__file__).with_suffix(".c")
KINDS = ("open to read", "open to write", "read", "write", "fsync", "rename", "mkdir", "unlink")
KINDS += ("chmod", "map")
OUTCOMES = ("named", "right all the same", "traceback", "silently wrong")


@dataclass(slots=True)
class Tally:
    """What came of the points of one operation."""

    points: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    by_call: Counter[tuple[str, str]] = field(default_factory=Counter)
    left: int = 0
    """Points after which a temporary file was left, and the rerun did not remove it."""

    reruns_right: int = 0
    examples: list[str] = field(default_factory=list)


def main() -> int:
    """Exit code: 0 if no point ended in a traceback, silently wrong or with something left."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--of", nargs="+", choices=sorted(OPERATIONS), default=list(OPERATIONS))
    parser.add_argument("--at-most", type=int, default=None, help="points of an operation")
    parser.add_argument("--full", action="store_true", help="the disk stays full")
    options = parser.parse_args()
    if "POLYAK_IO_FAULTS" not in os.environ:
        return _again_with_faults()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ["POLYAK_CACHE"] = str(place / "work" / "cache")
        inputs = make_inputs(place / "inputs", study=not WITHOUT_STUDY.issuperset(options.of))
        tallies = {
            name: run_points(
                OPERATIONS[name], inputs, place / "work", at_most=options.at_most, full=options.full
            )
            for name in options.of
        }
    print_tables(tallies)
    return 0 if all(is_clean(tally) for tally in tallies.values()) else 1


def _again_with_faults() -> int:
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "io_faults.so")
        build = ["cc", "-O1", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"]
        subprocess.run([str(word) for word in build], check=True)
        names = {"POLYAK_IO_FAULTS": str(library), "LD_PRELOAD": str(library)}
        environment = {**os.environ, **names, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
        return subprocess.run([sys.executable, *sys.argv], env=environment).returncode


def run_points(
    operation: Callable[[Path], Any],
    inputs: Path,
    work: Path,
    *,
    at_most: int | None,
    full: bool,
) -> Tally:
    """Let each call of an operation fail once, or evenly spaced ones of them."""
    expected = attempt(operation, inputs, work, 0, full)
    if expected["code"] != "0":
        raise SystemExit(f"without faults it ended with {expected['said']}")
    tally = Tally()
    calls = int(expected["calls"])
    step = 1 if at_most is None else max(1, -(-calls // at_most))
    for number in range(1, calls + 1, step):
        found = attempt(operation, inputs, work, number, full)
        tally.points += 1
        outcome = outcome_of(found, expected)
        tally.outcomes[outcome] += 1
        tally.by_call[KINDS[found["hit"]], outcome] += 1
        again = attempt(operation, None, work, 0, full)
        tally.reruns_right += same(again, expected)
        tally.left += bool(again["left"])
        if outcome in OUTCOMES[2:] or not same(again, expected) or again["left"]:
            tally.examples.append(f"{number} ({KINDS[found['hit']]}): {outcome}; {found['said']}")
    return tally


def attempt(
    operation: Callable[[Path], Any], inputs: Path | None, work: Path, number: int, full: bool
) -> dict[str, Any]:
    """The operation in a forked process; with inputs on fresh copies, else on what is there."""
    if inputs is not None:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(inputs, work)
    answer, child_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(operation, work, number, full, child_end)
    os.close(child_end)
    with os.fdopen(answer, "rb") as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    found: dict[str, Any] = json.loads(text) if text else {"code": "died", "said": "died", "hit": 0}
    left = [path.name for path in work.rglob(".*") if path.name.startswith((".polyak-", ".tmp"))]
    return {**found, "left": left}


def _child(
    operation: Callable[[Path], Any], work: Path, number: int, full: bool, answer: int
) -> None:
    """Never returns."""
    faults = ctypes.CDLL(os.environ["POLYAK_IO_FAULTS"])
    out, err = io.StringIO(), io.StringIO()
    result: Any = None
    with redirect_stdout(out), redirect_stderr(err):
        faults.fault_arm(str(work).encode(), ctypes.c_long(number), int(full))
        try:
            result = operation(work)
            code = "0" if not isinstance(result, int) else str(result)
        except (SystemExit, Exception) as error:
            code = type(error).__name__
            err.write(traceback.format_exc() if not is_named(error) else f"polyak: {error}")
        calls, hit = faults.fault_total(), faults.fault_hit()
        faults.fault_disarm()
    text = {
        "code": code,
        "said": " ".join(err.getvalue().split())[-300:],
        "calls": calls,
        "hit": hit,
        "named": "polyak: " in err.getvalue() and "Traceback" not in err.getvalue(),
        "result": digest(result if not isinstance(result, int) else None, work),
    }
    os.write(answer, json.dumps(text).encode())
    os._exit(0)


def is_named(error: BaseException) -> bool:
    """Whether what the library raised says what is wrong: the file, and why."""
    return isinstance(error, PolyakError) or (
        isinstance(error, OSError) and error.errno is not None
    )


def outcome_of(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """One of OUTCOMES."""
    if found["code"] == "0":
        return OUTCOMES[1] if found["result"] == expected["result"] else OUTCOMES[3]
    return OUTCOMES[0] if found.get("named") else OUTCOMES[2]


def same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether it ended well and left what it leaves without faults."""
    return found["code"] == "0" and found["result"] == expected["result"]


def is_clean(tally: Tally) -> bool:
    """Whether every fault was said or harmless, and the same command then went well."""
    bad = sum(tally.outcomes[name] for name in OUTCOMES[2:])
    return not bad and not tally.left and tally.reruns_right == tally.points


def print_tables(tallies: dict[str, Tally]) -> None:
    """Two tables in Markdown: by operation, and by call; then what was not as promised."""
    heads = ("operation", "points", *OUTCOMES, "temporaries left", "rerun right")
    print_table(heads, _operation_lines(tallies))
    calls: Counter[tuple[str, str]] = Counter()
    for tally in tallies.values():
        calls += tally.by_call
    print()
    print_table(
        ("call", *OUTCOMES), ([kind, *(calls[kind, name] for name in OUTCOMES)] for kind in KINDS)
    )
    print_place_and_date()
    for name, tally in tallies.items():
        for example in tally.examples[:5]:
            print(f"{name} {example}", file=sys.stderr)


def _operation_lines(tallies: dict[str, Tally]) -> Iterator[list[object]]:
    for name, t in tallies.items():
        yield [name, t.points, *(t.outcomes[o] for o in OUTCOMES), t.left, t.reruns_right]
    sums = [sum(t.outcomes[o] for t in tallies.values()) for o in OUTCOMES]
    others = [
        sum(getattr(t, f) for t in tallies.values()) for f in ("points", "left", "reruns_right")
    ]
    yield ["all", others[0], *sums, *others[1:]]


if __name__ == "__main__":
    raise SystemExit(main())
