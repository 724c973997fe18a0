"""The studies whose folders the first round wrote, on a few digits, and what is compared."""

import csv
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from polyak.data import DataConfig, NoiseConfig
from polyak.models import ModelConfig
from polyak.study.plan import Measurement, Row, Study
from polyak.study.runner import Outcome, run_study
from polyak.training.config import AveragingConfig, OverheadConfig, RunConfig
from polyak.training.jobs import carry_out
from polyak.training.optim import OptimConfig

FOLDER = Path(__file__).parents[1] / "fixtures" / "first-round"
OUT = FOLDER / "out.zip"
STOPPED = FOLDER / "stopped.zip"

CONFIG = RunConfig(
    data=DataConfig(
        train_limit=160,
        test_limit=50,
        crop_padding=1,
        flip=False,
        noise=NoiseConfig(kind="symmetric", rate=0.2),
    ),
    model=ModelConfig(name="resnet8", width=2),
    optim=OptimConfig(warmup_epochs=0.5, weight_decay=5e-4),
    averaging=AveragingConfig(decays=(0.3, 0.7), every=2),
    epochs=5,
    batch_size=8,
)
ROW = Row(
    label="few digits",
    dataset="digits",
    architecture="ResNet-8",
    config=CONFIG,
    learning_rates=(0.1, 0.2),
    seeds=(0, 1),
    paper_decays=(0.968, 0.998),
    search_monitors=("test", "holdout_bn"),
    refit_monitors=("test", "test_bn", "train_wrong"),
    transfer=(
        DataConfig(
            source="digits-parity", train_limit=160, test_limit=50, crop_padding=0, flip=False
        ),
    ),
    follow_ups=("held", "annealed"),
    variants=True,
)
VARIED = replace(
    ROW,
    label="few digits, chosen with recomputed BN",
    architecture="ResNet-8, chosen with recomputed BN",
    against=ROW.label,
    config=replace(
        CONFIG, selection="bn_safe", more_averages=("tail", "lawa", "power", "swad"), keep="chosen"
    ),
    learning_rates=(0.2,),
    transfer=(),
    follow_ups=(),
    variants=False,
)
PAPERS = replace(ROW, label="CIFAR-100, ResNet-18", dataset="CIFAR-100", architecture="ResNet-18")
SEARCHED = replace(PAPERS, refits=False, transfer=(), follow_ups=(), variants=False)

STUDIES = {
    study.name: study
    for study in (
        Study(name="few", title="A few digits", cost="seconds", rows=(ROW, VARIED)),
        Study(
            name="table1-tiny",
            title="Generalisation: the paper's table 1, scale tiny",
            cost="seconds",
            rows=(replace(PAPERS, transfer=(), follow_ups=("annealed",), variants=False),),
        ),
        Study(
            name="app-b-tiny",
            title="Every average at the stops: the paper’s appendix B, scale tiny",
            cost="seconds",
            rows=(replace(PAPERS, transfer=(), follow_ups=()),),
        ),
        Study(
            name="figure1-tiny-paper-code",
            title="Dynamics: the paper's figure 1, scale tiny; otherwise: paper-code",
            cost="seconds",
            rows=(replace(SEARCHED, paper_code=("learning-rate", "js", "temperature", "sd")),),
        ),
        Study(
            name="overhead-tiny",
            title="What averages cost: the paper's section 3.1, scale tiny",
            cost="seconds",
            measurement=Measurement(
                label="few digits",
                dataset="digits",
                architecture="ResNet-8",
                config=OverheadConfig(run=CONFIG, averages=(0, 1, 2), every=(1, 4), rounds=6),
            ),
        ),
    )
}
"""All but the last share their runs; names of the paper's have pages with its numbers."""

INTERRUPTED = replace(
    CONFIG,
    optim=replace(CONFIG.optim, lr=0.1),
    monitors=("test",),
    more_averages=("power",),
    seed=7,
)
STEPS_BEFORE = 55
"""Of 80 in 5 epochs: the run of `stopped.zip` was left in the middle of the fourth."""


def here(jobs: Sequence[Any], out: Path, on_tick: Any) -> Mapping[str, str]:
    """An executor: one job after the other, in this process."""
    for job in jobs:
        carry_out(job, out)
    return {}


def run(study: Study, out: Path) -> Outcome:
    return run_study(
        study,
        out,
        executor=here,
        on_progress=lambda progress: None,
        workers=1,
        command=f"polyak study {study.name}",
    )


class _Cells(HTMLParser):
    """Texts of the cells of each table."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[str]] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "table":
            self.tables.append([])
        if tag == "td" and self.tables:
            self.tables[-1].append("")
        self._inside = tag == "td" or (self._inside and tag not in ("tr", "table", "th"))

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "td"

    def handle_data(self, data: str) -> None:
        if self._inside and self.tables:
            self.tables[-1][-1] += f" {data.strip()}"


NUMBER = re.compile(r"[−-]?\d+(?:[.,]\d+)*(?:e[+-]?\d+)?")


def page_numbers(html: str) -> list[str]:
    """For each table of a page the numbers of its cells: the words between them may improve."""
    cells = _Cells()
    cells.feed(html)
    return [" | ".join(filter(None, map(digits, table))) for table in cells.tables]


def digits(text: str) -> str:
    """The numbers of a line, of a report or of a command's output."""
    return " ".join(NUMBER.findall(text))


def states(text: str) -> list[str]:
    """Id, state and epoch of each run that `polyak status` shows."""
    lines = [line.split() for line in text.splitlines()]
    return [
        " ".join(words[:3]) for words in lines if words and re.fullmatch("[0-9a-f]{12}", words[0])
    ]


def of_report(study: Path) -> dict[str, Any]:
    """Numbers of a study's page, of its figures, and of its ledger of claims."""
    folder = study / "report"
    claims = json.loads((folder / "claims.json").read_text(encoding="utf-8"))["claims"]
    return {
        "tables": page_numbers((folder / "index.html").read_text(encoding="utf-8")),
        "figures": {path.stem: columns(path) for path in sorted(folder.rglob("*.csv"))},
        "claims": {claim["id"]: _claim(claim) for claim in claims},
    }


def columns(path: Path) -> list[str]:
    """What stands in a CSV file below its heads, with nine digits where it is a number."""
    lines = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))[1:]
    return [" ".join(_nine(word) for word in line if NUMBER.fullmatch(word)) for line in lines]


def _claim(claim: dict[str, Any]) -> str:
    numbers = [claim["p_shown"], claim["p_refuted"]]
    for finding in claim["findings"]:
        numbers += [finding[key] for key in ("n", "mean", "low", "high", "bound")]
    return " ".join([claim["verdict"], *(_nine(x) for x in numbers)])


def _nine(number: Any) -> str:
    return "-" if number is None else f"{float(str(number).replace('−', '-')):.9g}"


def of_run(run: Path) -> dict[str, Any]:
    """What a finished run says: its logs but for the seconds, and checksums of its weights."""
    epochs = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    for record in epochs:
        del record["seconds"]
    monitors = [json.loads(line) for line in (run / "monitor.jsonl").read_text().splitlines()]
    arms = {path.stem: checksum(path) for path in sorted((run / "averages").iterdir())}
    return {"epochs": epochs, "monitors": monitors, "arms": arms}


def checksum(path: Path) -> str:
    """Of the tensors in a file, by name."""
    found = hashlib.sha256()
    for name, x in sorted(load_file(path).items()):
        found.update(f"{name} {x.dtype} {list(x.shape)}".encode())
        found.update(x.numpy().tobytes())
    return found.hexdigest()
