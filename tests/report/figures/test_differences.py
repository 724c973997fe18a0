"""The forest plot under "In short"."""

import csv
import re
from dataclasses import replace

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from polyak.analysis.loaded import load_recorded_study
from polyak.analysis.results import Result, Results
from polyak.analysis.seeds import paired_difference
from polyak.report.figures.differences import main_differences
from polyak.report.figures.forest import draw_forest, write_forest

ACCURACIES = {
    ("refit", "sgd"): (0.60, 0.62, 0.61),
    ("refit", "sgd_bn"): (0.61, 0.62, 0.63),
    ("refit", "sgd_stopped"): (0.58, 0.61, 0.60),
    ("refit", "ema_acc_bn"): (0.65, 0.66, 0.64),
    ("refit", "swa_bn"): (0.70, 0.72, 0.69),
    ("annealed", "sgd"): (0.63, 0.63, 0.62),
    ("annealed", "sgd_bn"): (0.64, 0.63, 0.61),
}


@pytest.fixture
def row(toy):
    (row,) = load_recorded_study(*toy).rows
    common = {"row": row.label, "target": "test", "metric": "accuracy"}
    numbers = [
        Result(phase=phase, arm=arm, seed=str(seed), value=value, **common)
        for (phase, arm), values in ACCURACIES.items()
        for seed, value in enumerate(values)
    ]
    return replace(row, results=Results(numbers))


@pytest.fixture
def plot(row):
    (plot,) = main_differences([row])
    return plot


def test_each_line_is_a_paired_difference_in_points(plot):
    found = {(line.group, line.label): line for line in plot.lines}
    rivals = ("SGD", "SGD + BN", "SGD, stopped", "SGD annealed early", "SGD annealed early + BN")
    assert list(found) == [
        (ours, rival) for ours in ("EMA (acc.) + BN", "SWA + BN") for rival in rivals
    ]
    ours, theirs = ACCURACIES["refit", "swa_bn"], ACCURACIES["annealed", "sgd_bn"]
    expected = paired_difference(
        {s: 100 * x for s, x in enumerate(ours)}, {s: 100 * x for s, x in enumerate(theirs)}
    )
    line = found["SWA + BN", "SGD annealed early + BN"]
    assert line.interval == expected
    assert line.text == (
        f"+{expected.mean:.1f} [{expected.low:.1f}, {expected.high:.1f}]".replace("-", "−")
    )


def test_the_alternative_says_all_that_the_plot_shows(plot):
    for line in plot.lines:
        assert f"{line.group} minus {line.label}: {line.text}" in plot.alternative
    assert plot.alternative.startswith("Differences of test accuracy in points")


def test_many_rows_leave_out_sgd_that_was_stopped_and_name_each_row(row):
    rows = [replace(row, record=replace(row.record, label=f"row {n}")) for n in range(3)]
    (plot,) = main_differences(rows)
    assert not any("stopped" in line.label for line in plot.lines)
    assert {line.group for line in plot.lines} == {
        f"row {n}: {ours}" for n in range(3) for ours in ("EMA (acc.) + BN", "SWA + BN")
    }


def test_a_single_seed_is_a_mark_without_an_interval(row):
    alone = replace(row, results=Results(r for r in row.results if r.seed == "0"))
    (plot,) = main_differences([alone])
    assert {line.text for line in plot.lines if line.label == "SGD"} == {"+5.0", "+10.0"}
    assert isinstance(draw_forest(plot), Figure)


def test_nothing_to_compare_is_no_plot(row):
    assert main_differences([replace(row, results=Results())]) == []
    assert main_differences([]) == []


def test_files_are_as_narrow_as_a_telephone_and_hold_every_number(plot, tmp_path):
    write_forest(plot, tmp_path)
    width = re.search(r'<svg[^>]* width="([\d.]+)pt"', (tmp_path / f"{plot.name}.svg").read_text())
    assert width is not None
    assert float(width[1]) / 72 * 96 <= 390
    with (tmp_path / f"{plot.name}.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["against"] for line in lines] == [line.label for line in plot.lines]
    assert [float(line["mean"]) for line in lines] == [x.interval.mean for x in plot.lines]


def test_words_and_intervals_stay_inside_the_plot(plot):
    figure = draw_forest(plot)
    (axes,) = figure.axes
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    frame = figure.bbox
    for text in axes.texts:
        box = text.get_window_extent(renderer)
        assert frame.x0 <= box.x0 < box.x1 <= frame.x1, text.get_text()
    low, high = axes.get_xlim()
    for line in plot.lines:
        assert low < line.interval.low < line.interval.high < high


def test_it_stands_under_in_short_with_its_words(page):
    short = page[page.index('<h2 id="short">') : page.index("<nav")]
    for metric in ("accuracy", "loss"):
        (alternative,) = re.findall(
            rf'<img src="figures/differences-{metric}.svg" alt="([^"]+)">', short
        )
        assert f"Differences of test {metric}" in alternative
        assert "EMA (acc.) + BN minus SGD: " in alternative
