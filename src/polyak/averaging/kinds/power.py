"""The average whose profile is a power of time."""

from dataclasses import dataclass
from functools import lru_cache

from polyak.averaging.kinds.average import Average, Update
from polyak.averaging.kinds.profiles.long_runs import Sums, power_squares, powers
from polyak.errors import ConfigError
from polyak.numbers import as_plain, is_number

_STEEPEST = 1e100
_WIDEST = 12**-0.5
"""σ_rel of a uniform average."""


@dataclass(frozen=True)
class PowerEMA(Average):
    """Average with a power-law profile: the weight of the iterate at step s grows like s^γ.

        d = (1 − Δ/t)^(γ+1),   t steps so far, Δ of them since the last update

    Its width keeps a fixed share of the run, however long that is. Give either γ or the
    relative width σ_rel = sqrt((γ+1) / ((γ+2)²·(γ+3))).

    Args:
        sigma_rel: Standard deviation of the profile over the length of the run, in (0, 0.2887).
        gamma: Exponent γ > 0.
        name: `power_<sigma_rel>` if None.

    Source:
        Karras et al. 2024 (EDM2), equations 3 to 5 of section 3.1.

    Example:
        >>> round(PowerEMA(sigma_rel=0.1).exponent, 2)
        6.94
    """

    sigma_rel: float | None = None
    gamma: float | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if (self.sigma_rel is None) == (self.gamma is None):
            raise ConfigError(
                f"PowerEMA has sigma_rel={self.sigma_rel!r} and gamma={self.gamma!r}; "
                "expected exactly one of them. Pass one."
            )
        width, gamma = as_plain(self.sigma_rel), as_plain(self.gamma)
        object.__setattr__(self, "sigma_rel", width)
        object.__setattr__(self, "gamma", gamma)
        if width is not None and not (is_number(width) and 0 < width < _WIDEST):
            raise ConfigError(
                f"sigma_rel is {width!r}; expected 0 < sigma_rel < {_WIDEST:.4f} "
                "(that of a uniform average)."
            )
        if gamma is not None and not (is_number(gamma) and 0 < gamma < _STEEPEST):
            raise ConfigError(f"gamma is {gamma!r}; expected 0 < gamma < {_STEEPEST:g}.")

    @property
    def exponent(self) -> float:
        """γ, whichever of the two parameters was given."""
        if self.gamma is not None:
            return self.gamma
        assert self.sigma_rel is not None
        return _gamma_of(self.sigma_rel)

    @property
    def label(self) -> str:
        """The name in the bank."""
        width = self.sigma_rel if self.sigma_rel is not None else _sigma_of(self.exponent)
        return self.name or f"power_{width:.3g}"

    def weight(self, update: Update, folded: int) -> float:
        """Lerp weight w = 1 − (1 − Δ/t)^(γ+1), in [0, 1]. `folded` is not used."""
        kept: float = (1.0 - update.since / update.step) ** (self.exponent + 1.0)
        return 1.0 - kept

    def sums(self, *, updates: int, every: int) -> Sums:
        """Nothing, Σ (i/u)^(γ+1) over the updates before the last one, and the squares."""
        if not updates:
            return Sums(1.0, 0.0, 1.0)
        g = self.exponent + 1.0
        return Sums(0.0, powers(g, updates), power_squares(g, updates))

    def describe(self, every: int) -> str:
        """Exponent and mean age."""
        gamma = self.exponent
        return f"power function, γ {gamma:.3g}, mean age {1 / (gamma + 2):.1%} of the run so far"


def _sigma_of(gamma: float) -> float:
    return float(((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))) ** 0.5)


@lru_cache(maxsize=64)
def _gamma_of(sigma_rel: float) -> float:
    """γ with σ_rel(γ) = sigma_rel, by bisection: σ_rel falls monotonically in γ ≥ 0."""
    low, high = 0.0, 1.0
    while _sigma_of(high) > sigma_rel:
        high *= 2.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _sigma_of(middle) > sigma_rel else (low, middle)
    return (low + high) / 2
