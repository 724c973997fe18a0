"""One file's weights of one name: read from any known file, written as a plain state dict."""

import json
import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from polyak import tensor_files
from polyak.averaging.files.file_format import Path
from polyak.averaging.files.foreign import EXPORTED, read_foreign
from polyak.errors import ConfigError, FileError, unknown


def read_named(path: Path, name: str | None) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
    """A file's weights of one name, and what the file says of all that it holds.

    Args:
        path: A file that `read_foreign` reads.
        name: Which of its weights; None for a file's only ones.

    Returns:
        Name, state dict, manifest.

    Raises:
        ConfigError: if the file has no weights of that name, or several and none is named.
        FileError: if its parameters have no names, and as `read_foreign` does.
    """
    saved = read_foreign(path)
    where = os.fspath(path)
    if name is None:
        if len(saved) != 1:
            raise ConfigError(
                f"{where} holds {', '.join(saved)}; expected weights of one name. Name them."
            )
        [name] = saved
    if name not in saved:
        raise ConfigError(unknown(f"name in {where}", name, saved))
    if saved.manifest.get("names") == "order":
        raise FileError(
            f"{where} holds parameters in order, without names; expected names. "
            "Use polyak.read_foreign(path, model) and polyak.save."
        )
    return name, saved[name], saved.manifest


def write_plain(state: Mapping[str, Tensor], out: Path, about: Mapping[str, Any]) -> None:
    """Write a state dict to a safetensors file that any tool reads.

    Args:
        state: The tensors, tied ones under each of their names.
        out: The file; written beside its place and renamed.
        about: JSON values that `polyak inspect` shows; `name` is the weights' name.

    Raises:
        FileError: for a dtype that safetensors does not have.
        OSError: if the disk refuses, naming `out`.
    """
    # The format refuses tied weights and views; a plain state dict has every name anyway.
    plain = {key: x.detach().clone().contiguous() for key, x in state.items()}
    tensor_files.write(out, plain, {"format": "pt", EXPORTED: json.dumps(about)})
