"""A study with another protocol than the default: what is switched, and the name that says so."""

from dataclasses import replace

from polyak.errors import ConfigError
from polyak.records.paper_code import PAPER_CODE
from polyak.records.vocabulary import Selection
from polyak.study.plan import Row, Study, as_coded


def otherwise(
    study: Study,
    *,
    paper_code: tuple[str, ...] = (),
    selection: Selection = "paper",
    clean_holdout: bool = False,
) -> Study:
    """The study with these switches on in every row, under a name of its own.

    A run that no switch changes is the same run as before, and is not trained again.

    Args:
        study: As it is by default.
        paper_code: Names of `PAPER_CODE`, in its order.
        selection: "bn_safe" chooses averages with recomputed BatchNorm statistics.
        clean_holdout: An oracle: right labels of the hold-out choose.

    Raises:
        ConfigError: for a study that measures, where nothing is chosen.
    """
    parts = ["paper-code"] if paper_code == tuple(PAPER_CODE) else list(paper_code)
    parts += ["bn-safe"] if selection == "bn_safe" else []
    parts += ["clean-holdout"] if clean_holdout else []
    if not parts:
        return study
    if study.measurement is not None:
        raise ConfigError(
            f"{', '.join(parts)} is given; expected none for study {study.name!r}, which measures "
            "and chooses nothing. Leave it out."
        )

    def switched(row: Row) -> Row:
        labels = "clean" if clean_holdout else row.config.holdout_labels
        config = replace(row.config, selection=selection, holdout_labels=labels)
        return as_coded(replace(row, config=config), paper_code)

    return replace(
        study,
        name="-".join((study.name, *parts)),
        title=f"{study.title}; otherwise: {', '.join(parts)}",
        rows=tuple(switched(row) for row in study.rows),
    )
