"""A study with other options than the default, and the name that says so."""

from dataclasses import replace

from polyak.errors import ConfigError
from polyak.records.paper_code import OF_RUNS, PAPER_CODE
from polyak.records.vocabulary import MORE_AVERAGES, WINDOWS, Selection, Switch
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


def with_more_averages(study: Study) -> Study:
    """The study with averages of other kinds along its runs, under a name of its own.

    They change nothing in training, but what a run's folder holds, and so the run's id.
    """
    rows = tuple(
        replace(row, config=replace(row.config, more_averages=MORE_AVERAGES)) for row in study.rows
    )
    return replace(study, name=f"{study.name}-more", rows=rows)


def with_windows(study: Study) -> Study:
    """The study with averages whose windows are 1 %, 6.7 % and 10 % of the run, likewise."""
    rows = tuple(
        replace(
            row,
            config=replace(
                row.config,
                more_averages=tuple(dict.fromkeys((*row.config.more_averages, *WINDOWS))),
            ),
        )
        for row in study.rows
    )
    return replace(study, name=f"{study.name}-windows", rows=rows)


def in_float32(study: Study) -> Study:
    """The study with all runs computed in float32, on GPUs too; its name stays."""
    rows = (replace(row, config=replace(row.config, fp32=True)) for row in study.rows)
    return replace(study, rows=tuple(rows))


def with_precision(study: Study, precision: AskedPrecision) -> Study:
    """The study with all runs computed in a precision; its name stays."""
    rows = (replace(row, config=replace(row.config, precision=precision)) for row in study.rows)
    return replace(study, rows=tuple(rows))
