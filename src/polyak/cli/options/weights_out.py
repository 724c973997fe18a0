"""Where a command writes weights: one file, or a folder for those that are too large for one."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from polyak.averaging.files.export import described, write_in_turn
from polyak.averaging.files.on_disk.writing import Read, write_distributed, write_shards
from polyak.errors import ConfigError

_OF_NETWORKS = (".pt2", ".onnx")
"""Endings that take a network, which only a run knows."""

OF_TORCH = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".tar", ".zip")
_OTHER_TOOLS = (".npy", ".npz", ".h5", ".hdf5", ".keras", ".gguf", ".msgpack", ".pb", ".tflite")
_OTHERS = (*OF_TORCH, *_OTHER_TOOLS, ".json", ".csv")
"""Endings of formats that weights come in elsewhere. What is none, such as the end of ema_0.998,
promises nothing."""
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<unit>[KMGT]?)B?", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class WeightsOut:
    """How weights are written."""

    shard_size: str | None = None
    """Instead of a file a folder of safetensors of at most this size, such as 5GB, with the index
    that transformers and diffusers read."""

    distributed: bool = False
    """Instead of a file a folder that torch.distributed.checkpoint reads."""

    def check(self, files: Iterable[Path], out: Path) -> None:
        """Raise a ConfigError where weights cannot or should not be written to `out`."""
        if self.distributed and self.shard_size is not None:
            raise ConfigError(
                "shard-size and distributed are given; expected one of them. Say which folder."
            )
        if not self.distributed and self.shard_size is None:
            check_plain_out(files, out)
        elif out.exists():
            raise ConfigError(f"out is '{out}', which exists; expected a new folder. Name another.")
        self._most()

    def write(
        self, layout: Mapping[str, Tensor], read: Read, about: Mapping[str, Any], out: Path
    ) -> None:
        """Write weights of which one tensor at a time is in memory."""
        most = self._most()
        if self.distributed:
            write_distributed(out, layout, read)
        elif most is not None:
            write_shards(out, layout, read, described(about), most=most)
        else:
            write_in_turn(layout, read, out, about)

    def write_state(self, state: Mapping[str, Tensor], about: Mapping[str, Any], out: Path) -> None:
        """Write weights that are in memory."""
        self.write(state, lambda keys: ((key, state[key]) for key in keys), about, out)

    def _most(self) -> int | None:
        if self.shard_size is None:
            return None
        found = _SIZE.fullmatch(self.shard_size.strip())
        size = float(found["number"]) * _UNITS[found["unit"].upper()] if found else 0
        if size < 1:
            raise ConfigError(
                f"shard-size is {self.shard_size!r}; expected bytes, such as 500MB or 5GB. Say one."
            )
        return int(size)


def check_plain_out(files: Iterable[Path], out: Path) -> None:
    """Raise a ConfigError where safetensors cannot or should not be written to `out`.

    Args:
        files: What is read.
        out: What is to be written.
    """
    there = [file for file in files if file.exists()] if out.exists() else []
    if out.is_dir() or any(out.samefile(file) for file in there):
        raise ConfigError(f"out is {str(out)!r}; expected another file. Name a new one.")
    ending = out.suffix.lower()
    if ending in _OF_NETWORKS:
        raise ConfigError(
            f"out is '{out}', which holds a network; expected .safetensors for weights without "
            "one. `polyak export` writes it from a run's folder."
        )
    if ending in _OTHERS:
        raise ConfigError(
            f"out is '{out}', and what is written is safetensors; expected that ending. Change it."
        )
