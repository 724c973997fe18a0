"""Sums over the updates of long runs, without going through each of them."""

from collections.abc import Callable

BLOCK = 2_000
"""A block of updates is at most this part of those before it: a weight that falls like a power of
their number changes by a two-thousandth in it, and the sum by less than a millionth."""

_FORGOTTEN = 0.02
"""Share of what was there that a block may forget."""

_NOTHING = 1e-30
"""Share below which what came earlier no longer counts."""


def share_and_age(
    weight: Callable[[int], float], *, begin: int, end: int, age: float = 0.0
) -> tuple[float, float]:
    """What is left after updates begin ≤ i < end of what was there, and the mean age then.

        share = Π (1 − w_i),   age = age_before·share + Σ_i Π_{j≥i} (1 − w_j)

    From the last update back, until nothing is left; at first one by one, then in blocks in which
    w is that of the middle.

    Args:
        weight: Lerp weight w of update i, which changes slowly with i.
        begin: The first update, ≥ 0; blocks are small beside the number of those since.
        end: The update after the last one.
        age: Mean age before update `begin`.
    """
    share, total, i = 1.0, 0.0, end
    while i > begin and share > _NOTHING:
        size = (i - begin) // BLOCK
        if size > 1:
            # Odd, so that there is a middle; and hardly anything is forgotten within a block.
            size = min(size, int(_FORGOTTEN / (weight(i - 1) or 1.0))) | 1
        size = max(1, size)
        left, grown = steadily(1.0 - weight(i - 1 - size // 2), size)
        total += share * grown
        share *= left
        i -= size
    share = share if i == begin else 0.0
    return share, age * share + total


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
