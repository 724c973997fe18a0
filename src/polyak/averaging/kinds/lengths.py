"""Lengths in steps, epochs and samples, and decays for runs of a given length."""

from collections.abc import Sequence
from math import floor, inf, log10

from polyak.errors import ConfigError
from polyak.numbers import is_number

REFERENCE_UPDATES = 4_887
"""Updates of the paper's run: 200 epochs of 391 steps, one update every 16 steps."""


def as_steps(
    *,
    epochs: float | None = None,
    samples: float | None = None,
    steps_per_epoch: int | None = None,
    batch_size: int | None = None,
) -> int:
    """A length in optimizer steps, for whatever is given in steps: `start`, `every`, `total_steps`.

        steps = epochs · steps_per_epoch = samples / batch_size,   rounded, at least 1

    Raises:
        ConfigError: unless exactly one length > 0 is given, with the size that converts it.

    Example:
        >>> as_steps(epochs=5, steps_per_epoch=391), as_steps(samples=1_000_000, batch_size=256)
        (1955, 3906)
    """
    _, _, steps = converted(
        "the length",
        epochs=epochs,
        samples=samples,
        steps_per_epoch=steps_per_epoch,
        batch_size=batch_size,
    )
    return max(1, round(steps))


def converted(
    what: str,
    *,
    steps: float | None = None,
    epochs: float | None = None,
    samples: float | None = None,
    steps_per_epoch: int | None = None,
    batch_size: int | None = None,
) -> tuple[str, float, float]:
    """The unit in which a length is given, the length in that, and in steps.

    Args:
        what: What is as long, for messages.
        steps: And what follows: one of the first three, and the size that converts it.
        epochs: See `steps`.
        samples: See `steps`.
        steps_per_epoch: See `steps`.
        batch_size: See `steps`.

    Raises:
        ConfigError: unless exactly one length > 0 is given, with the size that converts it.
    """
    given = {"steps": steps, "epochs": epochs, "samples": samples}
    lengths = {unit: value for unit, value in given.items() if value is not None}
    if len(lengths) != 1:
        raise ConfigError(
            f"{what} is given in {sorted(lengths)!r}; "
            "expected one of steps, epochs, samples. Pass exactly one."
        )
    [(unit, length)] = lengths.items()
    size = {"epochs": steps_per_epoch, "samples": batch_size}.get(unit, 1.0)
    in_steps = 0.0
    if is_number(length) and is_number(size) and length > 0 and size > 0:
        in_steps = length * (1.0 / size if unit == "samples" else size)
    if not 0 < in_steps < inf:
        named = {"epochs": "steps_per_epoch", "samples": "batch_size"}.get(unit)
        sized, need = (f" and {named} {size!r}", f" with {named}") if named else ("", "")
        raise ConfigError(
            f"{what.removeprefix('the ')} {unit} is {length!r}{sized}; expected > 0{need}."
        )
    return unit, length, in_steps


def fitted_decays(
    decays: Sequence[float],
    *,
    updates: int,
    reference: int = REFERENCE_UPDATES,
    digits: int | None = None,
) -> tuple[float, ...]:
    """Decays for a run of another length, in which each keeps its share of the run.

        d' = d^(U_reference/U),   U updates in the whole run

    Each also keeps its place in warm-up; in a run that is much shorter than what they were chosen
    for, decays would coincide inside warm-up, and be one average several times.

    Args:
        decays: d, of a run of `reference` updates.
        updates: U, ≥ 1.
        reference: Updates of the run that the decays are meant for.
        digits: Decimals kept, so that names stay readable; None keeps three digits of 1 − d'.

    Raises:
        ConfigError: if U is so small that decays become equal.

    Source:
        Ours.

    Example:
        >>> fitted_decays([0.968, 0.998], updates=540)
        (0.745, 0.982)
        >>> fitted_decays([0.998], updates=100_000)
        (0.9999022,)
    """
    exact = [d ** (reference / updates) for d in decays]
    if 1.0 in exact:
        raise ConfigError(
            f"the run has {updates} updates of its averages; expected fewer, since their decays "
            "would be 1. Leave the length out and give decays for it."
        )
    fitted = tuple(_rounded(d, digits) for d in exact)
    if len(set(fitted)) != len(set(decays)):
        raise ConfigError(
            f"the run has {updates} updates of its averages; expected more, since their decays "
            f"would be {', '.join(f'{d:g}' for d in fitted)}. Use more images or epochs."
        )
    return fitted


def _rounded(decay: float, digits: int | None) -> float:
    if digits is None:
        digits = 3 if decay == 0 else 2 - floor(log10(1.0 - decay))
    return round(decay, digits)
