"""The paper's appendices as presets."""

from polyak.records.vocabulary import Monitor
from polyak.study.paper.rows import GENERALISATION, LABEL_NOISE
from polyak.study.paper.tables import PaperStudy
from polyak.study.paper.variations import Variation

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
