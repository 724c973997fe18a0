"""What counts as a number where one is expected."""

from numbers import Real
from typing import TypeGuard


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a real number that a float can hold; truth values are none.

    Example:
        >>> is_number(0.5), is_number("0.5"), is_number(True), is_number(10**400)
        (True, False, False, False)
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def is_whole(value: object, *, least: int) -> TypeGuard[int]:
    """Whether it is a whole number, not below the least; truth values are none.

    Example:
        >>> is_whole(3, least=1), is_whole(3.0, least=1), is_whole(0, least=1)
        (True, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
