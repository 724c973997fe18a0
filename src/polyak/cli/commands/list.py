"""polyak list: what can be run."""

from dataclasses import dataclass
from typing import Any

from polyak.cli.json_output import print_json
from polyak.models.config import OPTIONS
from polyak.study.paper.beyond.sizes import SCALES as BEYOND_SCALES
from polyak.study.paper.presets import BEYOND, PAPER_STUDIES, PRESETS, paper_study, preset
from polyak.study.paper.scales import SCALES
from polyak.study.plan import planned


@dataclass(frozen=True)
class ListCommand:
    """Show the studies with what they cost, and the models."""

    json: bool = False
    """One JSON object on stdout instead, see docs/json.md."""

    def run(self) -> int:
        """Exit code 0."""
        found = _choices()
        if self.json:
            print_json("polyak-list", found)
            return 0
        print("studies (polyak study NAME)")
        for study in found["studies"]:
            print(f"  {study['name']:<10}{study['title']}; {study['runs']} runs, {study['cost']}")
        print(
            "the paper's tables, figures and appendices (polyak study NAME --scale SCALE "
            "[--controls]); costs are estimates"
        )
        for paper in found["paper"]:
            print(f"  {paper['name']:<10}{paper['title']}")
            for sized in paper["scales"]:
                print(f"    {sized['scale']:<8}{sized['runs']} runs, {sized['cost']}")
        print("beyond the paper, with claims to register first (polyak study NAME --scale SCALE)")
        for study in found["beyond"]:
            print(f"  {study['name']}  {study['title']}")
            for sized in study["scales"]:
                print(f"    {sized['scale']:<8}{sized['runs']} runs, {sized['cost']}")
        print("models (--model.name)")
        print(f"  {', '.join(found['models'])}")
        return 0


def _choices() -> dict[str, Any]:
    """What can be run, as JSON values."""
    studies = []
    for name, build in PRESETS.items():
        study = build()
        of_study = {"title": study.title, "runs": planned(study), "cost": study.cost}
        studies.append({"name": name, **of_study})
    paper = []
    for name, known in PAPER_STUDIES.items():
        scales = []
        for scale in SCALES:
            sized = paper_study(name, scale)
            scales.append({"scale": scale, "runs": planned(sized), "cost": sized.cost})
        paper.append({"name": name, "title": known.title, "scales": scales})
    beyond = [_beyond(name) for name in BEYOND]
    return {"studies": studies, "paper": paper, "beyond": beyond, "models": list(OPTIONS)}


def _beyond(name: str) -> dict[str, Any]:
    scales = []
    for scale in BEYOND_SCALES:
        sized = preset(name, scale=scale)
        scales.append({"scale": scale, "runs": planned(sized), "cost": sized.cost})
    title = sized.title.rpartition(", scale")[0]
    return {"name": name, "title": title, "scales": scales}
