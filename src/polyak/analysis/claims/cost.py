"""Claims about what averages cost (section 3.1)."""

from collections.abc import Mapping

from polyak.analysis.claims.verdicts import Finding

LITTLE = 0.05
"""Share of the time without averages that still counts as little."""


def costs_little(
    what: str, row: str, with_averages: Mapping[str, float], without: Mapping[str, float]
) -> list[Finding]:
    """Averages add under 5 % to a time.

    Args:
        what: Which time it is, evaluation included or not.
        row: Of the study.
        with_averages: Seconds by repetition.
        without: Seconds of the same repetitions, taken in turns.
    """
    values = {r: with_averages[r] / without[r] - 1 for r in with_averages if r in without}
    if not values:
        return []
    return [
        Finding(
            what=f"{what}: time added by averages",
            row=row,
            values=values,
            side="below",
            bound=LITTLE,
            refuted_at=LITTLE,
            unit="%",
        )
    ]
