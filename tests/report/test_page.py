import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files

import pytest
from safetensors.torch import load_file, save_file
from support.slow_results import values
from support.small_study import write_again

from polyak.analysis.loaded import LoadedRow, LoadedRun, load_recorded_study
from polyak.analysis.results import Results
from polyak.errors import FileError
from polyak.records.runs import RunFolder, run_folder
from polyak.records.studies import write_study
from polyak.report import facts
from polyak.report.figures.interactive import spec
from polyak.report.figures.training_curves import row_charts
from polyak.report.page import write_report
from polyak.report.tables.cells import WRONG_LABELS, mean_cell, meaningful
from polyak.report.tables.measures import LOSS, TEMPERATURE
from polyak.report.tables.overview import CALIBRATION


class Elements(HTMLParser):
    """Every tag with its attributes, and the text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._hidden = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._hidden = tag in ("script", "style")

    def handle_endtag(self, tag):
        self._hidden = False

    def handle_data(self, data):
        if not self._hidden:
            self.text += " ".join(data.split()) + " "


def rewritten(toy, tmp_path, **changes):
    """The page's visible text and tags after its only row was changed."""
    out, study = toy
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    write_study(tmp_path / "toy", replace(study, rows=(replace(study.rows[0], **changes),)))
    return Elements(write_report(tmp_path, "toy").read_text(encoding="utf-8"))


def test_page_refers_to_nothing_outside_its_folder(toy, page):
    out, _ = toy
    references = [
        value
        for _, attributes in Elements(page).tags
        for name, value in attributes.items()
        if name in ("src", "href", "action", "data", "poster", "srcset")
    ]
    assert references
    for reference in references:
        if reference.startswith("#"):
            assert f'id="{reference[1:]}"' in page
        else:
            assert (out / "toy" / "report" / reference).is_file()
    styles = "".join(re.findall(r"<style>(.*?)</style>", page, re.S))
    assert "url(" not in styles
    assert "@import" not in styles


def test_what_draws_the_figures_is_in_the_page_once(page):
    script = files("polyak.report.templates").joinpath("charts.js").read_text("utf-8")
    assert page.count(script.strip()) == 1
    assert [tag for tag, _ in Elements(page).tags].count("script") == 2


def test_a_page_with_figures_to_look_into_is_small(page):
    """A study of four hundred epochs has some 100 times the points of this one."""
    assert len(page.encode()) < 150_000


def test_every_value_under_the_pointer_is_in_the_page(toy, page):
    out, study = toy
    (row,) = load_recorded_study(out, study).rows
    given = json.loads(
        page.split('<script type="application/json" id="charts">')[1].split("</script>")[0]
    )
    charts = row_charts(row, prefix="row1")
    assert given == {chart.name: spec(chart) for chart in charts.values()}
    assert re.findall(r'id="plot-([\w-]+)"', page) == [
        name for name in re.findall(r'id="plot-([\w-]+)"', page) if name in given
    ]


def test_every_plot_and_picture_has_a_text_alternative_with_numbers(page):
    tags = Elements(page).tags
    plots = [a["aria-label"] for tag, a in tags if a.get("class") == "plot"]
    pictures = [a["alt"] for tag, a in tags if tag == "img"]
    assert len(plots) == 5
    assert len(pictures) == 7  # those of readers without scripts, and two of differences
    for words in (*plots, *pictures):
        assert len(re.findall(r"\d[\d.]*", words)) >= 4, words


def test_every_table_has_a_caption(page):
    assert page.count("<table") == page.count("<caption>") >= 10


def test_on_a_telephone_each_number_of_the_main_tables_has_its_heading(page):
    """They are laid out as cards there, below each other."""
    styles = page.split("<style>")[1].split("</style>")[0]
    narrow = styles.split("@media screen and (max-width: 40rem)")[1]
    assert "content: attr(data-heading)" in narrow
    for table in re.findall(r'<table class="models">.*?</table>', page, re.S):
        assert len(re.findall(r"<td[ >]", table)) == len(
            re.findall(r'<td[^>]* data-heading="\w', table)
        )


def test_dark_mode_changes_every_colour_of_the_page_and_turns_plots_about(page):
    styles = page.split("<style>")[1].split("</style>")[0]
    light, dark = styles.split("@media screen and (prefers-color-scheme: dark)")[:2]
    names = re.findall(r"(--[\w-]+): #", light)
    assert names == re.findall(r"(--[\w-]+): #", dark.split(".drawn")[0])
    turned = dark.split("{ filter: invert")[0].rsplit("\n", 1)[1].strip()
    assert turned.split(", ") == [
        ".drawn",  # by the script
        ".forest img",
        "figure:not(.card) > img",
        "noscript img",
    ]
    # Plots alone have colours of their own: they are what is turned about.
    rest = styles.split("}\n}", 1)[1]
    own = [line for line in rest.splitlines() if re.search(r"#[0-9a-f]{3,6}\b", line)]
    assert all(line.startswith((".plot ", ".reading {")) for line in own), own
    assert 'class: "drawn"' in page


