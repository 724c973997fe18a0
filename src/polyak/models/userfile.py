"""Networks that a user's own Python file builds: `file.py:build`."""

from pathlib import Path

import torch
from torch import nn

from polyak import checksums
from polyak.errors import ConfigError
from polyak.userfile import load_function


def build_user_model(
    path: Path, function: str, *, file_sha256: str | None, classes: int, channels: int, seed: int
) -> nn.Module:
    """Run `function(classes, channels)` with torch's generators seeded; they are put back.

    Raises:
        ConfigError: if file or function is missing, the file is not the one that the run was
            configured with, or the result is no module.
    """
    build = load_function(path, function, what="model.name", error=ConfigError)
    got = checksums.of_file(path)
    if file_sha256 not in (None, got):
        raise ConfigError(
            f"'{path}' is {got[:12]}; expected {str(file_sha256)[:12]}, as when the run was "
            "configured. Put the file back, or start the study again: changed code is another run."
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build(classes, channels)
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"'{path}:{function}' returned a {type(model).__name__}; expected a torch.nn.Module."
        )
    return model.train()
