"""A measurement of what averaging costs, as settings."""

from dataclasses import asdict, dataclass
from typing import Any

from polyak.errors import ConfigError
from polyak.training.config.run import RunConfig, digest


@dataclass(frozen=True, kw_only=True, slots=True)
class OverheadConfig:
    """A measurement of banks beside one and the same training."""

    run: RunConfig
    """What is trained. Its epoch is a round; its longest windows are the averages."""

    averages: tuple[int, ...] = (0, 1, 5)
    """Sizes M of the banks; 0, to compare with, is training without any."""

    every: tuple[int, ...] = (1, 16)
    """Steps per update, T."""

    rounds: int = 8
    """Rounds that count; one more goes before them."""

    def cases(self) -> tuple[tuple[int, int | None], ...]:
        """All pairs of M and T; without averages there is no T."""
        found: list[tuple[int, int | None]] = []
        for size in self.averages:
            found += [(size, every) for every in self.every] if size else [(0, None)]
        return tuple(found)

    def check(self) -> None:
        """Raise a ConfigError that names every fault."""
        faults = self.run.faults()
        most = len(self.run.averaging.decays)
        if 0 not in self.averages or not all(0 <= m <= most for m in self.averages):
            faults.append(f"averages is {self.averages!r}; expected 0 and sizes up to {most}")
        if not self.every or min(self.every) < 1:
            faults.append(f"every is {self.every!r}; expected steps >= 1")
        if self.rounds < 1:
            faults.append(f"rounds is {self.rounds!r}; expected >= 1")
        if not self.run.holdout:
            faults.append("run is without hold-out; expected one to evaluate on")
        if faults:
            raise ConfigError.of("overhead", faults)

    def record(self) -> dict[str, Any]:
        """The configuration as plain JSON values."""
        return {"kind": "overhead", **asdict(self), "run": self.run.record()}

    @property
    def id(self) -> str:
        """Name of the measurement's folder."""
        return digest(self.record())
