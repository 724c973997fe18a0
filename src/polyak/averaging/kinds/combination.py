"""Averages that are sums of others, with shares that sum to one and may be negative."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from numbers import Real
from typing import Any

from polyak.averaging.kinds.average import Average, Update
from polyak.averaging.kinds.ema import EMA
from polyak.errors import ConfigError, unknown
from polyak.numbers import is_number

_TOLERANCE = 1e-6
"""By how much shares may miss 1: written-out ones are rounded."""


def checked_shares(what: str, shares: Iterable[Any]) -> list[float]:
    """Shares as numbers.

    Raises:
        ConfigError: unless they are finite and sum to one.

    Example:
        >>> checked_shares("shares", [2, -1])
        [2.0, -1.0]
    """
    given = list(shares)
    if not all(isinstance(x, Real) and isfinite(float(x)) for x in given):
        raise ConfigError(f"{what} are {given}; expected finite numbers that sum to 1.")
    found = [float(x) for x in given]
    if abs(sum(found) - 1.0) > _TOLERANCE:
        raise ConfigError(
            f"{what} are {given}, which sum to {sum(found):.7g}; expected a sum of 1. An average "
            "is a sum of weights whose shares sum to one; divide them by their sum."
        )
    return found


@dataclass(frozen=True)
class Initial(Average):
    """The weights that a run began with, w = 0 at every update: what BEMA takes away.

    Example:
        >>> Initial().weight(Update(5, 6, 1), 0)
        0.0
    """

    name: str | None = None

    @property
    def label(self) -> str:
        """The name in the bank."""
        return self.name or "initial"

    def weight(self, update: Update, folded: int) -> float:
        """0: nothing is taken in."""
        return 0.0

    @property
    def depends_on_steps(self) -> bool:
        """Not at all."""
        return False

    def steady(self, every: int) -> tuple[int, float]:
        """From the start, at d = 1."""
        return 0, 1.0

    def describe(self, every: int) -> str:
        """That they never move."""
        return "the initial weights"


LAST = EMA(0.0, warmup=None, name="last")
"""The weights of the last update."""


@dataclass(frozen=True, init=False)
class Combination(Average):
    """A sum of other averages, with shares that sum to one; negative ones look ahead.

        m = Σ_k c_k·m_k,   Σ_k c_k = 1

    An average is behind its weights by its mean age (lag). A negative share of a longer average
    takes lag away and adds noise. A bank keeps the parts (`parts_to_keep`), and
    `Averager.combine` reads the sum; `polyak.synthesize` makes it from files.

    Args:
        shares: Kinds, or decays of EMAs, and the share of each.
        name: `combination` if None.

    Raises:
        ConfigError: unless shares are finite and sum to one.

    Example:
        >>> ahead = Combination({EMA(0.98, warmup=None): 2, EMA(0.99, warmup=None): -1})
        >>> from polyak.averaging.kinds.profiles.profile import contents
        >>> round(contents(ahead, updates=10**6).mean_age, 6)
        -1.0
    """

    of: tuple[tuple[Average, float], ...]
    name: str | None

    def __init__(
        self,
        shares: Mapping[float | Average, float] | Iterable[tuple[float | Average, float]],
        *,
        name: str | None = None,
    ) -> None:
        pairs = list(shares.items() if isinstance(shares, Mapping) else shares)
        kinds = [EMA(float(k)) if isinstance(k, Real) else k for k, _ in pairs]
        wrong = [kind for kind in kinds if not isinstance(kind, Average) or kind.parts]
        if wrong or not kinds:
            raise ConfigError(
                f"a part of the combination is {wrong[0] if wrong else None!r}; expected decays or "
                "kinds that a bank keeps, such as EMA, and the share of each."
            )
        found = checked_shares("shares", (share for _, share in pairs))
        object.__setattr__(self, "of", tuple(zip(kinds, found, strict=True)))
        object.__setattr__(self, "name", name)

    @classmethod
    def lag_free(
        cls,
        noise: float,
        *,
        lag: float = 0.0,
        ratio: float = 2.0,
        start: int = 0,
        name: str | None = None,
    ) -> "Combination":
        """Two EMAs that together have the noise and the lag that are asked for.

            m = c·m_a + (1 − c)·m_b,   c = (b − L)/(b − a),   b = ρ·a
            1/N = c²/(2a + 1) + 2c(1 − c)/(a + b + 1) + (1 − c)²/(2b + 1)

        with mean ages a and b of EMAs of decay a/(1 + a) and b/(1 + b). It is far better than one
        EMA where weights still move: that of the same noise is (N − 1)/2 updates behind.

        Args:
            noise: N, the plain mean of so many independent weights has as little noise; > 1.
            lag: L, mean age in updates, from 0 to below that of one EMA, (N − 1)/2.
            ratio: ρ > 1, of the mean ages. Near 1 it is the double EMA, 2·m − EMA(m), at lag 0.
            start: Optimizer steps before both EMAs begin, ≥ 0, as of `EMA`.
            name: `lag_free_<noise>`, with `_lag_<lag>` and `_from_<start>` unless those are 0, if
                None.

        Raises:
            ConfigError: for values outside their range.

        Source:
            Double EMA: Mulloy 1994. That it is one of a family given by noise and lag: ours.

        Example:
            >>> [(round(kind.decay, 4), share) for kind, share in Combination.lag_free(100).of]
            [(0.9891, 2.0), (0.9945, -1.0)]
        """
        faults = []
        if not _number(noise) or not 1.0 < noise < 1e12:
            faults.append(f"noise is {noise!r}; expected an effective number of weights > 1")
        if not _number(ratio) or not 1.0 < ratio < 1e6:
            faults.append(f"ratio is {ratio!r}; expected > 1")
        if not faults and (not _number(lag) or not 0.0 <= lag < (noise - 1.0) / 2.0):
            faults.append(
                f"lag is {lag!r}; expected 0 <= lag < {(noise - 1.0) / 2.0:g}, that of one EMA of "
                "this noise"
            )
        if faults:
            raise ConfigError.of("Combination.lag_free", faults)
        short = _shorter_age(float(noise), float(lag), float(ratio))
        share = (ratio * short - lag) / (ratio * short - short)
        ages = (short, ratio * short)
        kinds = [EMA(age / (1.0 + age), warmup=None, start=start) for age in ages]
        behind = f"{f'_lag_{lag:g}' if lag else ''}{f'_from_{start}' if start else ''}"
        return cls(
            [(kinds[0], share), (kinds[1], 1.0 - share)],
            name=name or f"lag_free_{noise:g}{behind}",
        )

    @classmethod
    def blended(
        cls, average: float | Average, share: float, *, name: str | None = None
    ) -> "Combination":
        """An average blended with the last weights, γ·m + (1 − γ)·x.

        Args:
            average: m; a plain number is an EMA's decay.
            share: γ, of the average; above 1 it would be ahead of it.
            name: `blend` if None.

        Source:
            modded-nanogpt, pull request 325.
        """
        return cls([(average, share), (LAST, 1.0 - share)], name=name or "blend")

    @classmethod
    def bema(
        cls, average: float | Average, alpha: float, *, name: str | None = None
    ) -> "Combination":
        """BEMA of one moment: an average, corrected by how far the weights have come.

            m + α·(x − x_0)

        Args:
            average: m; a plain number is an EMA's decay.
            alpha: α, in the paper (ρ + γt)^(−η) after t steps.
            name: `bema` if None.

        Source:
            Block & Zhang 2025, "EMA Without the Lag", algorithm 1. Its m is
            `Schedule(lambda update: (ρ + γ*update.step) ** -κ, name=…)`.
        """
        return cls([(average, 1.0), (LAST, alpha), (Initial(), -alpha)], name=name or "bema")

    @property
    def label(self) -> str:
        """What it is called."""
        return self.name or "combination"

    @property
    def parts(self) -> tuple[tuple[Average, float], ...]:
        """The averages and their shares."""
        return self.of

    @property
    def parts_to_keep(self) -> list[Average]:
        """What an `Averager` must keep for it: all but the last weights, which the model has."""
        return [kind for kind, _ in self.of if not same_kind(kind, LAST)]

    def at_period(self, every: int) -> "Combination":
        """The same of its parts."""
        return Combination([(k.at_period(every), c) for k, c in self.of], name=self.label)

    def fault_if_kept(self, every: int) -> str:
        """That it is read."""
        return (
            f"{self.label!r} is a combination, which is read and not kept; expected its parts. "
            "Pass *kind.parts_to_keep, and read averager.combine(kind)"
        )

    def weight(self, update: Update, folded: int) -> float:
        """A combination has none.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{self.fault_if_kept(1)}.")

    @property
    def depends_on_steps(self) -> bool:
        """If a part does."""
        return any(kind.depends_on_steps for kind, _ in self.of)

    def settings(self) -> dict[str, Any]:
        """Names and shares of the parts, with their settings."""
        of = [[type(k).__name__, k.settings(), share] for k, share in self.of]
        return {"of": of, "name": self.name}


