import csv
import re
from base64 import b64decode
from io import BytesIO

import pytest
import torch
from PIL import Image

from polyak.analysis.audit import AuditRow, ScoreResult
from polyak.metrics import Estimate
from polyak.records.audits import AuditFolder
from polyak.report.audit import Audited, audit_sentences, data_uri, render_audit, write_audit

ABOUT = Audited(
    run="0123456789ab",
    data="toys",
    model="tiny, search",
    classes=("cat", "<dog>", "owl"),
    average="ema_acc_bn",
    source="ema_0.9",
    epoch=3,
    epochs=4,
)


def row(rank, **changes):
    values = {
        "rank": rank,
        "index": 10 + rank,
        "part": "train",
        "given": 0,
        "suggested": 1,
        "margin": -3.0 + rank,
        "p_given": 0.125,
        "p_other": 0.5,
        "sgd": 1,
        "divergence": 0.25,
        "clean": 1,
    }
    return AuditRow(**{**values, **changes})


ROWS = [row(1), row(2, part="holdout", clean=0), row(3, clean=2, sgd=0), row(4, suggested=None)]
IMAGES = torch.randint(256, (3, 3, 8, 8), dtype=torch.uint8)


def result(kind, arm, *, difference):
    return ScoreResult(
        kind=kind,
        arm=arm,
        part="all",
        samples=4,
        wrong=2,
        auroc=Estimate(0.75, 0.5, 0.9),
        difference=difference,
        precision=((1, 1.0), (2, 0.5), (2, 0.5)),
    )


def results(low, high):
    ours = result("margin", "ema_acc_bn", difference=Estimate((low + high) / 2, low, high))
    return [ours, result("loss", "sgd", difference=None)]


def test_a_thumbnail_holds_the_pixels():
    for image_chw in (IMAGES[0], IMAGES[0][:1]):
        kind, _, text = data_uri(image_chw).partition(",")
        assert kind == "data:image/png;base64"
        with Image.open(BytesIO(b64decode(text))) as picture:
            pixels = torch.tensor(list(picture.tobytes())).reshape(8, 8, -1).permute(2, 0, 1)
        assert torch.equal(pixels.to(torch.uint8), image_chw)


def test_the_page_shows_each_image_offline_and_whose_it_is():
    page = render_audit(ABOUT, ROWS, results(0.1, 0.2), IMAGES)
    assert page.count('<img src="data:image/png;base64,') == 3
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert "<dog>" not in page
    assert page.count("cat → <b>&lt;dog&gt;</b>") == 3
    assert "12.5 % → 50.0 %" in page
    assert page.count("<small>held out</small>") == 1
    assert page.count("SGD says cat") == 1
    assert "wrong: owl" in page
    assert page.count('<figure class="card right">') == 1


def test_the_first_sentences_count_what_the_rows_say():
    first, second, *_ = audit_sentences(ABOUT, ROWS, results(0.1, 0.2), shown=3)
    assert first == ("EMA (acc.) + BN prefers another class for 3 of 4 training labels (75.0 %).")
    assert second == (
        "Of the 3 labels that it doubts most 2 are wrong, and for 1 of these it suggests the "
        "right one."
    )


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.1, 0.2, "so the average finds wrong labels better here"),
        (-0.2, -0.1, "so SGD’s loss finds wrong labels better here"),
        (-0.1, 0.2, "so which of the two is better here is open"),
    ],
)
def test_the_last_sentence_says_what_the_interval_allows(low, high, words):
    assert words in audit_sentences(ABOUT, ROWS, results(low, high), shown=3)[-1]


def test_where_the_truth_is_unknown_the_page_judges_nothing(tmp_path):
    rows = [row(1, clean=None), row(2, clean=None)]
    page = render_audit(ABOUT, rows, [], IMAGES[:2])
    assert "Which of them are wrong is not known here" in page
    for word in ("AUROC", "wrong:", "before noise", "of these wrong"):
        assert word not in page
    folder = AuditFolder(tmp_path)
    folder.scores.write_text("of an earlier audit")
    write_audit(folder, ABOUT, rows, [], IMAGES[:2])
    assert not folder.scores.exists()
    assert "clean" not in folder.labels.read_text().splitlines()[0]


def test_tables_hold_every_label_and_every_score(tmp_path):
    folder = AuditFolder(tmp_path)
    write_audit(folder, ABOUT, ROWS, results(0.1, 0.2), IMAGES[:1])
    with folder.labels.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["rank"] for line in lines] == ["1", "2", "3", "4"]
    assert lines[0]["suggested"] == "<dog>"
    assert lines[3]["suggested"] == ""
    assert [line["part"] for line in lines] == ["train", "holdout", "train", "train"]
    assert float(lines[0]["margin"]) == -2
    with folder.scores.open(newline="") as file:
        scores = list(csv.DictReader(file))
    assert [(line["score"], line["arm"]) for line in scores] == [
        ("margin", "ema_acc_bn"),
        ("loss", "sgd"),
    ]
    assert float(scores[0]["difference_low"]) == 0.1
    assert scores[1]["difference"] == ""
    assert scores[0]["k_5_percent"] == "2"


def test_a_page_without_images_has_the_tables_only():
    page = render_audit(ABOUT, ROWS, results(0.1, 0.2), IMAGES[:0])
    assert "<img" not in page
    assert "doubted most" not in page
    assert "How well wrong labels are found" in page


def test_on_a_telephone_each_score_has_its_heading():
    page = render_audit(ABOUT, ROWS, results(0.1, 0.2), IMAGES)
    (table, *_) = re.findall(r"<table class=\"models\">.*?</table>", page, re.S)
    assert table.count("<td") == table.count("<td data-heading=") > 0