def test_print_shows_what_is_shut_on_a_screen(page):
    printed = page.split("@media print")[1].split("</style>")[0]
    assert "details::details-content" in printed
    assert 'addEventListener("beforeprint"' in page
    assert "nav, .plot .views { display: none; }" in printed


def test_each_figure_has_a_place_an_svg_and_a_csv(toy, page):
    out, _ = toy
    places = re.findall(r'id="plot-([\w-]+)"', page)
    assert places == [
        f"row1-{k}" for k in ("test", "memorised", "reliability", "holdout", "batchnorm")
    ]
    for name in places:
        for ending in ("svg", "csv"):
            assert (out / "toy" / "report" / "figures" / f"{name}.{ending}").stat().st_size > 300


def test_page_shows_the_results_own_numbers(toy, page):
    out, study = toy
    results = load_recorded_study(out, study).results
    text = Elements(page).text
    for arm in ("sgd", "ema_acc_bn"):
        found = values(results, row="toy row", arm=arm, metric="accuracy", phase="refit")
        assert f"{50 * sum(found.values()):.1f}" in text
    assert "61 s" not in text  # wall time in the two largest units
    assert "1 min 1 s of wall time" in text
    # 4 search runs and 2 refits of 4 epochs of 30 images
    assert "720 training images" in text


def test_page_says_that_the_paper_has_nothing(page):
    assert "The paper has no numbers for toy with tiny." in Elements(page).text


def test_page_names_the_averages_that_coincide(page):
    text = Elements(page).text
    assert "In the search, EMA 0.5 and EMA 0.9 have equal scores until epoch 2." in text


def test_page_names_both_values_of_a_fitted_decay(page):
    assert "EMA 0.5 for the paper’s EMA 0.968, EMA 0.9 for the paper’s EMA 0.998" in page


def test_writing_again_gives_the_same_files(toy, tmp_path):
    out, _ = toy
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    write_report(tmp_path, "toy")
    for first in sorted((out / "toy" / "report").rglob("*.*")):
        second = tmp_path / first.relative_to(out)
        assert first.read_bytes() == second.read_bytes(), first.name


def test_names_are_text_not_markup(toy, tmp_path):
    nasty = "<img src=x onerror=alert(1)> & $x_1$"
    found = rewritten(toy, tmp_path, label=nasty, dataset=nasty, architecture="</script>")
    assert not any(attributes.get("src") == "x" for _, attributes in found.tags)
    assert [tag for tag, _ in found.tags].count("script") == 2
    assert nasty in found.text


def test_a_failed_row_has_its_reason_in_every_cell(toy, tmp_path):
    found = rewritten(
        toy,
        tmp_path,
        failure="every learning rate diverged. Search smaller ones.",
        chosen_learning_rate=None,
        stops={},
        refit={},
        transfer={},
    )
    assert "No result: every learning rate diverged. Search smaller ones." in found.text
    assert found.text.count("search failed") >= 20
    assert "nan" not in found.text.casefold()


def test_a_diverged_refit_is_named_and_left_out(toy, tmp_path):
    _, study = toy
    run_folder(tmp_path, "gone").finish("diverged", seconds=1.0)
    refit = {**study.rows[0].refit, "1": "gone"}
    found = rewritten(toy, tmp_path, refit=refit, transfer={})
    assert "The refit of seed 1 diverged; it is left out of all numbers below." in found.text
    assert "in the only seed" in found.text


def test_all_refits_diverged_leaves_reasons(toy, tmp_path):
    run_folder(tmp_path, "gone").finish("diverged", seconds=1.0)
    found = rewritten(toy, tmp_path, refit={"0": "gone", "1": "gone"}, transfer={})
    assert "The refit of seeds 0 and 1 diverged" in found.text
    assert "No result: diverged." in found.text
    assert "no test curves (diverged)" in found.text


def test_a_probe_that_is_missing_is_named(toy, tmp_path):
    found = rewritten(toy, tmp_path, transfer={"elsewhere": "never-run"})
    assert "The linear probe on elsewhere is not finished." in found.text
    assert "not finished" in found.text


def test_one_seed_has_numbers_and_a_warning(toy, tmp_path):
    _, study = toy
    row = study.rows[0]
    found = rewritten(
        toy,
        tmp_path,
        seeds=(0,),
        refit={"0": row.refit["0"]},
        search={rate: {"0": runs["0"]} for rate, runs in row.search.items()},
        stops={"0": row.stops["0"]},
        transfer={},
    )
    assert "There is one seed." in found.text
    assert "without a second one this may be chance" in found.text
    assert (
        "±"
        not in found.text.split("Generalisation", 2)[2].split("Label noise")[0].split("model")[1]
    )


def test_runs_without_monitors_say_why_there_are_no_curves(toy, tmp_path):
    out, _ = toy
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob("runs/*/monitor.jsonl"):
        write_again(RunFolder(path.parent), monitors=[])
    text = Elements(write_report(tmp_path, "toy").read_text(encoding="utf-8")).text
    assert "no test curves (the runs were made without the monitor test)" in text
    assert "no curves of memorising" in text