def same_kind(one: Average, other: Average) -> bool:
    """Whether two averages differ at most in their names.

    Example:
        >>> same_kind(EMA(0.9, name="a"), EMA(0.9)), same_kind(EMA(0.9), EMA(0.99))
        (True, False)
    """
    if one.has_code or other.has_code or type(one) is not type(other):
        return one == other
    mine, others = ({**kind.settings(), "name": None} for kind in (one, other))
    return mine == others


def _number(value: object) -> bool:
    return is_number(value) and isfinite(value)


def _shorter_age(noise: float, lag: float, ratio: float) -> float:
    """a at which the noise is 1/N, by bisection: it falls as both EMAs become longer."""

    def squares(a: float) -> float:
        b = ratio * a
        c = (b - lag) / (b - a)
        rest = 1.0 - c
        both = 2.0 * c * rest / (a + b + 1.0)
        return float(c * c / (2.0 * a + 1.0) + both + rest * rest / (2.0 * b + 1.0))

    low, high = lag / ratio, max(1.0, noise)
    while squares(high) > 1.0 / noise:
        high *= 2.0
    for _ in range(200):
        middle = (low + high) / 2.0
        low, high = (middle, high) if squares(middle) > 1.0 / noise else (low, middle)
    return (low + high) / 2.0


