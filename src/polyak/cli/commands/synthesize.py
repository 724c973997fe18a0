"""polyak synthesize A B …: an average that nobody kept, from files of those that were."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from polyak.averaging.files.synthesize import synthesize
from polyak.averaging.kinds import EMA, Average, PowerEMA, Uniform
from polyak.cli.options.weights_out import WeightsOut
from polyak.errors import ConfigError


@dataclass(frozen=True)
class SynthesizeCommand(WeightsOut):
    """Decide on the average afterwards: another decay, width or moment than was kept.

    Writes a plain safetensors state dict. Give one of --decay, --sigma-rel and --uniform-from.
    """

    files: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Of polyak.save(averager, path), from any moments of one run; read one at a time."""

    out: Path
    """The safetensors file to write; one that exists is replaced."""

    decay: float | None = None
    """Of an EMA, per update, with the paper's warm-up."""

    sigma_rel: float | None = None
    """Relative width of a power-function average, in (0, 0.2887)."""

    uniform_from: int | None = None
    """Optimizer step after which the plain mean begins."""

    steps: int | None = None
    """The moment, in optimizer steps; that of the latest file if not given."""

    largest_error: float = 0.05
    """Largest expected error that is tolerated, as a share of what the average averages away."""

    def run(self) -> int:
        """Exit code 0."""
        self.check(self.files, self.out)
        kind = self._average()
        found = synthesize(self.files, kind, steps=self.steps, largest_error=self.largest_error)
        state, manifest = found[kind.label], found.manifest
        about = {key: x for key, x in manifest.items() if key not in ("polyak", "torch")}
        named = {**about, "name": kind.label}
        self.write(state, lambda keys: ((k, state[k]) for k in keys), named, self.out)
        error = manifest["synthesis"]["error"]
        print(
            f"{kind.label} at step {manifest['steps']} of {len(self.files)} files, expected error "
            f"{100 * error:.2g} % -> {self.out.resolve()}"
        )
        if any(key.endswith("running_mean") for key in state):
            print("BatchNorm statistics are mixtures too: polyak.refresh_batchnorm before use")
        return 0

    def _average(self) -> Average:
        given: list[Average] = []
        if self.decay is not None:
            given.append(EMA(self.decay))
        if self.sigma_rel is not None:
            given.append(PowerEMA(sigma_rel=self.sigma_rel))
        if self.uniform_from is not None:
            given.append(Uniform(start=self.uniform_from))
        if len(given) != 1:
            raise ConfigError(
                f"{len(given)} of decay, sigma-rel and uniform-from are given; expected exactly "
                "one. Say which average."
            )
        return given[0]
