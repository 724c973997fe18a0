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
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_suffix(".c")
KINDS = ("open to read", "open to write", "read", "write", "fsync", "rename", "mkdir", "unlink")
KINDS += ("chmod", "map")
OUTCOMES = ("named", "right all the same", "traceback", "silently wrong")

STUDY = """
from polyak.data import DataConfig
from polyak.models import ModelConfig
from polyak.study.plan import Row, Study
from polyak.training.config import AveragingConfig, RunConfig
from polyak.training.optim import OptimConfig

def study():
    config = RunConfig(
        data=DataConfig(train_limit=90, test_limit=40, crop_padding=1),
        model=ModelConfig(name="resnet8", width=4),
        optim=OptimConfig(warmup_epochs=1),
        averaging=AveragingConfig(decays=(0.2, 0.9), every=2),
        epochs=2,
        batch_size=32,
    )
    row = Row(label="digits", dataset="digits", architecture="ResNet-8", config=config,
              learning_rates=(0.1,), seeds=(0,), paper_decays=(0.968, 0.998),
              search_monitors=("test",))
    return Study(name="small", title="A small study", cost="moments", rows=(row,))
"""


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
    from polyak.errors import PolyakError

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


# What an operation leaves, but for the time it took and the order in which bytes were written.


_NO_RESULT = ("LOCK", "checkpoint", "index")  # the last: of the cache, which does without


def digest(result: Any, work: Path) -> str:
    """A checksum of what was returned and of all results below a folder."""
    parts = [repr(result)]
    for path in sorted(work.rglob("*")):
        inside = path.relative_to(work).parts
        if path.is_file() and not any(part[0] == "." or part in _NO_RESULT for part in inside):
            parts.append(f"{'/'.join(inside)} {_content(path)}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _content(path: Path) -> str:
    from safetensors.torch import load_file

    from polyak import checksums

    if path.suffix == ".safetensors":
        tensors = load_file(path)
        return repr(sorted((key, checksums.of_tensor(x)) for key, x in tensors.items()))
    if path.suffix in (".json", ".jsonl", ".html") or path.name == "DONE":
        return "" if path.suffix == ".html" else _without_time(path.read_text(encoding="utf-8"))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _without_time(text: str) -> str:
    records = [json.loads(text)] if text.startswith("{\n") else map(json.loads, text.splitlines())
    return repr([_timeless(record) for record in records])


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        timed = {"seconds", "sha256", "lines"}
        return {key: _timeless(x) for key, x in value.items() if key not in timed}
    return [_timeless(x) for x in value] if isinstance(value, list) else value


# Operations: on the files of `make_inputs` below a folder; what they return is compared too.


def make_inputs(folder: Path, *, study: bool) -> Path:
    """Averages of one run at three moments, as files of ours and of torch; a finished study."""
    import torch

    import polyak
    from polyak.cli.main import main as command

    folder.mkdir()
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(30, 40), torch.nn.BatchNorm1d(40))
    averager = polyak.Averager(model, [0.5, 0.8, 0.9, 0.95], every=1)
    for step in range(1, 241):
        with torch.no_grad():
            model[0].weight += 0.1 * torch.randn(40, 30)
        averager.step()
        if step % 80 == 0:
            polyak.save(averager, folder / f"{step}.safetensors")
            torch.save(model.state_dict(), folder / f"{step}.pt")
    if not study:
        return folder
    (folder / "small.py").write_text(STUDY)
    cache, os.environ["POLYAK_CACHE"] = os.environ["POLYAK_CACHE"], str(folder / "cache")
    with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
        code = command(["study", str(folder / "small.py"), "--out", str(folder / "out")])
    os.environ["POLYAK_CACHE"] = cache
    if code:
        raise SystemExit("the study of the inputs failed")
    return folder


def save(work: Path) -> None:
    """`polyak.save` of what was loaded."""
    import polyak

    weights = polyak.load(work / "80.safetensors")
    polyak.save(weights, work / "saved.safetensors")