CURRENT = "current"
"""What a share of the weights of now is called."""


def shares_by_name(
    shares: Mapping[str, float] | Average, kinds: Mapping[str, Average]
) -> dict[str, float]:
    """Shares of kept averages by name, and of the weights of now under `CURRENT`.

    Args:
        shares: By name, or a combination, whose parts are looked for among the kinds.
        kinds: Those that are kept, by name.

    Raises:
        ConfigError: for names or parts that are not kept, and shares that do not sum to one.
    """
    if isinstance(shares, Average):
        found: dict[str, float] = {}
        for kind, share in shares.parts or ((shares, 1.0),):
            name = _kept_as(kind, kinds)
            found[name] = found.get(name, 0.0) + share
        return found
    known = {*kinds, CURRENT}
    if not isinstance(shares, Mapping) or not shares:
        raise ConfigError(f"shares are {shares!r}; expected a share by name of each average.")
    for name in shares.keys() - known:
        raise ConfigError(unknown("average", name, sorted(known)))
    values = checked_shares(f"shares of {', '.join(shares)}", shares.values())
    return dict(zip(shares, values, strict=True))


def _kept_as(kind: Average, kinds: Mapping[str, Average]) -> str:
    for name, kept in kinds.items():
        if same_kind(kind, kept):
            return name
    if same_kind(kind, LAST):
        return CURRENT
    raise ConfigError(
        f"a part of the combination is {kind.label!r}, which is not kept; expected parts among "
        f"{', '.join(kinds)}. Build the averager with *kind.parts_to_keep."
    )
