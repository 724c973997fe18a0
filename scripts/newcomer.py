"""Follow README to the letter in a fresh clone, with nothing installed, and time each step.

    python scripts/newcomer.py [--without demo test] > docs/newcomer.log

Commands of its `sh` blocks are given to a shell one by one, in a new environment; its Python blocks
are run as they stand. What a reader does twice (the two ways to the demo) is done once.
"""

import argparse
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def steps(text: str) -> Iterator[str]:
    """What README asks a reader to do, as commands of a shell, in its order."""
    for language, block in BLOCK.findall(text):
        if language == "python":
            yield f"python -c {shlex.quote(block)}"
        else:
            yield from (line.partition(" # ")[0].strip() for line in block.splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--without", nargs="*", default=[], help="words of commands to leave out")
    without = parser.parse_args().without
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder, "polyak")
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        commands = ["python3 -m venv .reader", *steps((clone / "README.md").read_text("utf-8"))]
        failed = 0
        for command in dict.fromkeys(commands):
            if any(word in command.split() for word in without):
                print(f"   left out  {command}", flush=True)
                continue
            begun = time.monotonic()
            activated = f"test ! -d .reader || . .reader/bin/activate; {command}"
            done = subprocess.run(
                ["bash", "-c", activated], cwd=clone, capture_output=True, text=True, check=False
            )
            said = (done.stdout.strip().splitlines() or [""])[-1]
            name = "the Python block" if command.startswith("python -c") else command
            print(f"{time.monotonic() - begun:8.0f} s  {name}\n            {said}", flush=True)
            if done.returncode:
                failed += 1
                print(done.stderr[-2000:], file=sys.stderr)
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
