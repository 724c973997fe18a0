"""The paper's numbers as a page prints them: one entry for each version that differs."""

from collections.abc import Sequence
from dataclasses import dataclass

from polyak.report.numbers import number
from polyak.report.paper.published import Published, notes_on


@dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    """One number of the paper, or two that agree."""

    text: str
    version: str
    """"submitted", "camera-ready" or "both"."""

    source: str
    """Table and origin."""

    quoted: bool
    notes: tuple[str, ...]
    """What to know of it, as sentences."""


def printed(twins: Sequence[Published]) -> tuple[Printed, ...]:
    """Published numbers as printed; one entry where both versions agree."""
    found = [_one(p) for p in twins]
    if len(found) == 2 and len({_shown(p.value, p.metric) for p in twins}) == 1:
        fuller = max(found, key=lambda entry: len(entry.text))
        return (
            Printed(
                text=fuller.text,
                version="both",
                source="; ".join(dict.fromkeys(entry.source for entry in found)),
                quoted=any(entry.quoted for entry in found),
                notes=tuple(dict.fromkeys(note for entry in found for note in entry.notes)),
            ),
        )
    return tuple(found)


def _one(p: Published) -> Printed:
    spread = "" if p.std is None else f" ± {_shown(p.std, p.metric)}"
    return Printed(
        text=_shown(p.value, p.metric) + spread,
        version=p.version,
        source=f"table {p.table}" + (f": {p.note}" if p.note else ""),
        quoted=p.quoted,
        notes=notes_on(p),
    )


def _shown(value: float, metric: str) -> str:
    return number(value, 3 if metric.startswith("js") else 2)
