"""The mistakes that a user can make, each with a message that says what to do.

Messages have one form: `<what> is <got>; expected <range or choices>. <what to do>.`
"""

import sys
import warnings
from collections.abc import Collection, Iterable
from difflib import get_close_matches


class PolyakError(Exception):
    """A fault of the request or of its input, not of this library.

    Its message may be shown anywhere: names that it repeats come from files and from strangers, so
    control characters in them are shown as their escapes.
    """

    def __str__(self) -> str:
        return "\n".join(printable(line) for line in super().__str__().split("\n"))


class ConfigError(PolyakError, ValueError):
    """A setting is outside its range, or settings contradict each other."""

    @classmethod
    def of(cls, what: str, faults: Iterable[str]) -> "ConfigError":
        """All faults of one configuration in one message."""
        message = f"{what}: " + "; ".join(fault.rstrip(".") for fault in faults)
        return cls(message if message.endswith("?") else message + ".")


class DataError(PolyakError, ValueError):
    """A data set is missing, incomplete or not what its description says."""


class FileError(PolyakError, ValueError):
    """A file is damaged or not of the format that was asked for."""


class StateError(PolyakError, RuntimeError):
    """An operation was asked for at a moment when it would give a wrong result."""


class WeightMismatchError(PolyakError, ValueError):
    """An average and a model do not hold the same named tensors."""

    @classmethod
    def of_names(cls, expected: set[str], got: set[str]) -> "WeightMismatchError":
        """The message for two sets of names that should have been equal."""
        missing, extra = expected - got, got - expected
        return cls(
            f"the model's weights are not the averager's: {len(missing)} missing "
            f"({few(missing)}), {len(extra)} unexpected ({few(extra)}). "
            "Call track() of the averager if the module was meant to change; else pass the one "
            "that built the averager, or build a new averager for this one."
        )


class NonFiniteError(PolyakError, ArithmeticError):
    """Weights or a loss hold NaN or infinity."""


def one_line(error: BaseException, limit: int = 200) -> str:
    """The first line of what an exception says, without control characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    words = printable(lines[0]) if lines else type(error).__name__
    return words if len(words) <= limit else words[:limit] + "…"


def printable(text: str) -> str:
    r"""Text from elsewhere as a terminal may show it: what is not to be seen becomes its escape.

    That is control characters, marks that turn the direction of writing, and halves of characters
    (from names of files that are not UTF-8).

    Example:
        >>> print(printable("cat" + chr(27) + "[2J"))
        cat\x1b[2J
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def few(names: Collection[str], limit: int = 3) -> str:
    """The first names of a set, as a message shows them."""
    shown = ", ".join(sorted(names)[:limit]) or "none"
    return shown + (", …" if len(names) > limit else "")


def quote(names: Iterable[str]) -> str:
    """The first names from a file, for a message."""
    return few([repr(name) for name in names])


def unknown(what: str, got: object, choices: Iterable[str]) -> str:
    """The message for what is not among the choices, mostly a name, with the nearest match.

    Example:
        >>> unknown("model", "resnet19", ["resnet18", "vgg16"])
        "model is 'resnet19'; expected one of resnet18, vgg16. Did you mean 'resnet18'?"
    """
    names = list(choices)
    message = f"{what} is {got!r}; expected one of {', '.join(names)}."
    nearest = get_close_matches(str(got), names, n=1)
    return f"{message} Did you mean {nearest[0]!r}?" if nearest else message


def warn(message: str) -> None:
    """Warn at the line of the user's that led here: the first outside this package and torch.

    torch calls hooks and wraps functions, and a `with` block is entered by contextlib, so between
    the user's line and what it sets off may lie any number of frames of these.
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _root(frame.f_globals) in _PASSED_OVER:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, RuntimeWarning, stacklevel=level)


_PASSED_OVER = (__name__.partition(".")[0], "torch", "contextlib")


def _root(names: dict[str, object]) -> str:
    return str(names.get("__name__")).partition(".")[0]
