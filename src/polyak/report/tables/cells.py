"""The cells that tables share: a mean over seeds, a paired difference, the paper's numbers."""

from collections.abc import Mapping, Sequence

from polyak.analysis.loaded import LoadedRow
from polyak.analysis.seeds import Interval, mean_interval, paired_difference
from polyak.records.vocabulary import Phase
from polyak.report.facts import accuracy_digits, reason
from polyak.report.numbers import number
from polyak.report.paper.published import Published, merge_versions
from polyak.report.tables.measures import OF_TEMPERATURE, Measure
from polyak.report.tables.table import Cell

NOTHING = Cell(text="–")
WRONG_LABELS = Cell(text="hold-out labels are wrong", missing=True)
"""In place of what a temperature fitted to them gives."""

BySeed = Mapping[str, float]


def digits_for(row: LoadedRow, measure: Measure) -> int:
    """Decimals of a measure in a row's tables."""
    return accuracy_digits(row) if measure.digits is None else measure.digits


def missing_cell(row: LoadedRow, phase: Phase) -> Cell:
    """Why a row has no number of a phase."""
    return Cell(text=reason(row, phase), missing=True)


def meaningful(rows: Sequence[LoadedRow], measures: tuple[Measure, ...]) -> tuple[Measure, ...]:
    """The measures that say something of any row: none of a temperature fitted to wrong labels."""
    if not rows or not all(row.noisy_temperature for row in rows):
        return measures
    return tuple(m for m in measures if m.metric not in OF_TEMPERATURE)


def mean_cell(row: LoadedRow, by_seed: BySeed, measure: Measure) -> Cell | None:
    """Mean over seeds ± standard deviation, over pairs their range; None without a number."""
    if not by_seed:
        return None
    if measure.metric in OF_TEMPERATURE and row.noisy_temperature:
        return WRONG_LABELS
    digits, scale = digits_for(row, measure), measure.scale
    interval = mean_interval(scale * value for value in by_seed.values())
    text = number(interval.mean, digits)
    if interval.sd is None:
        return Cell(text=text)
    if any("-" in seed for seed in by_seed):
        low, high = (
            number(scale * end, digits) for end in (min(by_seed.values()), max(by_seed.values()))
        )
        return Cell(text=text, spread=f"{low} – {high}")
    return Cell(text=text, spread=f"± {number(sd_of(row, interval) or 0.0, digits)}")


def sd_of(row: LoadedRow, interval: Interval) -> float | None:
    """Standard deviation over seeds, with ddof 0 where a row does as the authors' code does."""
    return interval.sd_paper_code if "sd" in row.record.paper_code else interval.sd


def difference_cell(ours: BySeed, theirs: BySeed, measure: Measure, *, digits: int) -> Cell:
    """Ours − theirs, paired by seed, with its 95 % interval; a dash where no seed has both."""
    if not ours.keys() & theirs.keys():
        return NOTHING
    interval = paired_difference(*({int(s): v for s, v in side.items()} for side in (ours, theirs)))
    text = number(measure.scale * interval.mean, digits, signed=True)
    if interval.low is None or interval.high is None:
        return Cell(text=text)
    low, high = (number(measure.scale * end, digits) for end in (interval.low, interval.high))
    return Cell(text=text, spread=f"[{low}, {high}]")


def paper_cell(twins: Sequence[Published]) -> Cell:
    """Published numbers as printed; one entry where both versions agree."""
    return Cell(published=tuple((p.text, p.version, p.source) for p in merge_versions(twins)))
