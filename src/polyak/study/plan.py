"""A study as data, and its phases: functions from earlier choices to the next runs.

search  →  select  →  refit  →  transfer
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from polyak.data import DataConfig
from polyak.data.config import name_of
from polyak.errors import ConfigError, unknown
from polyak.records.claims import Claim
from polyak.records.paper_code import OF_RUNS, PAPER_CODE
from polyak.records.vocabulary import (
    ARMS,
    AT_STOPS,
    AVERAGES_RULES,
    PROBED_ARMS,
    STATISTICS,
    FollowUp,
    Monitor,
    Phase,
    Stop,
    variant_name,
)
from polyak.study.claims import RowTerms, claim_faults, seeds_of
from polyak.study.field_types import repeated, with_right_types
from polyak.training.config import PAPER_DECAYS, OverheadConfig, ProbeConfig, RunConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A data set and an architecture: a row of the paper's tables."""

    label: str
    dataset: str
    """As the paper's tables call it, so that its numbers can be found."""

    architecture: str
    """As the paper's tables call it."""

    config: RunConfig
    """What all runs of the row have in common."""

    learning_rates: tuple[float, ...]
    """Tried in the search, all seeds at each."""

    seeds: tuple[int, ...] = (0, 1, 2)
    paper_decays: tuple[float, ...] = PAPER_DECAYS
    """The paper's decays that `config.averaging.decays` stand for, one each."""

    paper_updates: int | None = None
    """Updates of the paper's run, from which `fit_decays` fits the decays to this row's own. None:
    the decays are as they should be."""

    refits: bool = True
    """Whether models of all training data are wanted, or those of the search are enough."""

    search_monitors: tuple[Monitor, ...] = ()
    refit_monitors: tuple[Monitor, ...] = ()
    transfer: tuple[DataConfig, ...] = ()
    """Targets of the linear probe."""

    paper_code: tuple[str, ...] = ()
    """Where the row follows the authors' code: names of `PAPER_CODE`, in that order. Those
    that act within a run are in `config.paper_code` too."""

    against: str | None = None
    """Label of the study's row that this one varies in one respect."""

    decay_digits: int = 3
    """Decimals of fitted decays: more where updates are so frequent that all are near 1."""

    follow_ups: tuple[FollowUp, ...] = ()
    variants: bool = False
    """Whether the page shows every average at the stops, not only those chosen."""

    def faults(self) -> list[str]:
        """All faults of the row, those included that only a later phase would meet."""
        searched = replace(self.config, holdout=True, monitors=self.search_monitors)
        refitted = replace(self.config, holdout=False, stops=(), monitors=self.refit_monitors)
        found = [*searched.faults(), *refitted.faults()]
        found += [fault for target in self.transfer for fault in target.faults()]
        if not _different_and_positive(self.learning_rates):
            found.append(f"learning_rates is {self.learning_rates!r}; expected different ones > 0")
        elif len({f"{learning_rate:g}" for learning_rate in self.learning_rates}) != len(
            self.learning_rates
        ):
            found.append(
                f"learning_rates is {self.learning_rates!r}; expected them to differ in six digits"
            )
        if len(set(self.seeds)) != len(self.seeds) or not self.seeds:
            found.append(f"seeds is {self.seeds!r}; expected different ones")
        if len(self.paper_decays) != len(self.config.averaging.decays):
            found.append("paper_decays has a different length than decays; expected one for each")
        if tuple(n for n in self.paper_code if n in OF_RUNS) != self.config.paper_code:
            found.append("paper_code and config.paper_code differ; expected them to agree")
        found += [
            unknown("paper_code", n, PAPER_CODE) for n in self.paper_code if n not in PAPER_CODE
        ]
        found += repeated(
            search_monitors=self.search_monitors,
            refit_monitors=self.refit_monitors,
            follow_ups=self.follow_ups,
        )
        if self.transfer and any(d.is_text for d in (self.config.data, *self.transfer)):
            found.append("transfer is given with text; expected images and targets of images")
        if self.transfer and not self.refits:
            found.append("transfer is given where refits is False; expected refits to probe")
        if len({name_of(target.source) for target in self.transfer}) != len(self.transfer):
            found.append("two targets of transfer have one name; expected different data sets")
        return list(dict.fromkeys(found + self._follow_up_faults()))

    def _follow_up_faults(self) -> list[str]:
        found, schedule = [], self.config.optim.schedule
        if "held" in self.follow_ups and schedule != "cosine":
            found.append("follow_ups has 'held'; expected schedule 'cosine', which it holds")
        if "annealed" in self.follow_ups and schedule not in ("cosine", "wsd"):
            found.append("follow_ups has 'annealed'; expected schedule 'cosine' or 'wsd'")
        return found

    def terms(self) -> RowTerms:
        """What a claim can be about in the row."""
        held_out: tuple[str, ...] = ("holdout", *self.search_monitors)
        parts: dict[Phase, tuple[str, ...]] = {"search": held_out}
        if self.refits:
            parts["refit"] = self.refit_monitors
        for phase in self.follow_ups:
            searched = phase == "held" or not self.refits
            parts[phase] = held_out if searched else ()
        fitted_later = self.paper_updates is not None and not self.config.data.fingerprint
        return RowTerms(
            seeds=self.seeds,
            arms=self._arms(),
            averages=None if fitted_later else self.config.averaging.names,
            parts=parts,
            targets=[name_of(target.source) for target in self.transfer],
            wrong_labels=self.config.data.noise.kind != "none",
        )

    def _arms(self) -> list[str]:
        """What its runs are evaluated as, variants too where the page shows them."""
        more = self.config.more_averages
        found = [*ARMS, *(f"{name}_bn" for name in more)]
        found += [f"{n}_{rule}_bn" for n in more if n in AT_STOPS for rule in AVERAGES_RULES]
        if self.variants:
            found += [
                variant_name(rule, average, statistics)
                for rule in AVERAGES_RULES
                for average in self.config.averaging.names
                for statistics in STATISTICS
            ]
        return found


