"""What `io_faults.py` lets fail: operations on files of averages and on a finished study."""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from shared import finished_study

import polyak
from polyak import checksums
from polyak.cli.main import main as command
from polyak.cli.os_errors import message_of
from polyak.errors import PolyakError
from polyak.training import jobs
from polyak.training.config_file import read_run_config

_NO_RESULT = ("LOCK", "checkpoint", "index")
"""The last is the cache's, which does without."""


def digest(result: Any, work: Path) -> str:
    """A checksum of what was returned and of all results below a folder, but for the time that it
    took and the order in which bytes were written."""
    parts = [repr(result)]
    for path in sorted(work.rglob("*")):
        inside = path.relative_to(work).parts
        if path.is_file() and not any(part[0] == "." or part in _NO_RESULT for part in inside):
            parts.append(f"{'/'.join(inside)} {_content(path)}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _content(path: Path) -> str:
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
    if study:
        finished_study(folder)
    return folder


def save(work: Path) -> None:
    """`polyak.save` of what was loaded."""
    weights = polyak.load(work / "80.safetensors")
    polyak.save(weights, work / "saved.safetensors")


def load(work: Path) -> list[tuple[str, str, str]]:
    """`polyak.load`."""
    found = polyak.load(work / "80.safetensors")
    return [(n, k, checksums.of_tensor(x)) for n, state in found.items() for k, x in state.items()]


def _command(*words: object) -> int:
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
    config = replace(read_run_config(_finished(work) / "config.json"), seed=7)
    try:
        jobs.carry_out(config, work / "own", checkpoint_seconds=0.0)
    except Exception as error:
        # As the command line says it.
        return command_error(error)
    return 0


def command_error(error: Exception) -> int:
    """The exit code that the command line would give, with its message on stderr."""
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
