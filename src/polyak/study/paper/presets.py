"""The studies that have a name: the demo, the paper's tables, figures, appendices, and beyond."""

from collections.abc import Callable, Mapping

from polyak.data import DataConfig, NoiseConfig
from polyak.errors import ConfigError, unknown
from polyak.models import ModelConfig
from polyak.records.vocabulary import Monitor
from polyak.study.fitting import scaled_decays
from polyak.study.paper.beyond.averages import beyond_averages
from polyak.study.paper.beyond.norm import beyond_norm
from polyak.study.paper.beyond.transformers import beyond_transformers
from polyak.study.paper.cost import cost_words, measurement_words
from polyak.study.paper.datasets import own_data
from polyak.study.paper.overhead import overhead
from polyak.study.paper.rows import GENERALISATION, LABEL_NOISE, PAPER_ROWS
from polyak.study.paper.scales import SCALES
from polyak.study.paper.tables import PaperStudy, rows_of, with_controls
from polyak.study.paper.variations import Variation
from polyak.study.plan import Row, Study
from polyak.training.config import AveragingConfig, OptimConfig, RunConfig


def demo() -> Study:
    """The whole protocol in small: scikit-learn's digits with 40 % of the labels wrong.

    Eight search runs, four refits and a probe of ResNet-8: under three minutes on two cores.

    Without crops SGD memorises all wrong labels, which it did not with them. docs/log.md says by
    what these settings were chosen.
    """
    config = RunConfig(
        data=DataConfig(
            source="digits",
            crop_padding=0,
            flip=False,
            noise=NoiseConfig(kind="symmetric", rate=0.4),
        ),
        model=ModelConfig(name="resnet8", width=16),
        optim=OptimConfig(weight_decay=5e-4),
        # 25 epochs of 36 steps
        averaging=AveragingConfig(decays=scaled_decays(450), every=2),
        epochs=25,
        batch_size=32,
        # No page of this study shows what else could have been chosen.
        keep="chosen",
    )
    row = Row(
        label="digits, 40 % wrong labels",
        dataset="digits",
        architecture="ResNet-8",
        config=config,
        learning_rates=(0.2, 0.4),
        seeds=(0, 1, 2, 3),
        refit_monitors=("test", "test_bn", "train_clean", "train_wrong"),
        transfer=(DataConfig(source="digits-parity", crop_padding=0, flip=False),),
    )
    return Study(
        name="demo",
        title="The paper’s protocol in small, on handwritten digits with wrong labels",
        cost="under three minutes on two cores",
        rows=(row,),
    )


_PLAIN, _NOISY = "cifar100-resnet18", "cifar100n-resnet34"
_MEMORISING: tuple[Monitor, ...] = ("train_clean", "train_wrong")

APPENDICES = {
    "app-a": PaperStudy(
        title="Dynamics of all configurations, and step decay: the paper’s appendix A",
        rows=(*GENERALISATION, *LABEL_NOISE),
        refits=False,
        searched=False,
        # Epochs 60, 120 and 160 of 200.
        variations=(Variation(row=_PLAIN, words="step decay", drops=(0.3, 0.6, 0.8)),),
    ),
    "app-b": PaperStudy(
        title="Every average at the stops, of 80 % and of all images: the paper’s appendix B",
        rows=(*GENERALISATION, *LABEL_NOISE),
        variants=True,
    ),
    "app-c": PaperStudy(
        title="SGD that goes on from the average after each epoch: the paper’s appendix C",
        rows=(_PLAIN,),
        refits=False,
        searched=False,
        # 0.992, the third of five.
        variations=(Variation(row=_PLAIN, words="bootstrapped each epoch", bootstrap=2),),
    ),
    "app-d": PaperStudy(
        title="Averages updated after every step: the paper’s appendix D",
        rows=(_PLAIN,),
        refits=False,
        searched=False,
        variations=(Variation(row=_PLAIN, words="updated every step", every_step=True),),
        every_at_least=2,
    ),
    "app-e1": PaperStudy(
        title="Learning right labels and memorising wrong ones: the paper’s appendix E.1",
        rows=(_NOISY,),
        refits=False,
        search_monitors=_MEMORISING,
    ),
    "app-e2": PaperStudy(
        title="The learning rate held from the average’s epoch on: the paper’s appendix E.2",
        rows=(_NOISY,),
        refits=False,
        # Those of app-e1, so that both share their searches.
        search_monitors=_MEMORISING,
        follow_ups=("held",),
    ),
    "app-g": PaperStudy(
        title="Averages chosen with recomputed BatchNorm: the paper’s appendix G",
        rows=(_PLAIN,),
        searched=False,
        variations=(Variation(row=_PLAIN, words="chosen with recomputed BN", selection="bn_safe"),),
    ),
}

