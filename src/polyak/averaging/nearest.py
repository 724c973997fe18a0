"""Which mixture of stored averages comes nearest to an average that nobody kept."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from polyak.averaging.kinds import Average
from polyak.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Mixture:
    """Shares of stored averages, and how far their sum is expected to be off."""

    shares: tuple[float, ...]
    """c, one a stored average; they sum to 1, and some may be negative."""

    error: float
    """Expected distance from the average that was asked for, over its own distance from the
    weights at its last update: 0.01 undoes a hundredth of what averaging does. ≥ 0."""


def nearest_mixture(
    target: Sequence[float],
    stored: Sequence[Sequence[float]],
    *,
    rates: Sequence[float] | None = None,
    rounding: float = 0.0,
) -> Mixture:
    """The mixture of stored averages with the least expected distance from another average.

    The average with profile s is  x_0 + Σ_j T_j·g_j,  T_j = Σ_{i≥j} s_i,  where g_j is what moved
    the weights between updates j − 1 and j. With Σ_k c_k = 1 a mixture is therefore off by
    Σ_j (T_j − Σ_k c_k·T_j^k)·g_j. For g_j that are uncorrelated and of size η_j:

        error² = (Σ_j η_j²·(T_j − Σ_k c_k·T_j^k)² + ρ²·Σ_k c_k²) / Σ_j η_j²·(1 − T_j)²

    Args:
        target: s of the average that is wanted, as `polyak.profile` gives it.
        stored: The same of each stored average; of one run, but of any moments in it.
        rates: η of every update in turn, such as its learning rate; None for equal ones.
        rounding: ρ, how much a stored average is off by rounding, in units of η. It keeps shares
            small that would only amplify the rounding.

    Returns:
        Shares and error. An average that is a mixture of stored ones has error 0, up to rounding.

    Raises:
        ConfigError: for no stored averages, or rates that are not one positive number an update.

    Source:
        Post-hoc averages: Karras et al. 2024 (EDM2), section 3.2, whose distance is that of the
        profiles themselves. That of what moved the weights, and any kind of average: ours.

    Example:
        >>> from polyak import Uniform, profile
        >>> stored = [profile(Uniform(), updates=n) for n in (3, 5)]
        >>> last_two = (0.0, 0.0, 0.0, 0.0, 0.5, 0.5)
        >>> [round(share, 6) for share in nearest_mixture(last_two, stored).shares]
        [-1.5, 2.5]
    """
    if not stored:
        raise ConfigError("stored is empty; expected at least one stored average. Name more.")
    updates = max(len(target), *(len(profile) for profile in stored)) - 1
    scale_u = _scales(rates, updates)
    wanted_u = scale_u * _tails(target, updates)
    stored_uk = scale_u[:, None] * torch.stack([_tails(s, updates) for s in stored], dim=1)
    off_uk = wanted_u[:, None] - stored_uk
    # Shares that sum to 1 are free ones beside that of one average, here of the nearest.
    base = int(off_uk.square().sum(dim=0).argmin())
    others = [k for k in range(len(stored)) if k != base]
    shares_k = torch.zeros(len(stored), dtype=torch.float64)
    if others:
        shares_k[others] = _least_squares(
            stored_uk[:, others] - stored_uk[:, base, None], off_uk[:, base], rounding
        )
    shares_k[base] = 1.0 - shares_k.sum()
    missed = (wanted_u - stored_uk @ shares_k).square().sum()
    rounded = rounding**2 * shares_k.square().sum()
    own_u = scale_u[: len(target) - 1] - wanted_u[: len(target) - 1]
    reach = float(own_u.norm())
    error = float((missed + rounded).sqrt())
    return Mixture(tuple(shares_k.tolist()), error / reach if reach else error)


def nearest_snapshots(
    target: Sequence[float], moments: Sequence[int], *, rates: Sequence[float] | None = None
) -> Mixture:
    """`nearest_mixture` of the weights themselves after some updates, in closed form.

    The sum of shares from update j on is one number between two snapshots, and the nearest is the
    mean of the wanted T_j between them, weighted by η_j²; before the first it is 1.

    Args:
        target: s of the average that is wanted.
        moments: Updates before each snapshot, rising, ≥ 1.
        rates: η, as for `nearest_mixture`.

    Example:
        >>> nearest_snapshots((0.0, 0.25, 0.0, 0.0, 0.25, 0.5), [1, 4, 5]).shares
        (0.25, 0.25, 0.5)
    """
    updates = max(len(target) - 1, moments[-1])
    scale_u = _scales(rates, updates)
    wanted_u, square_u = _tails(target, updates), scale_u.square()
    edges = torch.tensor([0, *moments, updates])
    sums = torch.stack([square_u * wanted_u, square_u]).cumsum(dim=1)
    sums = torch.cat([torch.zeros(2, 1, dtype=torch.float64), sums], dim=1)[:, edges].diff(dim=1)
    levels = sums[0] / sums[1]
    levels[0], levels[-1] = 1.0, 0.0
    near_u = levels.repeat_interleave(edges.diff())
    missed = (scale_u * (wanted_u - near_u)).norm()
    reach = float((scale_u * (1.0 - wanted_u))[: len(target) - 1].norm())
    error = float(missed)
    return Mixture(tuple((-levels.diff()).tolist()), error / reach if reach else error)


def refuse_far(kind: Average, error: float, largest_error: float, *, steps: int) -> None:
    """Refuse a mixture that is expected to be too far off.

    Raises:
        ConfigError: then.
    """
    check_largest_error(largest_error)
    if not error <= largest_error:
        raise ConfigError(
            f"the expected error of {kind.label!r} at step {steps} is {error:.2g} "
            f"of what it averages away; expected at most {largest_error:g}. Choose the moment of a "
            "file or a longer average, save more often or with more decays, or allow the error."
        )


def check_largest_error(largest_error: float) -> None:
    """Refuse what no error can be compared with.

    Raises:
        ConfigError: then.
    """
    if not isinstance(largest_error, int | float) or not largest_error >= 0:
        raise ConfigError(f"largest_error is {largest_error!r}; expected a number >= 0.")


def _tails(profile: Sequence[float], updates: int) -> Tensor:
    """T_1 to T_updates of a profile, 0 after its last update. float64."""
    shares = torch.zeros(updates + 1, dtype=torch.float64)
    shares[: len(profile)] = torch.tensor(profile, dtype=torch.float64)
    return shares.flip(0).cumsum(0).flip(0)[1:]


def _scales(rates: Sequence[float] | None, updates: int) -> Tensor:
    if rates is None:
        return torch.ones(updates, dtype=torch.float64)
    if len(rates) < updates or not all(0 < rate < float("inf") for rate in rates):
        raise ConfigError(
            f"rates are {len(rates)}, the least {min(rates, default=None)}; expected a finite "
            f"number > 0 for each of {updates} updates."
        )
    found = torch.tensor(rates[:updates], dtype=torch.float64)
    return found / found.square().mean().sqrt()


def _least_squares(columns_uk: Tensor, wanted_u: Tensor, rounding: float) -> Tensor:
    """Shares c with the least |wanted − columns·c|² + ρ²·(|c|² + (1 − Σc)²)."""
    count = columns_uk.shape[1]
    # A tiny ρ decides between shares of averages that are one.
    damping = max(rounding, 1e-12)
    rows = torch.cat([torch.eye(count), torch.ones(1, count)]).to(columns_uk) * damping
    ends = torch.zeros(count + 1, dtype=torch.float64)
    ends[-1] = damping
    a, b = torch.cat([columns_uk, rows]), torch.cat([wanted_u, ends])
    found: Tensor = torch.linalg.lstsq(a, b[:, None]).solution[:, 0]
    return found
