"""polyak list: what can be run."""

from dataclasses import dataclass

from polyak.models import MODELS
from polyak.study.presets import PRESETS
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
        print("models (--model.name)")
        print(f"  {', '.join(MODELS)}")
        return 0
