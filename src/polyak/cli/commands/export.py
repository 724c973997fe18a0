"""polyak export FILE NAME OUT: one average as a plain state dict; or a run's network with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from polyak.averaging.files.export import read_kept, read_named, write_as, write_plain
from polyak.cli.options.weights_out import OF_TORCH, check_plain_out
from polyak.cli.run_names import run_folder_of
from polyak.errors import ConfigError


@dataclass(frozen=True)
class ExportCommand:
    """Write one of a file's weights, or a run's network with one of its arms, for other tools.

    The ending of OUT says what is written. Of a file: .safetensors, a plain state dict without
    prefixes; with --as the file that a tool loads and goes on with. Of a run: .safetensors, .pt2
    (torch.export) or .onnx (polyak[onnx]), with a JSON card beside.
    """

    file: Annotated[Path, tyro.conf.Positional]
    """A file that `polyak inspect` knows, or a run's folder or id in out/."""

    name: Annotated[str, tyro.conf.Positional]
    """Which weights, by the name that `polyak inspect` shows; of a run an arm, such as
    ema_acc_bn."""

    out: Annotated[Path, tyro.conf.Positional]
    """The file to write; one that exists is replaced."""

    as_: Annotated[str | None, tyro.conf.arg(name="as")] = None
    """torch, timm, ema-pytorch, torch-ema or diffusers: the average of a file as that tool saves
    it, with its counter and decay. OUT is a .pt or .pth; for diffusers also a folder that
    save_pretrained has made."""

    def run(self) -> int:
        """Exit code 0."""
        run = run_folder_of(self.file)
        if self.as_ is not None:
            return self._run_as(self.as_, run)
        if run is not None:
            if self.out.is_dir():
                raise ConfigError(
                    f"out is '{self.out}', a folder; expected a file. Name a new one."
                )
            # Not at the top: a run needs the laboratory, a file of weights does not.
            from polyak.runs import export, load

            card = export(load(run), self.name, self.out)
            print(f"{self.name} of {run} -> {self.out.resolve()}")
            print(f"card: {card.resolve()}")
            return 0
        check_plain_out([self.file], self.out)
        name, state, manifest = read_named(self.file, self.name)
        write_plain(state, self.out, _about(manifest, name))
        print(f"{name} of {self.file} -> {self.out.resolve()}")
        return 0

    def _run_as(self, tool: str, run: Path | None) -> int:
        if run is not None:
            raise ConfigError(
                f"file is '{self.file}', a run; expected a file of averages for --as. Name one "
                "in its folder averages/."
            )
        check_tools_out(self.file, self.out)
        name, kept = read_kept(self.file, self.name)
        loader = write_as(tool, kept, self.out)
        print(f"{name} of {self.file} -> {self.out.resolve()}")
        print(f"loaded by {loader}")
        return 0


def check_tools_out(file: Path, out: Path) -> None:
    """Raise a ConfigError where a tool's file cannot or should not be written to `out`."""
    if out.exists() and file.exists() and out.samefile(file):
        raise ConfigError(f"out is {str(out)!r}; expected another file. Name a new one.")
    if not out.is_dir() and out.suffix.lower() not in OF_TORCH:
        raise ConfigError(
            f"out is '{out}', and what --as writes is torch's; expected .pt or .pth. Change it."
        )


def _about(manifest: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What the file says of one of its weights, and of all of them."""
    about = {key: value for key, value in manifest.items() if key not in ("polyak", "torch")}
    for key in ("averages", "begun", "folded", "weights", "dtypes"):
        part = manifest.get(key)
        if isinstance(part, dict):
            about[key] = {inner: value for inner, value in part.items() if inner == name}
    return {**about, "name": name}
