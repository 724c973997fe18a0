"""What `polyak` can do, by name, without importing any of it: its help does not wait for torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Listed:
    """A command: a file in `commands`, and what a person should know before it is imported."""

    module: str
    """Name of the file."""

    kind: str
    """Name of the class in it."""

    summary: str
    """The first sentence of its docstring."""

    example: str
    """What follows `polyak` in an example."""

    spellings: Mapping[str, str] = field(default_factory=dict)
    """Options under another name that people try first."""


GROUPS: dict[str, dict[str, Listed]] = {
    "Train and compare": {
        "demo": Listed(
            "study",
            "DemoCommand",
            "The paper's protocol in small, on digits: under three minutes on two cores.",
            "demo",
        ),
        "study": Listed(
            "study",
            "StudyCommand",
            "Run what a study still lacks, then write its report.",
            "study table1 --scale tiny --data cifar10=data/cifar10",
        ),
        "train": Listed(
            "train",
            "TrainCommand",
            "Train one network with its bank of averages, and compare them on the test set.",
            "train --data digits --model resnet8 --epochs 20 --optim.lr 0.1",
            {"--data": "--data.source", "--model": "--model.name", "--lr": "--optim.lr"},
        ),
        "report": Listed(
            "report",
            "ReportCommand",
            "Write the report of a study again; nothing is trained.",
            "report out/demo",
        ),
    },
    "See what there is": {
        "list": Listed(
            "list", "ListCommand", "Show the studies with what they cost, and the models.", "list"
        ),
        "status": Listed(
            "status",
            "StatusCommand",
            "Show how far the runs of an output folder are; nothing is changed.",
            "status out",
        ),
        "data": Listed(
            "data",
            "DataCommand",
            "Data sets: decode one into the cache and say what it holds, and what was left out.",
            "data prepare --source cifar10",
        ),
    },
    "Look at finished runs": {
        "evaluate": Listed(
            "evaluate",
            "EvaluateCommand",
            "Evaluate the kept weights of a study or a run on other test images; nothing is "
            "trained.",
            "evaluate out/demo --source shifted.py:load",
        ),
        "predict": Listed(
            "predict",
            "PredictCommand",
            "Say the class of pictures, with the probability of each class, as CSV.",
            "predict 0123456789ab photos/",
        ),
        "audit": Listed(
            "audit",
            "AuditCommand",
            "List the training labels of a finished run that are probably wrong, with their "
            "images.",
            "audit 0123456789ab",
        ),
    },
    "Files of weights": {
        "inspect": Listed(
            "inspect",
            "InspectCommand",
            "Say which weights a file holds, whatever tool wrote it.",
            "inspect checkpoint.pt",
        ),
        "export": Listed(
            "export",
            "ExportCommand",
            "Write one of a file's weights, or a run's network with one of its arms, for other "
            "tools.",
            "export averages.safetensors ema_0.998 model.safetensors",
        ),
        "merge": Listed(
            "merge",
            "MergeCommand",
            "Average the weights of several files (a model soup) into a plain safetensors state "
            "dict.",
            "merge a.safetensors b.safetensors --out soup.safetensors",
        ),
        "synthesize": Listed(
            "synthesize",
            "SynthesizeCommand",
            "Decide on the average afterwards: another decay, width or moment than was kept.",
            "synthesize averages.safetensors --decay 0.9995 --out model.safetensors",
        ),
        "board": Listed(
            "synthesize",
            "BoardCommand",
            "Compare every average of one run on held-out items, and write the best.",
            "board averages.safetensors --score mine.py:score --out best.safetensors",
        ),
    },
}
COMMANDS = {name: listed for group in GROUPS.values() for name, listed in group.items()}

SYNONYMS = {"learning-rate": "lr", "dataset": "source", "arch": "name", "wd": "weight-decay"}
"""Words that people write in options, and ours."""

COMPLETION = "--tyro-print-completion"

EXTRAS = {
    "datasets": "study",
    "filelock": "study",
    "jinja2": "study",
    "matplotlib": "study",
    "PIL": "study",
    "pyarrow": "study",
    "rich": "study",
    "scipy": "study",
    "sklearn": "study",
}
"""Packages that the laboratory imports, and the extra of ours that brings each."""

_USAGE = f"""\
usage: polyak [-h] {{{",".join(COMMANDS)}}}

Weight averaging for PyTorch, and the laboratory that shows what it buys.
"""
_OPTIONS = f"""\
Options
  -h, --help  this page, or after a command its options and an example
  --version   which version this is
  {COMPLETION} {{bash,zsh,fish}}
              what to source for completion in your shell
"""


def overview() -> str:
    """The page of `polyak --help`."""
    groups = [
        "\n".join([title, *(f"  {name:<12}{x.summary}" for name, x in commands.items())])
        for title, commands in GROUPS.items()
    ]
    return "\n".join([_USAGE, *(f"{group}\n" for group in groups), _OPTIONS])


def respelt(words: Sequence[str], spellings: Mapping[str, str]) -> list[str]:
    """A command line with options under their own names.

    Example:
        >>> respelt(["--lr=1", "--lr", "2"], {"--lr": "--optim.lr"})
        ['--optim.lr=1', '--optim.lr', '2']
    """
    parts = [word.partition("=") for word in words]
    return ["".join((spellings.get(name, name), *rest)) for name, *rest in parts]


def what_to_install(command: str, error: ModuleNotFoundError) -> str | None:
    """The line for a command that could not import something; None where that is no extra's.

    Example:
        >>> what_to_install("train", ModuleNotFoundError(name="sklearn.datasets"))[:74]
        "the package 'sklearn' is not installed; expected the extra 'study', which "
        >>> what_to_install("train", ModuleNotFoundError(name="mine"))
    """
    package = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(package)
    if extra is None:
        return None
    return (
        f"the package {package!r} is not installed; expected the extra {extra!r}, which "
        f'`polyak {command}` needs. Run `pip install "polyak[{extra}]"`, or in a checkout '
        f'`pip install ".[{extra}]"`.'
    )