def test_nothing_run_yet_is_a_page_too(toy, tmp_path):
    _, study = toy
    bare = replace(study.rows[0], stops={}, chosen_learning_rate=None, refit={}, transfer={})
    write_study(tmp_path / "toy", replace(study, rows=(bare,)))
    text = Elements(write_report(tmp_path, "toy").read_text(encoding="utf-8")).text
    assert "search not finished" in text


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(FileError, match="holds no study"):
        write_report(tmp_path, "nothing")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, None),
        ({"precision": "bfloat16"}, "bfloat16; weights, statistics and averages"),
        ({"precision": "float32"}, "float32"),
        ({"fp32": True}, "float32"),
    ],
)
def test_the_page_says_what_was_computed_in_where_a_run_chose_it(toy, tmp_path, settings, said):
    out, study = toy
    shutil.copytree(out, tmp_path / "out")
    for path in (tmp_path / "out/runs").glob("*/config.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    (row,) = load_recorded_study(tmp_path / "out", study).rows
    found = dict(facts.settings(row))
    assert "computed in" not in found if said is None else found["computed in"].startswith(said)
    page = write_report(tmp_path / "out", study.name).read_text(encoding="utf-8")
    assert (">computed in<" in page) == (said is not None)


def test_the_page_names_the_width_of_a_network_that_has_another_than_its_usual(toy):
    _, study = toy
    run = LoadedRun(id="r", config={"model": {"name": "resnet18", "width": 32}})
    row = LoadedRow(record=study.rows[0], runs={"r": run})
    assert dict(facts.settings(row))["model"] == "resnet18 of width 32"


def with_wrong_holdout(toy, tmp_path):
    """The study with three wrong labels in each hold-out."""
    out, _ = toy
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob("runs/*/predictions.safetensors"):
        said = load_file(path)
        if "holdout/given" in said:
            said["holdout/given"][:3] = (said["holdout/given"][:3] + 1) % 3
            save_file(said, path)
    return Elements(write_report(tmp_path, "toy").read_text(encoding="utf-8")).text


def test_a_temperature_that_is_fitted_to_wrong_labels_is_a_sentence_and_no_number(
    toy, page, tmp_path
):
    right = Elements(page).text
    assert "ECE, scaled" in right
    assert "One temperature is fitted on the hold-out." in right
    assert "No temperature is shown" not in right
    wrong = with_wrong_holdout(toy, tmp_path)
    assert "ECE, scaled" not in wrong
    assert "One temperature is fitted" not in wrong
    assert "No temperature is shown: the hold-out’s labels are wrong" in wrong
    # Every number is still in the file.
    keys = {r.metric for r in load_recorded_study(tmp_path, toy[1]).results}
    assert {"temperature", "ece_scaled", "loss_scaled"} <= keys


def test_of_two_rows_only_that_with_wrong_labels_has_no_temperature(toy, tmp_path):
    out, study = toy
    (row,) = load_recorded_study(out, study).rows
    counts = {key: run.samples for key, run in row.runs.items()}
    runs = {
        key: replace(run, samples=counts[key] and replace(counts[key], wrong_holdout=3))
        for key, run in row.runs.items()
    }
    noisy = replace(row, runs=runs)
    assert (row.noisy_temperature, noisy.noisy_temperature) == (False, True)
    clean = replace(noisy, record=replace(noisy.record, holdout_labels="clean"))
    assert not clean.noisy_temperature
    values = {"0": 1.5, "1": 2.5}
    assert mean_cell(row, values, TEMPERATURE).text == "2.00"
    assert mean_cell(noisy, values, TEMPERATURE) == WRONG_LABELS
    assert mean_cell(noisy, values, LOSS).text == "2.000"
    assert meaningful([row, noisy], CALIBRATION) == CALIBRATION
    assert TEMPERATURE not in meaningful([noisy], CALIBRATION)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "training images, cropped and flipped as in training"),
        ({"data": {"crop_padding": 0}}, "training images, flipped as in training"),
        ({"data": {"crop_padding": 0, "flip": False}}, "training images, as they are"),
        ({"batchnorm_augmentation": "off"}, "training images, as they are"),
    ],
)
def test_the_page_says_how_statistics_are_recomputed(toy, config, said):
    (row,) = load_recorded_study(*toy).rows
    found = {**row.config, **config, "data": {**row.config["data"], **config.get("data", {})}}
    runs = {key: replace(run, config=found) for key, run in row.runs.items()}
    assert dict(facts.settings(replace(row, runs=runs)))["BatchNorm"].endswith(said)
    assert "BatchNorm" not in dict(facts.settings(replace(row, batchnorm=False)))


def test_sgd_with_recomputed_statistics_of_some_seeds_only_is_named(toy):
    (row,) = load_recorded_study(*toy).rows
    assert facts.problems(row) == []
    twin = [
        replace(r, arm="sgd_bn")
        for r in row.results
        if (r.phase, r.arm, r.seed) == ("refit", "sgd", "0")
    ]
    part = replace(row, results=Results([*row.results, *twin]))
    assert facts.problems(part) == [
        "SGD + BN is there for seed 0 of the refit only: call polyak evaluate --controls again."
    ]
