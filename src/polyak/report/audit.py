"""The page of a label audit, and its tables as CSV."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image
from torch import Tensor

from polyak.analysis.audit import (
    AuditRow,
    Kind,
    Part,
    ScoreResult,
    Verdict,
    confusions,
    verdict,
)
from polyak.files import replacing, write_csv
from polyak.metrics import Estimate
from polyak.records.audits import AuditFolder
from polyak.records.vocabulary import BASELINE
from polyak.report.names import arm_name, average_name
from polyak.report.numbers import counted, number


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited:
    """What was audited, as the page names it."""

    run: str
    """Id."""

    data: str
    model: str
    classes: tuple[str, ...]
    average: str
    """The arm that ranks."""

    source: str
    """Whose weights the arm holds, such as ema_0.998."""

    epoch: int
    """At which epoch."""

    epochs: int
    """Of the whole run."""


SCORES: dict[Kind, str] = {
    "margin": "margin",
    "loss": "loss",
    "disagreement": "disagreement with SGD",
}
PARTS: dict[Part, str] = {
    "all": "all images",
    "train": "images that it was trained on",
    "holdout": "images that were held out",
}
_VERDICTS: dict[Verdict, str] = {
    "better": "so the average finds wrong labels better here",
    "worse": "so SGD’s loss finds wrong labels better here",
    "undecided": "so which of the two is better here is open",
}


def write_audit(
    folder: AuditFolder,
    about: Audited,
    rows: Sequence[AuditRow],
    results: Sequence[ScoreResult],
    images_nchw: Tensor,
) -> None:
    """Write labels.csv, scores.csv where there are results, and the page.

    Args:
        folder: Where to.
        about: What was audited.
        rows: All labels, the most doubtful first.
        results: How good the ranking is; empty where the clean labels are not known.
        images_nchw: uint8 images of the first rows, which the page shows, in their order.
    """
    _write_table(folder.labels, [_label_line(row, about.classes) for row in rows])
    if results:
        _write_table(folder.scores, [_score_line(result) for result in results])
    else:
        folder.scores.unlink(missing_ok=True)
    html = render_audit(about, rows, results, images_nchw)
    with replacing(folder.page) as temporary:
        temporary.write_text(html, encoding="utf-8")


def render_audit(
    about: Audited,
    rows: Sequence[AuditRow],
    results: Sequence[ScoreResult],
    images_nchw: Tensor,
) -> str:
    """The page as text."""
    environment = Environment(
        loader=PackageLoader("polyak.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = rows[: len(images_nchw)]
    return environment.get_template("audit.html.j2").render(
        about=about,
        arm=arm_name(about.average),
        source=average_name(about.source),
        sentences=audit_sentences(about, rows, results, shown=len(shown)),
        known=any(row.clean is not None for row in rows),
        samples=len(rows),
        held_out=sum(row.part == "holdout" for row in rows),
        cards=[
            (row, data_uri(image_chw)) for row, image_chw in zip(shown, images_nchw, strict=True)
        ],
        confusions=confusions(rows),
        tables=_tables(results),
        number=number,
        counted=counted,
    )


def audit_sentences(
    about: Audited, rows: Sequence[AuditRow], results: Sequence[ScoreResult], *, shown: int
) -> list[str]:
    """What was found, in sentences; the first is the most important."""
    preferred = sum(row.suggested is not None for row in rows)
    found = [
        f"{arm_name(about.average)} prefers another class for {preferred:,} of "
        f"{counted(len(rows), 'training label')} ({number(100 * preferred / len(rows), 1)} %)."
    ]
    if not any(row.clean is not None for row in rows):
        found.append(
            "Which of them are wrong is not known here: the images below are for you to judge."
        )
        return found
    known = [row for row in rows[:shown] if row.wrong]
    if shown:
        corrected = sum(row.suggested == row.clean for row in known)
        found.append(
            f"Of the {counted(shown, 'label')} that it doubts most {len(known):,} are wrong, and "
            f"for {corrected:,} of these it suggests the right one."
        )
    judged = verdict(results, average=about.average)
    by_score = {(r.kind, r.arm): r for r in results if r.part == "all"}
    if judged and ("loss", BASELINE) in by_score:
        ours, theirs = by_score["margin", about.average], by_score["loss", BASELINE]
        assert ours.difference is not None
        found.append(
            f"Its margin ranks a wrong label above a right one with probability "
            f"{_estimate(ours.auroc)} (AUROC), SGD’s loss after the last epoch with "
            f"{_estimate(theirs.auroc)}. The difference is "
            f"{_estimate(ours.difference, signed=True)}, {_VERDICTS[judged]}."
        )
    return found


def _tables(results: Sequence[ScoreResult]) -> list[tuple[str, ScoreResult, list[dict[str, Any]]]]:
    """Heading, any result of the part, and the lines of each part."""
    found = []
    for part in dict.fromkeys(result.part for result in results):
        among = [result for result in results if result.part == part]
        found.append((PARTS[part], among[0], [_cells(result) for result in among]))
    return found


def _cells(result: ScoreResult) -> dict[str, Any]:
    score = SCORES[result.kind]
    of = "" if result.kind == "disagreement" else f" of {arm_name(result.arm)}"
    difference = result.difference
    return {
        "label": f"{score}{of}",
        "baseline": difference is None,
        "auroc": _estimate(result.auroc),
        "difference": "baseline" if difference is None else _estimate(difference, signed=True),
        "precision": [number(100 * share, 1) for _, share in result.precision],
    }


def _estimate(found: Estimate, *, signed: bool = False) -> str:
    value, low, high = (number(x, 3, signed=signed) for x in (found.value, found.low, found.high))
    return f"{value} [{low}, {high}]"


def _label_line(row: AuditRow, classes: tuple[str, ...]) -> dict[str, Any]:
    def name(label: int | None) -> str:
        return "" if label is None else classes[label]

    line = {
        "rank": row.rank,
        "index": row.index,
        "part": row.part,
        "given": name(row.given),
        "suggested": name(row.suggested),
        "margin": f"{row.margin:.6g}",
        "p_given": f"{row.p_given:.6g}",
        "p_other": f"{row.p_other:.6g}",
        "sgd": name(row.sgd),
        "divergence": f"{row.divergence:.6g}",
    }
    return line if row.clean is None else {**line, "clean": name(row.clean)}


def _score_line(result: ScoreResult) -> dict[str, Any]:
    line: dict[str, Any] = {
        "part": result.part,
        "score": result.kind,
        "arm": result.arm,
        "samples": result.samples,
        "wrong": result.wrong,
    }
    for name, found in (("auroc", result.auroc), ("difference", result.difference)):
        values = (None,) * 3 if found is None else (found.value, found.low, found.high)
        line |= dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
    names = ("1_percent", "5_percent", "as_many_as_wrong")
    for place, (k, share) in zip(names, result.precision, strict=True):
        line |= {f"k_{place}": k, f"precision_{place}": share}
    return line


def _write_table(path: Path, lines: Sequence[Mapping[str, object]]) -> None:
    write_csv(path, lines[0] if lines else (), (line.values() for line in lines))


def data_uri(image_chw: Tensor) -> str:
    """A uint8 image of 1 or 3 channels as the address of a PNG that is inside the address.

    Example:
        >>> import torch
        >>> data_uri(torch.zeros(3, 8, 8, dtype=torch.uint8))[:22]
        'data:image/png;base64,'
    """
    pixels = image_chw[0] if len(image_chw) == 1 else image_chw.permute(1, 2, 0)
    picture = BytesIO()
    Image.fromarray(pixels.contiguous().numpy()).save(picture, format="PNG")
    return f"data:image/png;base64,{b64encode(picture.getvalue()).decode('ascii')}"
