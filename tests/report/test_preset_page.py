"""The whole page of a study for one of the paper's tables."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from support.small_study import write_again

from polyak.records.runs import Score, run_folder
from polyak.records.studies import StudyRecord, write_study
from polyak.report.page import write_report

# Higher than every other score of the small study, and written like nothing else on the page.
PEAKS = {"holdout": 0.97531, "test": 0.98642}


class Text(HTMLParser):
    """What a reader sees, and every cell of every table."""

    def __init__(self, page):
        super().__init__()
        self.text, self.cells = "", []
        self._hidden = self._cell = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self._hidden = tag in ("script", "style")
        if tag == "td":
            self._cell = True
            self.cells.append("")
        elif tag in ("tr", "th"):
            self._cell = False

    def handle_endtag(self, tag):
        self._hidden = False
        if tag == "td":
            self._cell = False

    def handle_data(self, data):
        if not self._hidden:
            self.text += " ".join(data.split()) + " "
            if self._cell:
                self.cells[-1] += data.strip()


def with_peak(scores, value):
    return {**scores, "ema_0.9": Score(loss=0.01357, accuracy=value)}


@pytest.fixture(scope="module")
def paper_page(toy, tmp_path_factory):
    out = tmp_path_factory.mktemp("preset")
    source, small = toy
    shutil.copytree(source / "runs", out / "runs")
    row = small.rows[0]
    for run_id in row.chosen_search.values():
        folder = run_folder(out, run_id)
        write_again(
            folder,
            epochs=[
                replace(r, holdout=with_peak(r.holdout, PEAKS["holdout"])) if r.epoch == 3 else r
                for r in folder.epochs()
            ],
        )
    for run_id in row.refit.values():
        folder = run_folder(out, run_id)
        write_again(
            folder,
            monitors=[
                replace(r, scores=with_peak(r.scores, PEAKS["test"]))
                if (r.epoch, r.monitor) == (3, "test")
                else r
                for r in folder.monitors()
            ],
        )
    rows = (replace(row, label="humans", dataset="CIFAR-100N", architecture="ResNet-34"),)
    write_study(
        out / "humans",
        StudyRecord(name="humans", title="Noise", command="again", rows=rows, preset="table2"),
    )
    return write_report(out, "humans").read_text(encoding="utf-8")


def test_a_maximum_over_averages_and_epochs_is_no_number_of_the_page(paper_page):
    text = Text(paper_page).text
    for peak in PEAKS.values():
        # It is drawn, so it was there to be printed.
        assert f"{100 * peak:.5g}" in paper_page
        for digits in (1, 2, 3):
            assert f"{100 * peak:.{digits}f}" not in text
        assert f"{peak:.3f}" not in text
    assert "0.014" not in text


def test_the_notice_comes_before_the_first_number(paper_page):
    text = Text(paper_page).text
    notice = text.index(
        "Smaller than the paper: the verdicts below are on its claims in these runs, none is on its"
    )
    assert notice < text.index("As in the paper: table 2") < text.index("In short")
    between = text[notice : text.index("As in the paper: table 2")]
    for words in (
        "model tiny instead of ResNet-34",
        "4 epochs instead of 200",
        "EMA 0.9 for the paper’s EMA 0.998",
    ):
        assert words in between


def test_quoted_lines_are_marked_on_the_page(paper_page):
    table = paper_page[paper_page.index('id="paper-form"') :].split("</table>")[0]
    lines = table.split("<tbody>")[1].split("</tr>")[:-1]
    assert len(lines) == 13
    for line in lines:
        marked = 'class="badge">quoted' in line
        assert marked is ("EMA(acc)" not in line)


def test_each_letter_leads_to_a_note(paper_page):
    form = paper_page[paper_page.index('id="paper-form"') :].split("</ol>")[0]
    letters = {
        mark for found in re.findall(r"<sup>([a-z ]+)</sup>", form) for mark in found.split()
    }
    notes = form.split('<ol class="notes"')[1].count("<li>")
    assert letters == {chr(ord("a") + i) for i in range(notes)}
    assert "look swapped" in form


def test_a_data_set_that_the_study_lacks_says_so_in_its_cells(paper_page):
    assert "not in this study" in paper_page


def test_the_authors_curves_are_named_on_the_page(paper_page):
    assert "their average peaks at 64.8 near epoch 100 and ends at 56.0" in Text(paper_page).text


def test_no_cell_is_empty(paper_page):
    cells = Text(paper_page).cells
    assert len(cells) > 100
    assert all(cells)


@pytest.mark.parametrize("name", ["table1-tiny", "table1-mine", "figure1-tiny", "app-c-small"])
def test_a_study_from_before_plan_json_named_its_preset_has_the_page_of_its_name(
    toy, tmp_path, name, monkeypatch
):
    monkeypatch.setattr("polyak.report.page.write_svg", lambda chart, path: None)
    out, study = toy
    (tmp_path / "runs").symlink_to(out / "runs")
    row = replace(study.rows[0], dataset="CIFAR-100", architecture="ResNet-18")
    preset = name.rsplit("-", 1)[0]
    scale = None if name.endswith("mine") else name.rsplit("-", 1)[1]
    record = replace(study, name=name, rows=(row,), preset=preset, scale=scale)
    write_study(tmp_path / name, record)
    page = write_report(tmp_path, name).read_bytes()
    assert b"As in the paper: " in page
    path = tmp_path / name / "plan.json"
    plan = json.loads(path.read_text())
    del plan["preset"], plan["scale"], plan["sha256"]
    path.write_text(json.dumps(plan))
    assert write_report(tmp_path, name).read_bytes() == page


def test_a_study_of_ones_own_is_laid_out_as_itself_whatever_its_name(toy, tmp_path, monkeypatch):
    monkeypatch.setattr("polyak.report.page.write_svg", lambda chart, path: None)
    out, study = toy
    (tmp_path / "runs").symlink_to(out / "runs")
    pages = {}
    for name in ("table1-mine", "mine"):
        write_study(tmp_path / name, replace(study, name=name))
        page = write_report(tmp_path, name).read_text(encoding="utf-8")
        pages[name] = page.replace(name, "mine")
    assert pages["table1-mine"] == pages["mine"]
    assert "As in the paper" not in pages["mine"]
