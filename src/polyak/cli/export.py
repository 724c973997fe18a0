"""polyak export FILE NAME OUT: one average as a plain state dict."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from safetensors.torch import save_file
from torch import Tensor

from polyak.averaging.readers import EXPORTED, read_foreign
from polyak.errors import ConfigError, FileError, unknown
from polyak.files import replacing


@dataclass(frozen=True)
class ExportCommand:
    """Write one of a file's weights as a plain safetensors state dict, without prefixes."""

    file: Annotated[Path, tyro.conf.Positional]
    """A file that `polyak inspect` knows."""

    name: Annotated[str, tyro.conf.Positional]
    """Which weights, by the name that `polyak inspect` shows."""

    out: Annotated[Path, tyro.conf.Positional]
    """The safetensors file to write; one that exists is replaced."""

    def run(self) -> int:
        """Exit code 0."""
        saved = read_foreign(self.file)
        if self.name not in saved:
            raise ConfigError(unknown(f"name in {self.file}", self.name, saved))
        if saved.manifest.get("names") == "order":
            raise FileError(
                f"{self.file} holds parameters in order, without names; expected names. "
                "Use polyak.averaging.readers.read_foreign(path, model) and polyak.save."
            )
        if self.out.is_dir() or (self.out.exists() and self.out.samefile(self.file)):
            raise ConfigError(f"out is {str(self.out)!r}; expected another file. Name a new one.")
        _write(saved[self.name], self.out, _about(saved.manifest, self.name))
        print(f"{self.name} of {self.file} -> {self.out.resolve()}")
        return 0


def _write(state: Mapping[str, Tensor], out: Path, about: Mapping[str, Any]) -> None:
    # The format refuses tied weights and views; a plain state dict has every name anyway.
    plain = {key: x.detach().clone().contiguous() for key, x in state.items()}
    with replacing(out) as temporary:
        save_file(plain, temporary, metadata={"format": "pt", EXPORTED: json.dumps(about)})


def _about(manifest: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What the file says of one of its weights, and of all of them."""
    about = {key: value for key, value in manifest.items() if key not in ("polyak", "torch")}
    for key in ("averages", "weights", "dtypes"):
        part = manifest.get(key)
        if isinstance(part, dict):
            about[key] = {inner: value for inner, value in part.items() if inner == name}
    return {**about, "name": name}
