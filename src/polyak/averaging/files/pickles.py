"""Pickled checkpoints, read without running anything that a file asks to run."""

import json
import os
import pickletools
import re
import shlex
import warnings
from collections.abc import Collection
from pathlib import PurePath

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from polyak.averaging.files.safetensors_file import Path, damaged, file_format, one_line, quote
from polyak.errors import FileError

# Nothing that holds weights needs these; torch's reader blocks most of them whatever one allows.
_NEVER = re.compile(
    r"(os|posix|nt|sys|subprocess)\..*|(builtins|__builtin__)\.(eval|exec|compile|__import__)"
)
_NAMED = re.compile(r"GLOBAL ([\w.]+)")

# Puts an empty object in the place of everything that is refused, so that nothing of it is
# imported or run, and then keeps what is not such an object.
_CONVERT = (
    "import json, sys, torch; "
    'E = type("E", (), {"__new__": lambda c, *a, **k: object.__new__(c), '
    '"__init__": lambda s, *a, **k: None, "__setstate__": lambda s, x: None}); '
    "plain = lambda x: {k: plain(v) for k, v in x.items() if type(v) is not E} "
    "if isinstance(x, dict) else [plain(v) for v in x if type(v) is not E] "
    "if isinstance(x, (list, tuple)) else x; "
    "torch.serialization.add_safe_globals([(E, name) for name in json.loads(sys.argv[3])]); "
    'x = torch.load(open(sys.argv[1], "rb"), map_location="cpu", weights_only=True); '
    "torch.save(plain(x), sys.argv[2])"
)


def read_pickled(path: Path) -> object:
    """What `torch.save` wrote, on the CPU; only tensors, containers, numbers and text.

    Raises:
        FileError: if the file is damaged or not of `torch.save`, or needs anything else: then
            the message names it and gives the command that leaves it out.
    """
    try:
        # torch.load goes by a path's ending before it looks at the content.
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content: object = torch.load(file, map_location="cpu", weights_only=True)
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
        with open(path, "rb") as file:
            names = get_unsafe_globals_in_checkpoint(file)
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
    if any(_NEVER.fullmatch(name) for name in names):
        advice = "They can run commands: do not open it, and ask its author for safetensors."
    return FileError(
        f"{os.fspath(path)} needs {quote(names)} to be read; "
        f"expected tensors, containers and numbers only. {advice}"
    )


def _advice(path: Path, names: Collection[str]) -> str:
    if any(name.startswith("torch.nn.") for name in names):
        return "Save the model's state_dict() where it was made."
    out = PurePath(os.fspath(path)).with_suffix(".plain.pt")
    # Names from the file go into the command as an argument, never as code.
    given = [os.fspath(path), str(out), json.dumps(sorted(names))]
    return "Leave that out with: " + shlex.join(["python", "-c", _CONVERT, *given])


def _reason(error: Exception) -> str:
    """The line of torch's message that says what it met."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    after = [line for line in lines if "WeightsUnpickler error:" in line]
    if after:
        i = lines.index(after[0])
        words = after[0].partition("WeightsUnpickler error:")[2].strip()
        return one_line(ValueError(words or " ".join(lines[i + 1 : i + 2])))
    return one_line(error)