def _different_and_positive(values: tuple[float, ...]) -> bool:
    return bool(values) and len(set(values)) == len(values) and all(value > 0 for value in values)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """What averages cost beside the training of one data set and architecture."""

    label: str
    dataset: str
    architecture: str
    config: OverheadConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """Rows that one command runs and one page shows."""

    name: str
    title: str
    cost: str
    """What it takes, in words."""

    rows: tuple[Row, ...] = ()
    measurement: Measurement | None = None
    """Of a study that measures; it has no rows."""

    preset: str | None = None
    """The paper's table, figure or appendix that it is for; None for a study of your own."""

    scale: str | None = None
    """The preset's size."""

    source: str | None = None
    """What defines the study: its file, or data that the command line puts in the paper's places;
    None where its name says all."""

    claims: tuple[Claim, ...] = ()
    """What it claims beforehand, beside the paper's claims that every page judges."""

    def check(self) -> None:
        """Raise a ConfigError that names every fault of every row."""
        self.settled()

    def settled(self) -> "Study":
        """The study with tuples where lists were given, and claims as they are registered.

        Raises:
            ConfigError: that names every fault of every row.
        """
        study, faults = with_right_types(self)
        for place, row in enumerate(study.rows):
            faults = [fault.replace(f"rows[{place}].", f"{row.label}: ", 1) for fault in faults]
        for place, claim in enumerate(study.claims):
            faults = [f.replace(f"claims[{place}].", f"claim {claim.id}: ", 1) for f in faults]
        # What stands in for a wrong type is no claim.
        faults += (replace(study, claims=()) if faults else study)._faults_of_values()
        if faults:
            raise ConfigError.of(f"study {study.name}", faults)
        if study.measurement is not None:
            study.measurement.config.check()
        return replace(study, claims=study._settled_claims())

    def _settled_claims(self) -> tuple[Claim, ...]:
        """With their seeds: those that a row is given later are not what was claimed about."""
        seeds = {row.label: row.seeds for row in self.rows}
        return tuple(
            replace(claim.settled(), seeds=seeds_of(claim, seeds)) for claim in self.claims
        )

    def _faults_of_values(self) -> list[str]:
        faults = _faults_of_name(self.name)
        faults += [f"{row.label}: {fault}" for row in self.rows for fault in row.faults()]
        labels = [row.label for row in self.rows]
        if len(set(labels)) != len(labels):
            faults.append("two rows have one label; expected different ones")
        faults += [
            f"{row.label}: {unknown('against', row.against, labels)}"
            for row in self.rows
            if row.against is not None and row.against not in labels
        ]
        if not self.rows and self.measurement is None:
            faults.append("rows is (); expected at least one")
        # Of rows with faults of their own nobody knows what there is to compare.
        terms = {} if faults else {row.label: row.terms() for row in self.rows}
        return faults or claim_faults(self.claims, terms)


def _faults_of_name(name: str) -> list[str]:
    """A study's name is that of its folder, beside those that all studies share."""
    if re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name) and name not in ("runs", "audits"):
        return []
    return [
        f"name is {name!r}; expected letters, digits and . _ + - after a letter or digit, and "
        "neither 'runs' nor 'audits', since it names a folder"
    ]


def search(row: Row) -> dict[float, dict[int, RunConfig]]:
    """Runs on the part of the training data that selects, by learning rate and seed."""
    return {
        learning_rate: {
            seed: replace(
                row.config,
                optim=replace(row.config.optim, lr=learning_rate),
                seed=seed,
                holdout=True,
                monitors=row.search_monitors,
            )
            for seed in row.seeds
        }
        for learning_rate in row.learning_rates
    }


def refit(
    row: Row,
    learning_rate: float,
    stops: Mapping[int, tuple[Stop, ...]],
    *,
    swad: Mapping[int, tuple[int, int]] | None = None,
) -> dict[int, RunConfig]:
    """Runs on all training data with the choice fixed, by seed: same seed, same full schedule.

    Epochs carry over from the search, not steps; those that SWAD averages too.
    """
    return {
        seed: replace(
            row.config,
            optim=replace(row.config.optim, lr=learning_rate),
            seed=seed,
            holdout=False,
            stops=chosen,
            monitors=row.refit_monitors,
            # What acts on the hold-out changes nothing here: without it this is the same run.
            holdout_labels="given",
            paper_code=tuple(n for n in row.config.paper_code if n == "batchnorm"),
            swad=None if swad is None else swad[seed],
        )
        for seed, chosen in stops.items()
    }


def transfer(row: Row, refits: tuple[RunConfig, ...]) -> dict[str, ProbeConfig]:
    """A linear probe of the refitted backbones on each target, by the target's name."""
    return {
        name_of(target.source): ProbeConfig(
            data=target,
            backbones=refits,
            arms=PROBED_ARMS,
            batchnorm="adapts" if "probe" in row.paper_code else "frozen",
        )
        for target in row.transfer
    }


def planned(study: Study) -> int:
    """Runs of a study: search, refits, follow-ups and probes, or its measurement."""
    of_rows = sum(
        (len(row.learning_rates) + row.refits + len(row.follow_ups)) * len(row.seeds)
        + len(row.transfer)
        for row in study.rows
    )
    return of_rows + (study.measurement is not None)
