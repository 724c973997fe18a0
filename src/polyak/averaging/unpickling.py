"""Pickled checkpoints, read without running anything that a file asks to run."""

import os
import pickletools
import re
import shlex
import warnings
from collections.abc import Collection
from pathlib import PurePath

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from polyak.averaging.tensorfile import Path, damaged, file_format, one_line, quoted
from polyak.errors import FileError

# Nothing that holds weights needs these, so no command is given that would allow them.
_NEVER = frozenset({"builtins", "__builtin__", "os", "posix", "nt", "sys", "subprocess", "shutil"})
_NAMED = re.compile(r"GLOBAL ([\w.]+)")
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)

# Keeps what a checkpoint holds of plain containers, numbers and tensors at its top level.
_CONVERT = (
    "import sys, torch, {modules}; torch.serialization.add_safe_globals([{names}]); "
    'c = torch.load(sys.argv[1], map_location="cpu", weights_only=True); '
    "torch.save({{k: v for k, v in c.items() "
    'if type(v).__module__ in ("builtins", "collections", "torch")}}, sys.argv[2])'
)
# A scalar of numpy asks for its dtype's class too, under no name that the file holds.
_NUMPY_DTYPES = '*[type(numpy.dtype(c)) for c in "?bhilqBHILQefd"]'


def read_pickled(path: Path) -> object:
    """What `torch.save` wrote, on the CPU; only tensors, containers, numbers and text.

    Raises:
        FileError: if the file is damaged or not of `torch.save`, or needs anything else: then
            the message names it and gives the command that leaves it out.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content: object = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler meets any exception in a hostile file
        refused = _refused_globals(path, error)
        if refused:
            raise _refusal(path, refused, _advice(path, refused)) from error
        needed = _globals_of_pickle(path) if file_format(path) == "pickle" else []
        if needed:
            raise _refusal(path, needed, "Save a state_dict() with torch.save.") from error
        if "TorchScript" in str(error):
            raise FileError(
                f"{os.fspath(path)} is a TorchScript archive, which holds code; expected weights. "
                "Save the state_dict() of the module that torch.jit.load gives."
            ) from error
        raise damaged(path, _reason(error)) from error
    return content


def _refused_globals(path: Path, error: Exception) -> list[str]:
    """The names that the file asks to import, found without importing them."""
    try:
        names = get_unsafe_globals_in_checkpoint(os.fspath(path))
    except Exception:  # no zip archive, or a damaged one
        names = []
    return sorted(set(names or _NAMED.findall(str(error))))


def _globals_of_pickle(path: Path) -> list[str]:
    """The globals that a plain pickle names, up to where it stops making sense."""
    found: list[str] = []
    memo: dict[object, str] = {}
    texts: list[str] = []
    try:
        with open(path, "rb") as file:
            for code, value, _ in pickletools.genops(file):
                if code.name == "GLOBAL":
                    found.append(str(value).replace(" ", "."))
                elif code.name == "STACK_GLOBAL":
                    found.append(".".join(texts[-2:]))
                elif code.name == "MEMOIZE":
                    memo[len(memo)] = texts[-1] if texts else ""
                elif "PUT" in code.name:
                    memo[value] = texts[-1] if texts else ""
                elif "GET" in code.name:
                    texts.append(memo.get(value, ""))
                else:
                    # Other values take a place too, so that a memo never gives an older text.
                    texts.append(value if isinstance(value, str) else "")
                    texts = texts[-2:] if code.name != "FRAME" else texts[:-1]
    except Exception:  # torch's own data follows, or the file ends
        pass
    return found


def _refusal(path: Path, names: Collection[str], advice: str) -> FileError:
    if any(name.partition(".")[0] in _NEVER for name in names):
        advice = "They can run commands: do not open it, and ask its author for safetensors."
    return FileError(
        f"{os.fspath(path)} needs {quoted(names)} to be read; "
        f"expected tensors, containers and numbers only. {advice}"
    )


def _advice(path: Path, names: Collection[str]) -> str:
    # A name may hold anything, and this goes into a command that a person pastes.
    whole_module = any(name.startswith("torch.nn.") for name in names)
    if whole_module or not all(_DOTTED.fullmatch(name) for name in names):
        return "Save the model's state_dict() where it was made."
    # numpy 2 keeps what it had under numpy.core in numpy._core.
    places = {name: name.replace("numpy.core.", "numpy._core.") for name in sorted(names)}
    allowed = [x if x == name else f'({x}, "{name}")' for name, x in places.items()]
    if any(name.startswith("numpy.") for name in names):
        allowed.append(_NUMPY_DTYPES)
    modules = sorted({place.rpartition(".")[0] for place in places.values()})
    code = _CONVERT.format(modules=", ".join(modules), names=", ".join(allowed))
    out = PurePath(os.fspath(path)).with_suffix(".plain.pt")
    command = shlex.join(["python", "-c", code, os.fspath(path), str(out)])
    return f"If you trust its source, leave that out with: {command}"


def _reason(error: Exception) -> str:
    """The line of torch's message that says what it met."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    after = [line for line in lines if "WeightsUnpickler error:" in line]
    if after:
        i = lines.index(after[0])
        words = after[0].partition("WeightsUnpickler error:")[2].strip()
        return one_line(ValueError(words or " ".join(lines[i + 1 : i + 2])))
    return one_line(error)
