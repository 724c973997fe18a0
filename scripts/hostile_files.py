"""Gives hostile files to every command that reads files of strangers.

    python scripts/hostile_files.py

Each call is a process of its own with a limit of processor time, memory and open files. Nothing may
run what a file names, write outside of the folder of the output, or end in a traceback.
"""

import io
import os
import pickle
import resource
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import traceback
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import torch
from shared import print_place_and_date, print_table

from polyak.cli.main import main as command

SECONDS, BYTES = 40, 8 << 30
OUTCOMES = ("named", "taken as what it is", "traceback", "executed", "wrote outside", "stopped")


def main() -> int:
    """Exit code: 0 if every call was named or harmless."""
    counts: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        plain = place / "plain.pt"
        torch.save({"w": torch.ones(2)}, plain)
        for kind, path in hostile_files(place):
            for name, words in commands(path, plain, place / "out").items():
                outcome = call(words, place)
                counts.setdefault(kind, Counter())[outcome] += 1
                if outcome in OUTCOMES[2:]:
                    print(f"{name} {path.name}: {outcome}", file=sys.stderr)
    lines = [[kind, sum(c.values()), *(c[name] for name in OUTCOMES)] for kind, c in counts.items()]
    sums = [sum(line[i] for line in lines) for i in range(1, 2 + len(OUTCOMES))]
    print_table(("file", "calls", *OUTCOMES), [*lines, ["all", *sums]])
    print_place_and_date()
    return 1 if any(sums[3:]) else 0


def commands(path: Path, plain: Path, out: Path) -> dict[str, list[str]]:
    """What reads a file of a stranger."""
    return {
        "inspect": ["inspect", str(path)],
        "merge": ["merge", str(path), str(plain), "--out", str(out / "merged.safetensors")],
        "synthesize": [
            *("synthesize", str(path), "--decay", "0.9", "--out", str(out / "later.safetensors"))
        ],
        "export": ["export", str(path), "ema", str(out / "plain.safetensors")],
    }


def call(words: list[str], place: Path) -> str:
    """One of OUTCOMES."""
    (place / "out").mkdir(exist_ok=True)
    before = {path for path in place.rglob("*") if "out" not in path.parts}
    said = place / "out" / "said"
    # Forked from a process that has everything imported; limits are the child's own.
    pid = os.fork()
    if pid == 0:
        _child(words, place, said)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    text = said.read_bytes()
    if (place / "executed").exists():
        (place / "executed").unlink()
        return "executed"
    if {path for path in place.rglob("*") if "out" not in path.parts} != before:
        return "wrote outside"
    if code < 0:
        return "stopped"
    if b"Traceback" in text:
        return "traceback"
    return "named" if code == 2 else "taken as what it is"


def _child(words: list[str], place: Path, said: Path) -> NoReturn:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    signal.alarm(3 * SECONDS)  # for what waits without computing
    os.chdir(place)
    file = os.open(said, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    os.dup2(file, 1)
    os.dup2(file, 2)
    code = 1
    try:
        code = command(words)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        os.write(2, traceback.format_exc().encode(errors="backslashreplace"))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class _Call:
    """Pickled as the call of a function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


def hostile_files(place: Path) -> Iterator[tuple[str, Path]]:
    """Kind and path of each, written to a folder."""
    marker = str(place / "executed")
    gadgets = {
        "system": _Call(os.system, f"touch {marker}"),
        "popen": _Call(subprocess.Popen, ["touch", marker]),
        "eval": _Call(eval, f"open({marker!r}, 'w')"),
        "open": _Call(open, marker, "w"),
        "import": _Call(__import__, "antigravity"),
        "getattr": _Call(getattr, "x", "upper"),
        "remove": _Call(os.remove, str(place / "plain.pt")),
        "load": _Call(torch.load, str(place / "plain.pt")),
    }
    for name, gadget in gadgets.items():
        torch.save({"ema": {"w": torch.ones(2)}, "x": gadget}, place / f"{name}.pt")
        yield "pickle in torch's archive", place / f"{name}.pt"
        for protocol in (0, 2, 4):
            path = place / f"{name}.{protocol}.pkl"
            path.write_bytes(pickle.dumps({"x": gadget}, protocol))
            yield "bare pickle", path
    yield from _archives(place)
    yield from _safetensors(place)
    yield from _no_files(place)


def _archives(place: Path) -> Iterator[tuple[str, Path]]:
    with tarfile.open(place / "old.tar", "w") as tar:
        info = tarfile.TarInfo("../outside")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"evil"))
    yield "tar", place / "old.tar"
    for name, content in (("bomb", b"\x80\x02" + b"0" * (1 << 30)), ("torn", b"\x80\x02}")):
        with zipfile.ZipFile(place / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{name}/data.pkl", content)
            archive.writestr("../outside", b"evil")
        yield "zip", place / f"{name}.zip"


def _safetensors(place: Path) -> Iterator[tuple[str, Path]]:
    tensor = '{"w": {"dtype": "F32", "shape": %s, "data_offsets": %s}}'
    headers = {
        "huge": tensor % ("[4611686018427387904, 8]", "[0, 8]"),
        "negative": tensor % ("[-2]", "[0, 8]"),
        "overlap": '{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, '
        '"b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}',
        "outside": tensor % ("[2]", "[0, 99]"),
        "hole": tensor % ("[1]", "[4, 8]"),
        "unknown": tensor.replace("F32", "X7") % ("[2]", "[0, 8]"),
        "ranks": tensor % ([1] * 10_000, "[0, 4]"),
        "nested": "[" * 100_000,
        "record": '{"__metadata__": {"polyak": "' + "[" * 50_000 + '"}}',
        "escape": (tensor % ("[2]", "[0, 8]")).replace('"w"', '"\\u001b]0;owned\\u0007"'),
    }
    for name, header in headers.items():
        path = place / f"{name}.safetensors"
        path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(8))
        yield "safetensors", path
    for name, length in (("length", 2**63), ("short", 100_000_000)):
        path = place / f"{name}.safetensors"
        path.write_bytes(struct.pack("<Q", length) + b"{}")
        yield "safetensors", path


def _no_files(place: Path) -> Iterator[tuple[str, Path]]:
    (place / "folder").mkdir()
    (place / "loop").symlink_to(place / "loop")
    os.mkfifo(place / "fifo")
    for path in (place / "folder", place / "loop", place / "fifo", Path("/dev/zero")):
        yield "no file", path


if __name__ == "__main__":
    raise SystemExit(main())
