"""What counts as a number where one is expected."""

from numbers import Real
from typing import Any, TypeGuard


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


def as_plain(value: object) -> Any:
    """A number of another library, such as numpy's, as Python's own, which a record can hold.

    All else, too large a number included, stays what it is.

    Example:
        >>> from fractions import Fraction
        >>> as_plain(Fraction(1, 2)), as_plain(3), as_plain("3")
        (0.5, 3, '3')
    """
    if isinstance(value, int | float) or not is_number(value):
        return value
    return float(value)


def is_whole(value: object, *, least: int) -> TypeGuard[int]:
    """Whether it is a whole number, not below the least; truth values are none.

    Example:
        >>> is_whole(3, least=1), is_whole(3.0, least=1), is_whole(0, least=1)
        (True, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