PAPER_STUDIES = {
    "table1": PaperStudy(title="Generalisation: the paper's table 1", rows=GENERALISATION),
    "table2": PaperStudy(
        title="Robustness to wrong labels: the paper's table 2",
        rows=LABEL_NOISE,
    ),
    "table3": PaperStudy(
        title="Predictions that change with the seed: the paper's table 3", rows=GENERALISATION
    ),
    "table4": PaperStudy(
        title="Transfer by a linear probe: the paper's table 4",
        rows=("tiny-imagenet-resnet18", "cifar100-resnet18", "cifar10-resnet18"),
        transfer={
            "tiny-imagenet-resnet18": ("cifar10", "cifar100"),
            "cifar100-resnet18": ("cifar10",),
            "cifar10-resnet18": ("cifar100",),
        },
    ),
    "table5": PaperStudy(
        title="Calibration of the search's models: the paper's table 5",
        rows=GENERALISATION,
        refits=False,
    ),
    "figure1": PaperStudy(
        title="Dynamics, with and without recomputed BatchNorm: the paper's figure 1",
        rows=("cifar100-resnet18",),
        refits=False,
        # Recomputing for five averages each epoch costs as much again as training 1.7 times, so
        # not in the runs of every study, and not at every learning rate.
        searched=False,
        search_monitors=("holdout_bn",),
    ),
    "figure2": PaperStudy(
        title="Dynamics under wrong labels: the paper's figure 2",
        rows=("cifar100n-resnet34",),
        refits=False,
    ),
    "overhead": PaperStudy(
        title="What averages cost: the paper's section 3.1", rows=(), measured="cifar100-resnet18"
    ),
    **APPENDICES,
}

PRESETS: dict[str, Callable[[], Study]] = {"demo": demo}
"""Studies of one size."""

BEYOND: dict[str, Callable[[str | None, Mapping[str, str]], Study]] = {
    "beyond-transformers": beyond_transformers,
    "beyond-norm": beyond_norm,
    "beyond-averages": beyond_averages,
}
"""Studies of what the paper leaves open, at scales `SIZES`, with claims to register."""


_OWN = " Or give a Python file of yours; `polyak study --init FILE` writes an example."


def preset(
    name: str,
    *,
    scale: str | None = None,
    places: Mapping[str, str] | None = None,
    controls: bool = False,
) -> Study:
    """A study by its name.

    Args:
        name: One of `PRESETS`, `PAPER_STUDIES` or `BEYOND`.
        scale: One of `SCALES` for the paper's, of `SIZES` for those beyond; None for the others,
            which have one size.
        places: Sources to put in a data set's place, as from `parse_places`.
        controls: Add what a reviewer asks for beside the paper's arms.

    Raises:
        ConfigError: for an unknown name, with the choices and the nearest match; for a scale
            that is missing, unknown or not wanted; for controls where nothing is refitted.
    """
    if name not in (*PRESETS, *PAPER_STUDIES, *BEYOND):
        raise ConfigError(unknown("study", name, (*PRESETS, *PAPER_STUDIES, *BEYOND)) + _OWN)
    if name in BEYOND:
        if controls:
            raise ConfigError(
                f"controls is given; expected none for study {name!r}, which has its own. "
                "Leave it out."
            )
        return BEYOND[name](scale, places or {})
    if name in PRESETS:
        if scale is not None or places or controls:
            raise ConfigError(
                f"scale, data or controls is given; expected none for study {name!r}, which has "
                "one size and data of its own. Leave them out."
            )
        return PRESETS[name]()
    if scale not in SCALES:
        choices = [f"{s} ({paper_study(name, s).cost})" for s in SCALES]
        raise ConfigError(unknown("scale", scale or "", choices) + " Give it with --scale.")
    return paper_study(name, scale, places or {}, controls=controls)


def paper_study(
    name: str,
    scale: str,
    places: Mapping[str, str] | None = None,
    *,
    controls: bool = False,
) -> Study:
    """A study of the paper at a scale."""
    study, given = PAPER_STUDIES[name], places or {}
    study = with_controls(name, study) if controls else study
    more, words = ("-controls", ", with controls") if controls else ("", "")
    title = f"{study.title}, scale {scale}{words}"
    full_name = "-".join((name, scale, *own_data(study.places(), given))) + more
    # Two sources may have one name, which then names one folder.
    source = " ".join(f"{place}={given[place]}" for place in sorted(given)) or None
    if study.measured is not None:
        measurement = overhead(study.measured, scale, given)
        cost = measurement_words(measurement, place=study.places()[0])
        return Study(
            name=full_name,
            title=title,
            cost=cost,
            measurement=measurement,
            preset=name,
            scale=scale,
            source=source,
        )
    rows, sources = rows_of(study, SCALES[scale], given)
    return Study(
        name=full_name,
        title=title,
        cost=cost_words(
            {row.label: row for row in rows},
            places={
                row.label: PAPER_ROWS[source].images
                for row, source in zip(rows, sources, strict=True)
            },
        ),
        rows=rows,
        preset=name,
        scale=scale,
        source=source,
    )
