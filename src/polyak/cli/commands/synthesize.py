"""polyak synthesize A B …: an average that nobody kept, from files of those that were.

polyak board A B …: all of them, compared on held-out items.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from polyak.averaging.files.mixtures.board import board
from polyak.averaging.files.mixtures.synthesize import synthesize
from polyak.averaging.kinds import EMA, Annealed, Average, Combination, PowerEMA, Uniform
from polyak.averaging.kinds.annealed import Shape
from polyak.cli.options.weights_out import WeightsOut
from polyak.errors import ConfigError
from polyak.userfile import load_function, parse_reference, refusing_errors


@dataclass(frozen=True)
class SynthesizeCommand(WeightsOut):
    """Decide on the average afterwards: another decay, width or moment than was kept.

    Writes a plain safetensors state dict. Give one of --decay, --sigma-rel, --uniform-from,
    --annealed, --lag-free and --shares.
    """

    files: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Of polyak.save(averager, path), from any moments of one run, read one at a time; with --at,
    checkpoints of any tool."""

    out: Path
    """The safetensors file to write; one that exists is replaced."""

    decay: float | None = None
    """Of an EMA, per update, with the paper's warm-up."""

    sigma_rel: float | None = None
    """Relative width of a power-function average, in (0, 0.2887)."""

    uniform_from: int | None = None
    """Optimizer step after which the plain mean begins."""

    annealed: Shape | None = None
    """What stands for a decay of the learning rate of this shape over the last --over steps."""

    over: int | None = None
    """Optimizer steps of that decay."""

    lag_free: float | None = None
    """Two EMAs that together are not behind the weights, with the noise of a mean of so many."""

    shares: tuple[str, ...] | None = None
    """Of averages that the files hold, such as ema_0.99=2 ema_0.998=-1; they sum to one."""

    at: tuple[int, ...] | None = None
    """Of checkpoints with raw weights, the optimizer step of each."""

    steps: int | None = None
    """The moment, in optimizer steps; that of the latest file if not given."""

    largest_error: float = 0.05
    """Largest expected error that is tolerated, as a share of what the average averages away."""

    def run(self) -> int:
        """Exit code 0."""
        self.check(self.files, self.out)
        found = synthesize(
            self.files,
            self._average(),
            steps=self.steps,
            largest_error=self.largest_error,
            at=self.at,
        )
        [(name, state)], manifest = found.items(), found.manifest
        about = {key: x for key, x in manifest.items() if key not in ("polyak", "torch")}
        self.write_state(state, {**about, "name": name}, self.out)
        error = manifest["synthesis"]["error"]
        print(
            f"{name} at step {manifest['steps']} of {len(self.files)} files, expected error "
            f"{100 * error:.2g} % -> {self.out.resolve()}"
        )
        if any(key.endswith("running_mean") for key in state):
            print("BatchNorm statistics are mixtures too: polyak.refresh_batchnorm before use")
        return 0

    def _average(self) -> Average | dict[str, float]:
        given: list[Average | dict[str, float]] = []
        if self.decay is not None:
            given.append(EMA(self.decay))
        if self.sigma_rel is not None:
            given.append(PowerEMA(sigma_rel=self.sigma_rel))
        if self.uniform_from is not None:
            given.append(Uniform(start=self.uniform_from))
        if self.annealed is not None:
            given.append(Annealed(self.annealed, over=self.over or 0))
        if self.lag_free is not None:
            given.append(Combination.lag_free(self.lag_free))
        if self.shares is not None:
            given.append(dict(map(_share, self.shares)))
        if len(given) != 1:
            raise ConfigError(
                f"{len(given)} of decay, sigma-rel, uniform-from, annealed, lag-free and shares "
                "are given; expected exactly one. Say which average."
            )
        return given[0]


def _share(text: str) -> tuple[str, float]:
    """An average's name and its share."""
    name, _, number = text.rpartition("=")
    try:
        return name, float(number)
    except ValueError:
        raise ConfigError(
            f"shares has {text!r}; expected NAME=SHARE, such as ema_0.99=2."
        ) from None


@dataclass(frozen=True)
class BoardCommand(WeightsOut):
    """Compare every average of one run on held-out items, and write the best.

    In at most 40 scores, by kind, width, start and stop. One half of the items chooses; the losses
    that are shown are of the other.
    """

    files: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Of polyak.save(averager, path), from any moments of one run; read one at a time."""

    score: str
    """file.py:score, a function from a state dict to the loss of each held-out item."""

    out: Path | None = None
    """The safetensors file for the best; one that exists is replaced."""

    largest_error: float = 0.05
    """Averages that are expected to be farther off than this share of what they average away are
    left out."""

    def run(self) -> int:
        """Exit code 0."""
        if self.out is not None:
            self.check(self.files, self.out)
        reference = parse_reference(self.score)
        if reference is None:
            raise ConfigError(
                f"score is {self.score!r}; expected file.py:score, a function from a state dict to "
                "the loss of each held-out item."
            )
        score = load_function(*reference, what="score", error=ConfigError)
        with refusing_errors(self.score, reference[0], error=ConfigError):
            found = board(self.files, score, largest_error=self.largest_error)
        print(found)
        best, manifest = found.best, found.weights.manifest
        said = f"{best.average.label} at step {best.steps} is the best of {found.scores} scores"
        if self.out is None:
            print(said)
            return 0
        about = {key: x for key, x in manifest.items() if key not in ("polyak", "torch")}
        [state] = found.weights.values()
        self.write_state(state, {**about, "name": best.average.label}, self.out)
        print(f"{said} -> {self.out.resolve()}")
        if any(key.endswith("running_mean") for key in state):
            print("BatchNorm statistics are mixtures: polyak.refresh_batchnorm before use")
        return 0
