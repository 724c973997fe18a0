"""polyak export FILE NAME OUT: one average as a plain state dict."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from polyak.averaging.files.export import read_named, write_plain
from polyak.errors import ConfigError


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
        name, state, manifest = read_named(self.file, self.name)
        check_overwrites_nothing(self.file, self.out)
        write_plain(state, self.out, _about(manifest, name))
        print(f"{name} of {self.file} -> {self.out.resolve()}")
        return 0


def check_overwrites_nothing(file: Path, out: Path) -> None:
    """Raise a ConfigError where `out` is a folder, or the file that is read."""
    if out.is_dir() or (out.exists() and out.samefile(file)):
        raise ConfigError(f"out is {str(out)!r}; expected another file. Name a new one.")


def _about(manifest: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What the file says of one of its weights, and of all of them."""
    about = {key: value for key, value in manifest.items() if key not in ("polyak", "torch")}
    for key in ("averages", "weights", "dtypes"):
        part = manifest.get(key)
        if isinstance(part, dict):
            about[key] = {inner: value for inner, value in part.items() if inner == name}
    return {**about, "name": name}
