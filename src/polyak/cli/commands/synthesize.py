"""polyak synthesize A B …: an average that nobody kept, from files of those that were.

polyak board A B … or RUN: all of them, compared on held-out items.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from polyak.averaging.boards.board import Board
from polyak.averaging.boards.search import Score
from polyak.averaging.files.mixtures.board import board
from polyak.averaging.files.mixtures.post_hoc import is_post_hoc, synthesize_post_hoc
from polyak.averaging.files.mixtures.synthesize import synthesize
from polyak.averaging.kinds import EMA, Annealed, Average, Combination, PowerEMA, Uniform
from polyak.averaging.kinds.annealed import Shape
from polyak.averaging.saved_weights import SavedWeights
from polyak.cli.options.weights_out import WeightsOut
from polyak.cli.run_names import run_folder_of
from polyak.errors import ConfigError
from polyak.userfile import load_function, parse_reference, refusing_errors


@dataclass(frozen=True)
class SynthesizeCommand(WeightsOut):
    """Decide on the average afterwards: another decay, width or moment than was kept.

    Writes a plain safetensors state dict. Give one of --decay, --sigma-rel, --uniform-from,
    --annealed, --lag-free and --shares.
    """

    files: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Of polyak.save(averager, path), or checkpoints with an averager's state, from any moments of
    one run, read one at a time; with --at, checkpoints of any tool; with --update-every, a folder
    of PostHocEMA."""

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

    update_every: int | None = None
    """Of a folder that PostHocEMA of ema-pytorch or pytorch-posthoc-ema has filled: what it was
    given as update_every; 100 and 10 where nothing was said."""

    kept_sigma_rels: tuple[float, ...] | None = None
    """The widths that it was given, in order; pytorch-posthoc-ema's files say them."""

    kept_gammas: tuple[float, ...] | None = None
    """Its gammas, instead."""

    steps: int | None = None
    """The moment, in optimizer steps; that of the latest file if not given."""

    largest_error: float = 0.05
    """Largest expected error that is tolerated, as a share of what the average averages away."""

    def run(self) -> int:
        """Exit code 0."""
        self.check(self.files, self.out)
        found = self._found()
        [(name, state)], manifest = found.items(), found.manifest
        about = {key: x for key, x in manifest.items() if key not in ("polyak", "torch")}
        self.write_state(state, {**about, "name": name}, self.out)
        error = manifest["synthesis"]["error"]
        files = len(manifest.get("kept", self.files))
        print(
            f"{name} at step {manifest['steps']} of {files} files, expected error "
            f"{100 * error:.2g} % -> {self.out.resolve()}"
        )
        if kept := manifest.get("kept"):
            latest = {width["file"].partition(".")[0]: width for width in kept}.values()
            widths = ", ".join(f"{w['sigma_rel']:.3g} is {w['really']:.2g}" for w in latest)
            print(f"kept as sigma_rel: {widths}")
        if any(key.endswith("running_mean") for key in state):
            print("BatchNorm statistics are mixtures too: polyak.refresh_batchnorm before use")
        return 0

    def _found(self) -> SavedWeights:
        average, every = self._average(), self.update_every
        theirs = [path for path in self.files if is_post_hoc(path)]
        of_theirs = theirs or self.kept_sigma_rels or self.kept_gammas
        if every is None and not of_theirs:
            return synthesize(
                self.files,
                average,
                steps=self.steps,
                largest_error=self.largest_error,
                at=self.at,
            )
        if every is None:
            raise ConfigError(
                "update-every is not given; expected what PostHocEMA was given, which its files do "
                "not say. If nothing was, it is 100 in ema-pytorch and 10 in pytorch-posthoc-ema."
            )
        if len(self.files) != 1 or self.at is not None or isinstance(average, dict):
            raise ConfigError(
                "update-every is given; expected one folder of PostHocEMA, without at and shares."
            )
        return synthesize_post_hoc(
            self.files[0],
            average,
            every=every,
            sigma_rels=self.kept_sigma_rels,
            gammas=self.kept_gammas,
            steps=self.steps,
            largest_error=self.largest_error,
        )

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
    """Of polyak.save(averager, path), or checkpoints with an averager's state, from any moments of
    one run, read one at a time; with --at, checkpoints of any tool; or the folder or id of one run
    of polyak train, of what it kept at its stops."""

    score: str | None = None
    """file.py:score, a function from a state dict to the loss of each held-out item. Of a run it
    may be left out: the cross-entropy on its hold-out."""

    out: Path | None = None
    """The safetensors file for the best; one that exists is replaced."""

    largest_error: float = 0.05
    """Averages that are expected to be farther off than this share of what they average away are
    left out."""

    at: tuple[int, ...] | None = None
    """Of checkpoints with raw weights, of any tool, the optimizer step of each."""

    device: str = "cpu"
    """Where the networks of a run compute: cpu, cuda."""

    def run(self) -> int:
        """Exit code 0."""
        run = run_folder_of(self.files[0]) if len(self.files) == 1 else None
        if self.out is not None:
            self.check(self.files if run is None else (run / "averages").glob("*"), self.out)
        found = self._found(run)
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
        mixed = not manifest["refreshed_batchnorm"]
        if mixed and any(key.endswith("running_mean") for key in state):
            print("BatchNorm statistics are mixtures: polyak.refresh_batchnorm before use")
        return 0

    def _found(self, run: Path | None) -> Board:
        if run is not None and self.at is not None:
            raise ConfigError(f"at is given with the run {run}; expected it with checkpoints.")
        if self.score is None and run is not None:
            return self._of_run(run, None)
        reference = parse_reference(self.score or "")
        if self.score is None or reference is None:
            raise ConfigError(
                f"score is {self.score!r}; expected file.py:score, a function from a state dict to "
                "the loss of each held-out item. Only of a run may it be left out."
            )
        score = load_function(*reference, what="score", error=ConfigError)
        with refusing_errors(self.score, reference[0], error=ConfigError):
            if run is not None:
                return self._of_run(run, score)
            return board(self.files, score, largest_error=self.largest_error, at=self.at)

    def _of_run(self, run: Path, score: Score | None) -> Board:
        # Not at the top: a run needs the laboratory, files of weights do not.
        from polyak import runs

        found = runs.load(run)
        return runs.board(found, score, largest_error=self.largest_error, device=self.device)
