"""A study's folder: what it consists of and what was chosen on the hold-out.

plan.json     rows and the ids of their runs      choices.json  what selection chose
results.parquet                                   report/index.html
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from polyak.errors import FileError, printable
from polyak.records.checked import read_checked, write_checked
from polyak.records.claims import Claim, claims_from
from polyak.records.vocabulary import RULES, Phase, Stop


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRecord:
    """One data set and architecture: a row of the paper's tables, and its runs."""

    label: str
    dataset: str
    """As the paper's tables call it."""

    architecture: str
    """As the paper's tables call it."""

    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]
    averages: tuple[str, ...]
    """Names of the bank, from the shortest window to the longest."""

    paper_averages: tuple[str, ...]
    """The same in the paper's numbers, where decays were fitted to a shorter run."""

    refits: bool = True
    """Whether the study wants models of all training data, or those of the search alone. Studies
    recorded before there was the field wanted them."""

    search: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Run ids by learning rate and seed, both as text."""

    refit: Mapping[str, str] = field(default_factory=dict)
    """Run ids by seed."""

    transfer: Mapping[str, str] = field(default_factory=dict)
    """Probe ids by the target's name."""

    paper_code: tuple[str, ...] = ()
    """Where the row follows the authors' code; see `paper_code`."""

    selection: str = "paper"
    """"paper", or "bn_safe": averages are chosen with recomputed BatchNorm statistics."""

    holdout_labels: str = "given"
    """"given", or "clean": an oracle, where training labels are wrong."""

    follow_ups: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Run ids by what follows the choice ("held", "annealed") and seed."""

    following: int = 0
    """Follow-ups and probes that the study wants, of which the choice decides what they are. 0
    in studies recorded before there was the field."""

    wanted: tuple[str, ...] = ()
    """What these are: names of follow-ups, and of the data that is probed on."""

    against: str | None = None
    """Label of the row that this one varies in one respect."""

    variants: bool = False
    """Whether the page shows every average at the stops."""

    chosen_learning_rate: float | None = None
    seed_learning_rates: Mapping[str, float] = field(default_factory=dict)
    """By seed, where each has its own; `chosen_learning_rate` is None then."""

    stops: Mapping[str, tuple[Stop, ...]] = field(default_factory=dict)
    """By seed."""

    failure: str | None = None
    """Why the row has no result, if it has none."""

    def learning_rate_of(self, seed: str) -> float | None:
        """The learning rate chosen for a seed; None where none is."""
        return self.seed_learning_rates.get(seed, self.chosen_learning_rate)

    @property
    def judged(self) -> Phase:
        """The phase whose models the row is about: the refits, or else those of the search."""
        return "refit" if self.refits else "search"

    @property
    def chosen_search(self) -> Mapping[str, str]:
        """Search runs with the chosen learning rate, by seed."""
        if self.seed_learning_rates:
            return {
                seed: self.search[f"{learning_rate:g}"][seed]
                for seed, learning_rate in self.seed_learning_rates.items()
            }
        return self.search.get(f"{self.chosen_learning_rate:g}", {}) if self.stops else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurementRecord:
    """What averages cost beside the training of one data set and architecture."""

    label: str
    dataset: str
    architecture: str
    run: str
    """Id of the measurement's folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRecord:
    """plan.json and choices.json together."""

    name: str
    title: str
    command: str
    """What to type to run it again."""

    rows: tuple[RowRecord, ...]
    measurement: MeasurementRecord | None = None
    """Of a study that measures; it has no rows."""

    preset: str | None = None
    """The paper's table, figure or appendix that it is for, such as "table1"; None where it is a
    study of its own."""

    scale: str | None = None
    """The preset's size, such as "tiny"; None without a preset."""

    source: str | None = None
    """What defines the study: its file, as seen from the output folder, or data that the command
    line puts in the paper's places. None where its name says all, and in studies recorded before
    there was the field."""

    claims: tuple[Claim, ...] = ()
    """What it claims beside the paper's claims, as its file says now; what was registered before
    it ran is a record of its own, see `registration`."""

    seconds: float = 0.0
    """Wall time of all sessions."""

    workers: int = 1


