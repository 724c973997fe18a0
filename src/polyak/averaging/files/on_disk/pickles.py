"""Pickled checkpoints, read without running anything that a file asks to run."""

import os
import pickletools
import re
from collections.abc import Collection
from zipfile import BadZipFile, ZipFile

from torch.serialization import get_unsafe_globals_in_checkpoint

from polyak.averaging.files.file_format import Path, file_format
from polyak.averaging.files.layouts.stand_ins import load_with_stand_ins
from polyak.errors import FileError, one_line, quote
from polyak.tensor_files import damaged

# Nothing that holds weights needs these; torch's reader blocks most of them whatever one allows.
_NEVER = re.compile(
    r"(os|posix|nt|sys|subprocess|commands|popen2|pty|shutil|socket|ctypes|runpy|code|codeop|imp"
    r"|importlib|pkgutil|marshal|webbrowser|platform|pdb|bdb|timeit)\..*"
    r"|(pickle|_pickle|cPickle)\.loads?"
    r"|(builtins|__builtin__)\.(eval|exec|execfile|compile|__import__|open|file|input|breakpoint)"
)
# What torch makes tensors with: with a stand-in for them there would be no weights.
_OF_TENSORS = re.compile(r"torch\.(_\w+|storage|nested|distributed\.tensor)\..*")
_NOT_INERT = ("persistent_load", "Tensor subclass")
"""In torch's messages on whole modules of before torch 1.6, and on tensors of another class."""

_SLACK = 1 << 20
"""Bytes that an archive of any size may unpack to."""

_FRAME = "Unsupported operand 149"
"""Torch's message on what begins a pickle of protocol 4."""

_NAMED = re.compile(r"GLOBAL ([\w.]+)")


def read_pickled(path: Path) -> tuple[object, list[str]]:
    """What `torch.save` wrote, on the CPU, and the names of what is left unread in it.

    Tensors, containers, numbers and text are read. An object of any other class is a `StandIn`,
    which knows the name of the class and what the file would have made the object of.

    Raises:
        FileError: if the file is damaged or not of `torch.save`, names what can run commands,
            or needs more than torch's own reader for its tensors.
    """
    _refuse_bomb(path)
    names: list[str] = []
    while True:
        if any(_NEVER.fullmatch(name) or _OF_TENSORS.fullmatch(name) for name in names):
            raise refusal(path, names)
        try:
            return load_with_stand_ins(path, names), names
        except Exception as error:  # an unpickler meets any exception in a hostile file
            met = _refused(error)
            if met is None or met in names:
                needed = names and any(words in str(error) for words in _NOT_INERT)
                raise (refusal(path, names) if needed else _unreadable(path, error)) from error
            # An archive is asked for all of them at once, which takes a pass over it.
            names = [*names, met] if names else sorted({met, *_unsafe_globals(path)})


def _refuse_bomb(path: Path) -> None:
    """Refuse an archive that unpacks to far more than it holds; `torch.save` compresses nothing.

    Raises:
        FileError: naming both sizes.
    """
    if file_format(path) != "zip":
        return
    try:
        with ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (BadZipFile, OSError, ValueError, NotImplementedError):
        return  # what reads it next says what is wrong
    size = os.path.getsize(path)
    if unpacked > 2 * size + _SLACK:
        raise FileError(
            f"{os.fspath(path)} has {size:,} bytes and unpacks to {unpacked:,}; expected an "
            "archive of torch.save, which compresses nothing. Do not open it, and ask its author "
            "for safetensors."
        )


def refusal(path: Path, names: Collection[str]) -> FileError:
    """The error for a file whose weights are not to be had without what it names."""
    advice = "Save the model's state_dict() where it was made, with torch.save."
    if any(_NEVER.fullmatch(name) for name in names):
        advice = "They can run commands: do not open it, and ask its author for safetensors."
    return FileError(
        f"{os.fspath(path)} needs {quote(names)} to be read; "
        f"expected tensors, containers and numbers only. {advice}"
    )


def _unreadable(path: Path, error: Exception) -> FileError:
    needed = _globals_of_pickle(path) if file_format(path) == "pickle" else []
    if needed:
        return refusal(path, needed)
    if "TorchScript" in str(error):
        return FileError(
            f"{os.fspath(path)} is a TorchScript archive, which holds code; expected weights. "
            "Save the state_dict() of the module that torch.jit.load gives."
        )
    if _FRAME in str(error):
        return FileError(
            f"{os.fspath(path)} is pickled by protocol 4 or a later one; expected 2. Save it "
            "with torch.save's own protocol."
        )
    return damaged(path, _reason(error))


def _unsafe_globals(path: Path) -> list[str]:
    """The names that an archive asks to import beyond torch's own, found without importing."""
    try:
        with open(path, "rb") as file:
            return sorted(set(get_unsafe_globals_in_checkpoint(file)))
    except Exception:  # no zip archive, or a damaged one
        return []


def _refused(error: Exception) -> str | None:
    """The name at which torch's reader stopped."""
    found = _NAMED.search(str(error))
    if found is None:
        return None
    # Of these the message gives the last part only.
    return found[1] if "." in found[1] else f"builtins.{found[1]}"


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


def _reason(error: Exception) -> str:
    """The line of torch's message that says what it met."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    after = [line for line in lines if "WeightsUnpickler error:" in line]
    if after:
        i = lines.index(after[0])
        words = after[0].partition("WeightsUnpickler error:")[2].strip()
        return one_line(ValueError(words or " ".join(lines[i + 1 : i + 2])))
    return one_line(error)
