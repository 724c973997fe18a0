"""A study with other options than the default, and the name that says so."""

from collections.abc import Sequence
from dataclasses import replace

from polyak.errors import ConfigError, unknown
from polyak.records.paper_code import OF_RUNS, PAPER_CODE
from polyak.records.vocabulary import (
    BESIDE_THE_BANK,
    MORE_AVERAGES,
    WINDOWS,
    MoreAverage,
    Selection,
    Switch,
)
from polyak.study.plan import Row, Study
from polyak.training.config import AskedPrecision


def with_protocol(
    study: Study,
    *,
    paper_code: tuple[str, ...] = (),
    selection: Selection = "paper",
    clean_holdout: bool = False,
    batchnorm_augmentation: Switch = "on",
) -> Study:
    """The study with these switches on in every row, under a name of its own.

    A run that no switch changes is the same run as before, and is not trained again.

    Args:
        study: As it is by default.
        paper_code: Names of `PAPER_CODE`, in its order.
        selection: "bn_safe" chooses averages with recomputed BatchNorm statistics.
        clean_holdout: An oracle: right labels of the hold-out choose.
        batchnorm_augmentation: "off" recomputes BatchNorm statistics from the images as they are.

    Raises:
        ConfigError: for a study that measures, where nothing is chosen.
    """
    parts = ["paper-code"] if paper_code == tuple(PAPER_CODE) else list(paper_code)
    parts += ["bn-safe"] if selection == "bn_safe" else []
    parts += ["clean-holdout"] if clean_holdout else []
    parts += ["bn-augmentation-off"] if batchnorm_augmentation == "off" else []
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
        if batchnorm_augmentation == "off":
            config = replace(config, batchnorm_augmentation="off")
        return with_paper_code(replace(row, config=config), paper_code)

    return replace(
        study,
        name="-".join((study.name, *parts)),
        title=f"{study.title}; otherwise: {', '.join(parts)}",
        rows=tuple(switched(row) for row in study.rows),
    )


def with_paper_code(row: Row, names: tuple[str, ...]) -> Row:
    """The row with what the authors' code does in these places."""
    of_runs = tuple(name for name in names if name in OF_RUNS)
    model = row.config.model
    if "wide-resnet" in names and model.name == "wrn28_10":
        model = replace(model, conv_bias=True, final_norm_momentum=0.9)
    config = replace(row.config, model=model, paper_code=of_runs)
    return replace(row, paper_code=names, config=config)


def with_rows(study: Study, beginnings: Sequence[str]) -> Study:
    """The rows of a study whose labels begin so, with the claims that are about no other.

    A study of its own, under a name of its own; its runs are those that the whole study has.

    Args:
        study: With rows.
        beginnings: Of labels; none given: the study as it is.

    Raises:
        ConfigError: if no label begins so.
    """
    if not beginnings:
        return study
    labels = [row.label for row in study.rows]
    strange = [text for text in beginnings if not any(label.startswith(text) for label in labels)]
    if strange or "" in beginnings:
        raise ConfigError(unknown("rows", (strange or [""])[0], labels) + " Beginnings do.")
    kept = [row for row in study.rows if row.label.startswith(tuple(beginnings))]
    known = {row.label for row in kept}
    words = ("".join(c if c.isalnum() else "-" for c in b.casefold()) for b in beginnings)
    return replace(
        study,
        name="-".join((study.name, *(word.strip("-") for word in words))),
        title=f"{study.title}; rows: {', '.join(beginnings)}",
        cost=f"a part of {study.cost}",
        rows=tuple(replace(r, against=r.against if r.against in known else None) for r in kept),
        claims=tuple(
            c for c in study.claims if all(known.issuperset(e.rows) for e in c.comparisons)
        ),
    )


def with_more_averages(study: Study) -> Study:
    """The study with averages of other kinds along its runs, under a name of its own.

    They change nothing in training, but what a run's folder holds, and so the run's id.
    """
    return _beside(study, MORE_AVERAGES, name="more")


def with_windows(study: Study) -> Study:
    """The study with averages whose windows are 1 %, 6.7 % and 10 % of the run, likewise."""
    return _beside(study, WINDOWS, name="windows")


def _beside(study: Study, averages: Sequence[MoreAverage], *, name: str) -> Study:
    """With these averages and those that its rows have already, in the order of all."""

    def kept(row: Row) -> Row:
        wanted = {*row.config.more_averages, *averages}
        ordered = tuple(each for each in BESIDE_THE_BANK if each in wanted)
        return replace(row, config=replace(row.config, more_averages=ordered))

    return replace(study, name=f"{study.name}-{name}", rows=tuple(kept(row) for row in study.rows))


def in_float32(study: Study) -> Study:
    """The study with all runs computed in float32, on GPUs too; its name stays."""
    rows = (replace(row, config=replace(row.config, fp32=True)) for row in study.rows)
    return replace(study, rows=tuple(rows))


def with_precision(study: Study, precision: AskedPrecision) -> Study:
    """The study with all runs computed in a precision; its name stays."""
    rows = (replace(row, config=replace(row.config, precision=precision)) for row in study.rows)
    return replace(study, rows=tuple(rows))