_CHOICES = ("chosen_learning_rate", "seed_learning_rates", "stops", "failure")


def write_study(folder: Path, study: StudyRecord) -> None:
    """Write plan.json and choices.json."""
    plan = asdict(study)
    choices = {row["label"]: {key: row.pop(key) for key in _CHOICES} for row in plan["rows"]}
    write_checked(folder / "plan.json", plan)
    write_checked(folder / "choices.json", choices)


def read_study(folder: Path) -> StudyRecord:
    """Read what `write_study` wrote.

    Raises:
        FileError: if the folder holds no study, or one that was edited by hand into something else.
    """
    try:
        plan = _read(folder / "plan.json")
        choices = _read(folder / "choices.json")
        rows = tuple(
            _row(printable_texts({**row, **choices[row["label"]]})) for row in plan.pop("rows")
        )
        plan = printable_texts(plan)
        measured = plan.pop("measurement", None)
        plan["claims"] = claims_from(plan.get("claims", ()))
        plan["seconds"] = float(plan["seconds"])
        if "preset" not in plan:
            plan |= _preset_by_name(plan["name"], measured=bool(measured))
        if measured and not _is_id(measured["run"]):
            raise ValueError("the measurement has an id that is no plain name")
        return StudyRecord(
            **plan, rows=rows, measurement=MeasurementRecord(**measured) if measured else None
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(
            f"{folder} holds no study ({error}); expected plan.json and choices.json. "
            "Give the folder that `polyak study` printed."
        ) from error


def with_row(study: StudyRecord, row: RowRecord) -> StudyRecord:
    """The study with the row of the same label replaced."""
    return replace(study, rows=tuple(row if r.label == row.label else r for r in study.rows))


def _preset_by_name(name: str, *, measured: bool) -> dict[str, str | None]:
    """What studies were for that were recorded before plan.json said it: their names began so."""
    known = "overhead" if measured else r"table[1-5]|figure[12]|app-(?:[abcdg]|e[12])"
    preset = re.match(rf"({known})(?![0-9a-z])", name)
    scale = re.search(r"-(paper|small|tiny)(?:-controls)?$", name)
    return {"preset": preset and preset[1], "scale": scale and scale[1]}


def printable_texts(value: Any) -> Any:
    """A record's texts as a terminal or a page may show them, wherever it came from."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {key: printable_texts(x) for key, x in value.items()}
    return [printable_texts(x) for x in value] if isinstance(value, list) else value


def _row(values: dict[str, Any]) -> RowRecord:
    for key in ("seeds", "learning_rates", "averages", "paper_averages", "paper_code", "wanted"):
        # Studies recorded before there were the last two have none.
        values[key] = tuple(values.get(key, ()))
    values["stops"] = {
        seed: tuple(Stop(**stop) for stop in stops) for seed, stops in values["stops"].items()
    }
    row = RowRecord(**values)
    _check_row(row)
    return row


def _is_id(value: object) -> bool:
    """Whether it can be the name of a run's folder: a study's folder may come from elsewhere."""
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", value) is not None


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_checked(path)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def _check_row(row: RowRecord) -> None:
    """Refuse what `write_study` writes of no study, such as a choice that was not searched."""
    ids = [*row.search.values(), row.refit, row.transfer, *row.follow_ups.values()]
    if not all(_is_id(run) for runs in ids for run in runs.values()):
        raise ValueError(f"a run of row {row.label!r} has an id that is no plain name")
    learning_rates = [*row.seed_learning_rates.values(), row.chosen_learning_rate]
    for learning_rate in learning_rates:
        if learning_rate is not None and f"{learning_rate:g}" not in row.search:
            raise ValueError(
                f"row {row.label!r} chose the learning rate {learning_rate:g}, not searched"
            )
    rules = {tuple(stop.rule for stop in stops) for stops in row.stops.values()}
    whole = all(isinstance(stop.epoch, int) for stops in row.stops.values() for stop in stops)
    known = all(rule in RULES for by_seed in rules for rule in by_seed)
    if len(rules) > 1 or not whole or not known:
        raise ValueError(f"stops of row {row.label!r} are not an epoch for every rule and seed")
