"""polyak merge A B …: the mean of the weights in several files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from polyak.averaging.files.mixtures.merge import NAME, Mean
from polyak.cli.options.weights_out import WeightsOut


@dataclass(frozen=True)
class MergeCommand(WeightsOut):
    """Average the weights of several files (a model soup) into a plain safetensors state dict."""

    files: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Two or more that `polyak inspect` knows, files or folders, of one network; read a tensor at a
    time."""

    out: Path
    """The safetensors file to write; one that exists is replaced."""

    name: str | None = None
    """Which weights of each file; needed where a file holds several."""

    shares: tuple[float, ...] | None = None
    """One number > 0 for each file; equal without. Negative ones with --extrapolate."""

    across_runs: bool = False
    """Also files that say they are of different runs or seeds."""

    extrapolate: bool = False
    """Allow negative shares; all then sum to one. Shares 2 -1 go as far again beyond the first file
    as it lies from the second."""

    statistics: Literal["combine", "last"] = "combine"
    """Whether BatchNorm statistics are combined, too, or those of the last file."""

    def run(self) -> int:
        """Exit code 0."""
        self.check(self.files, self.out)
        mean = Mean(
            self.files,
            name=self.name,
            shares=self.shares,
            across_runs=self.across_runs,
            extrapolate=self.extrapolate,
            statistics=self.statistics,
        )
        self.write(mean.layout, mean.read, mean.about, self.out)
        print(f"{NAME} of {len(self.files)} files -> {self.out.resolve()}")
        combined = self.statistics == "combine"
        if combined and any(key.endswith("running_mean") for key in mean.layout):
            print("BatchNorm statistics are means too: polyak.refresh_batchnorm before use")
        return 0
