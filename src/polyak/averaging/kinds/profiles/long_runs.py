"""Sums over the updates of long runs, without going through each of them."""

from collections.abc import Callable
from typing import NamedTuple

BLOCK = 2_000
"""A block of updates is at most this part of those before it: a weight that falls like a power of
their number changes by a two-thousandth in it, and the sum by less than a millionth."""

_FORGOTTEN = 0.02
"""Share of what was there that a block may forget."""

_NOTHING = 1e-30
"""Share below which what came earlier no longer counts."""


class Sums(NamedTuple):
    """What updates make of the shares before them, in three numbers."""

    share: float
    """What is left of what was there, Π (1 − w_i)."""

    age: float
    """The mean age Σ s_i·(u − i), in updates."""

    squares: float
    """Σ s_i²."""


def sums(weight: Callable[[int], float], *, begin: int, end: int, before: Sums) -> Sums:
    """The sums after updates begin ≤ i < end, from those before them.

        share = Π (1 − w_i),   age = age_before·share + Σ_i Π_{j≥i} (1 − w_j),
        squares = squares_before·share² + Σ_i w_i²·Π_{j>i} (1 − w_j)²

    From the last update back, until nothing is left; at first one by one, then in blocks in which
    w is that of the middle.

    Args:
        weight: Lerp weight w of update i, which changes slowly with i.
        begin: The first update, ≥ 0; blocks are small beside the number of those since.
        end: The update after the last one.
        before: Of the updates before `begin`.
    """
    share, total, squares, i = 1.0, 0.0, 0.0, end
    while i > begin and share > _NOTHING:
        size = (i - begin) // BLOCK
        if size > 1:
            # Odd, so that there is a middle; and hardly anything is forgotten within a block.
            size = min(size, int(_FORGOTTEN / (weight(i - 1) or 1.0))) | 1
        size = max(1, size)
        d = 1.0 - weight(i - 1 - size // 2)
        left, grown = steadily(d, size)
        total += share * grown
        squares += share**2 * steady_squares(d, d, size)
        share *= left
        i -= size
    share = share if i == begin else 0.0
    return Sums(
        share * before.share, before.age * share + total, before.squares * share**2 + squares
    )


def after_steady(before: Sums, d: float, updates: int) -> Sums:
    """The sums after so many updates of one decay."""
    left, grown = steadily(d, updates)
    squares = before.squares * left**2 + steady_squares(d, d, updates)
    return Sums(before.share * left, before.age * left + grown, squares)


def steady_squares(d: float, e: float, updates: int) -> float:
    """What so many updates of two decays add to the sum of products of two averages' shares.

    Σ_{k<u} (1 − d)·(1 − e)·(d·e)^k = (1 − d)·(1 − e)·(1 − (d·e)^u)/(1 − d·e)
    """
    both = d * e
    return 0.0 if both == 1.0 else (1.0 - d) * (1.0 - e) * (1.0 - both**updates) / (1.0 - both)


def steadily(d: float, updates: int) -> tuple[float, float]:
    """Share that so many updates of one decay leave, and the mean age that they add.

    d^u,   Σ_{k=1…u} d^k = d·(1 − d^u)/(1 − d)
    """
    left = d**updates
    return left, updates if d == 1.0 else d * (1.0 - left) / (1.0 - d)


def powers(g: float, n: int) -> float:
    """Σ_{i<n} (i/n)^g over i = 1, 2, …, for g ≥ 1, by the formula of Euler and Maclaurin.

    Where powers are so high that neighbours differ much, they are added from the last one back.
    """
    if g > n / 100:
        total, i = 0.0, n - 1
        while i > 0 and (term := (i / n) ** g) > _NOTHING:
            total += term
            i -= 1
        return total
    first = min(n, _SUMMED)
    begun = float(sum((i / n) ** g for i in range(1, first)))
    a, b = (first / n) ** g, 1.0
    integral = (b * n - a * first) / (g + 1.0)
    slopes = g * (b / n - a / first) / 12.0
    bends = g * (g - 1.0) * (g - 2.0) * (b / n**3 - a / first**3) / 720.0
    return float(begun + integral + (a - b) / 2.0 + slopes - bends)


_SUMMED = 1_000
"""Terms that are added one by one, after which the formula is exact to the last digits."""


def power_squares(g: float, n: int) -> float:
    """Σ_{i≤n} ((i/n)^g − ((i − 1)/n)^g)², the squares of a power average's shares, for g ≥ 1.

    Where terms change little from one to the next, their sum is the integral at the middles.
    """
    if n > _SUMMED * g:
        return g * g / ((2.0 * g - 1.0) * n)
    total, above, i = 0.0, 1.0, n
    while i > 0 and above > _SMALL:
        below = ((i - 1) / n) ** g
        total += (above - below) ** 2
        above, i = below, i - 1
    return total


_SMALL = 1e-10
"""A power whose square no longer counts."""
