"""Numbers as a reader sees them. Percent and true minus signs begin here."""

from collections.abc import Sequence

LARGE_TEST_SET = 5000


def number(value: float, digits: int, *, signed: bool = False) -> str:
    """A number with fixed decimals, so that a column of them lines up.

    Example:
        >>> number(-1.25, 1), number(0.04, 1, signed=True)
        ('−1.2', '+0.0')
    """
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    # Python writes −0.04 as -0.0; no reader wants that sign.
    if float(text) == 0:
        text = text.replace("-", "+" if signed else "")
    return text.replace("-", "−")


def significant(value: float) -> str:
    """A number of any size, with three significant digits and at least all before the point.

    Example:
        >>> significant(-0.012345), significant(51.26), significant(1024.0), significant(5.0)
        ('−0.0123', '51.3', '1024', '5')
    """
    text = f"{value:.0f}" if abs(value) >= 1000 else f"{float(f'{value:.3g}'):g}"
    return text.replace("-", "−")


def percent_digits(images_in_test: int) -> int:
    """Decimals that a percentage of that many images can bear.

    Example:
        >>> percent_digits(360), percent_digits(10_000)
        (1, 2)
    """
    return 2 if images_in_test >= LARGE_TEST_SET else 1


def duration(seconds: float) -> str:
    """Wall time in the two largest units.

    Example:
        >>> duration(438.7), duration(7265), duration(0.4)
        ('7 min 19 s', '2 h 1 min', '0 s')
    """
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


def joined(words: Sequence[str]) -> str:
    """Words as a sentence lists them.

    Example:
        >>> joined(["a"]), joined(["a", "b", "c"])
        ('a', 'a, b and c')
    """
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def counted(count: int, noun: str) -> str:
    """A number and its noun.

    Example:
        >>> counted(1, "seed"), counted(1200, "image")
        ('1 seed', '1,200 images')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