def load(work: Path) -> list[tuple[str, str, str]]:
    """`polyak.load`."""
    import polyak
    from polyak import checksums

    found = polyak.load(work / "80.safetensors")
    return [(n, k, checksums.of_tensor(x)) for n, state in found.items() for k, x in state.items()]


def _command(*words: object) -> int:
    from polyak.cli.main import main as command

    return command([str(word) for word in words])


def _finished(work: Path) -> Path:
    return next(path.parent for path in sorted(work.glob("out/runs/*/DONE")))


def merge(work: Path) -> int:
    """`polyak merge` of two files of ours."""
    files = [work / "80.safetensors", work / "160.safetensors"]
    return _command("merge", *files, "--name", "ema_0.9", "--out", work / "merged.safetensors")


def merge_pt(work: Path) -> int:
    """`polyak merge` of two files of `torch.save`."""
    return _command("merge", work / "80.pt", work / "160.pt", "--out", work / "merged.safetensors")


def synthesize(work: Path) -> int:
    """`polyak synthesize` from three files."""
    files = [work / f"{step}.safetensors" for step in (80, 160, 240)]
    return _command("synthesize", *files, "--decay", 0.7, "--out", work / "later.safetensors")


def export(work: Path) -> int:
    """`polyak export` of one average."""
    return _command("export", work / "80.safetensors", "ema_0.9", work / "plain.safetensors")


def prepare(work: Path) -> int:
    """`polyak data prepare` into an empty cache."""
    shutil.rmtree(work / "cache", ignore_errors=True)
    return _command("data", "prepare", "--source", "digits")


def train(work: Path) -> int:
    """`polyak train` of one run, with a checkpoint after every step, from the beginning."""
    from dataclasses import replace

    from polyak.training import jobs
    from polyak.training.config_file import read_run_config

    config = replace(read_run_config(_finished(work) / "config.json"), seed=7)
    try:
        jobs.carry_out(config, work / "own", checkpoint_seconds=0.0)
    except Exception as error:
        # As the command line says it.
        return command_error(error)
    return 0


def command_error(error: Exception) -> int:
    """The exit code that the command line would give, with its message on stderr."""
    from polyak.cli.os_errors import message_of
    from polyak.errors import PolyakError

    message = str(error) if isinstance(error, PolyakError) else None
    if isinstance(error, OSError):
        message = message_of(error)
    if message is None:
        raise error
    print(f"polyak: {message}", file=sys.stderr)
    return 2


def report(work: Path) -> int:
    """`polyak report` of a finished study."""
    return _command("report", work / "out" / "small")


def status(work: Path) -> int:
    """`polyak status` of its output folder."""
    return _command("status", work / "out")


def evaluate(work: Path) -> int:
    """`polyak evaluate` of a finished run on other test images."""
    return _command("evaluate", _finished(work), "--test-limit", 30)


def audit(work: Path) -> int:
    """`polyak audit` of a finished run."""
    return _command("audit", _finished(work), "--top", 3)


WITHOUT_STUDY = {"save", "load", "merge", "merge-pt", "synthesize", "export", "prepare"}
"""Operations on files of averages, or on nothing."""

OPERATIONS: dict[str, Callable[[Path], Any]] = {
    "save": save,
    "load": load,
    "merge": merge,
    "merge-pt": merge_pt,
    "synthesize": synthesize,
    "export": export,
    "prepare": prepare,
    "train": train,
    "status": status,
    "evaluate": evaluate,
    "audit": audit,
    "report": report,
}


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
    print(f"\n{date.today()}, {platform.processor() or platform.machine()}, {platform.system()}")
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


def print_table(heads: tuple[str, ...], lines: Any) -> None:
    """A table in Markdown."""
    print(f"| {' | '.join(heads)} |")
    print(f"|{'---|' * len(heads)}")
    for line in lines:
        print(f"| {' | '.join(map(str, line))} |")


if __name__ == "__main__":
    raise SystemExit(main())
