"""The paper's tables, figures and appendices as views over rows that they share."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from polyak.errors import ConfigError
from polyak.records.vocabulary import FollowUp, Monitor
from polyak.study.paper.rows import PAPER_ROWS, paper_row, target
from polyak.study.paper.scales import SCALES, Scale
from polyak.study.paper.variations import Variation, vary, with_period
from polyak.study.plan import Row


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperStudy:
    """A table or figure of the paper as a view over rows that studies share.

    Rows of one name have the same runs in every study that declares no monitor of its own: a
    monitor changes no training but what the folder holds, so it belongs to the run's id.
    """

    title: str
    rows: tuple[str, ...]
    """Names in `PAPER_ROWS`."""

    refits: bool = True
    """Whether models of all training data are wanted."""

    searched: bool = True
    """Whether learning rates are searched, or the paper's choice is taken."""

    search_monitors: tuple[Monitor, ...] = ()
    """Of this study alone: its searches are then runs of their own."""

    transfer: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Targets of the linear probe by row, as places."""

    variations: tuple[Variation, ...] = ()
    """Rows beside those of `rows` that differ from one of them in one respect."""

    follow_ups: tuple[FollowUp, ...] = ()
    """Of every row that is not a variation."""

    variants: bool = False
    """Whether the page shows every average at the stops."""

    every_at_least: int = 1
    """Steps between two updates of the averages, where the scale has fewer."""

    measured: str | None = None
    """The row beside whose training averages are timed, of a study that measures."""

    def places(self) -> tuple[str, ...]:
        """The data sets that it reads, as places."""
        names = self.rows if self.measured is None else (self.measured,)
        found = [PAPER_ROWS[name].images for name in names]
        found += [place for targets in self.transfer.values() for place in targets]
        return tuple(dict.fromkeys(found))


def rows_of(
    study: PaperStudy, scale: Scale, given: Mapping[str, str]
) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """A study's rows at a scale, and the name in `PAPER_ROWS` that each comes from."""
    found = {name: _row(study, name, scale, given) for name in study.rows}
    more = [vary(found[variation.row], variation) for variation in study.variations]
    sources = (*study.rows, *(variation.row for variation in study.variations))
    return (*found.values(), *more), sources


def with_controls(name: str, study: PaperStudy) -> PaperStudy:
    """The study with SGD annealed in the average's budget, and the other weight decay.

    What else a reviewer asks for needs no run of its own and stands on every page.

    Raises:
        ConfigError: if the study refits nothing, so that there is nothing to compare with.
    """
    if not study.refits:
        raise ConfigError(
            f"controls are wanted of study {name!r}, which refits nothing; expected a study with "
            "models of all training data, such as table1 or table2."
        )
    lighter = [row for row in study.rows if _published_weight_decay(row) == 1e-4]
    return replace(
        study,
        follow_ups=(*study.follow_ups, "annealed"),
        variations=(
            *study.variations,
            *(Variation(row=row, words="weight decay 5e-4", weight_decay=5e-4) for row in lighter),
        ),
    )


def _published_weight_decay(row: str) -> float:
    return SCALES["paper"].trainings[row].weight_decay


def _row(study: PaperStudy, name: str, scale: Scale, given: Mapping[str, str]) -> Row:
    row = paper_row(name, scale, given)
    if row.config.averaging.every < study.every_at_least:
        row = with_period(row, name, every=study.every_at_least)
    learning_rate = scale.trainings[name].fixed_learning_rate
    targets = [target(place, scale, given) for place in study.transfer.get(name, ())]
    return replace(
        row,
        learning_rates=row.learning_rates if study.searched else (learning_rate,),
        refits=study.refits,
        search_monitors=(*row.search_monitors, *study.search_monitors),
        transfer=tuple(targets),
        follow_ups=study.follow_ups,
        variants=study.variants,
    )
