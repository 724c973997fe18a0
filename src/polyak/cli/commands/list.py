"""polyak list: what can be run."""

from dataclasses import dataclass

from polyak.models import MODELS
from polyak.study.paper.presets import PAPER_STUDIES, PRESETS, paper_study
from polyak.study.paper.scales import SCALES
from polyak.study.runner import planned


@dataclass(frozen=True)
class ListCommand:
    """Show the studies with what they cost, and the models."""

    def run(self) -> int:
        """Exit code 0."""
        print("studies (polyak study NAME)")
        for name, build in PRESETS.items():
            study = build()
            print(f"  {name:<10}{study.title}; {planned(study)} runs, {study.cost}")
        print(
            "the paper's tables, figures and appendices (polyak study NAME --scale SCALE "
            "[--controls]); costs are estimates"
        )
        for name, paper in PAPER_STUDIES.items():
            print(f"  {name:<10}{paper.title}")
            for scale in SCALES:
                sized = paper_study(name, scale)
                print(f"    {scale:<8}{planned(sized)} runs, {sized.cost}")
        print("models (--model.name)")
        print(f"  {', '.join(MODELS)}")
        return 0
