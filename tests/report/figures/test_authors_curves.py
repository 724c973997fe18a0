import csv
from dataclasses import replace
from importlib.resources import files

import pytest

from polyak.analysis.loaded import load_recorded_study
from polyak.report.figures.authors_curves import SOURCE, curve, drawn_for, facts
from polyak.report.figures.authors_curves import test_series as series_of_test
from polyak.report.figures.chart import write_csv
from polyak.report.figures.svg import write_svg
from polyak.report.figures.training_curves import row_charts


def stored(column):
    text = files("polyak.report.paper").joinpath("authors", "figure2_test.csv").read_text("utf-8")
    return [float(line[column]) for line in csv.DictReader(text.splitlines())]


def changed(toy, **changes):
    """The small study's row, loaded, with another record."""
    (row,) = load_recorded_study(*toy).rows
    return replace(row, record=replace(row.record, **changes))


@pytest.fixture(scope="module")
def charts(toy):
    row = changed(toy, dataset="CIFAR-100N", architecture="ResNet-34")
    return row_charts(row, prefix="r", preset="figure2")


def test_the_average_peaks_near_epoch_100_and_ends_where_sgd_ends():
    ema, sgd = curve("ema"), curve("sgd")
    epoch, peak = max(ema, key=lambda point: point[1])
    assert (epoch, round(peak, 1)) == (100, 64.8)
    assert (round(ema[-1][1], 1), round(sgd[-1][1], 1)) == (56.0, 55.9)
    for words in ("64.8 near epoch 100", "ends at 56.0", "SGD ends at 55.9", SOURCE):
        assert words in facts()


def test_all_three_files_are_read():
    assert curve("rate")[0] == (0.512, 0.08184)


def test_figure_2_draws_them_behind_ours(charts, tmp_path):
    chart = charts["test"]
    assert facts() in chart.caption
    labels = [line.label.split(" (")[0] for line in chart.panels[0].series]
    assert labels[:2] == ["authors’ EMA", "authors’ SGD"]
    assert labels[-1] == "best average"
    write_csv(chart, tmp_path / "test.csv")
    with (tmp_path / "test.csv").open(newline="") as file:
        drawn = list(csv.DictReader(file))
    for label, column in (("authors’ EMA", "ema"), ("authors’ SGD", "sgd")):
        found = [float(line["y"]) for line in drawn if line["series"].startswith(label)]
        assert found == stored(f"{column}_test_acc_percent")
    write_svg(chart, tmp_path / "test.svg")
    svg = (tmp_path / "test.svg").read_text(encoding="utf-8")
    bare = replace(chart, panels=(replace(chart.panels[0], series=chart.panels[0].series[2:]),))
    write_svg(replace(bare, heights=(3.0,)), tmp_path / "bare.svg")
    # Their two lines in their own colours, and nowhere without them.
    for series in chart.panels[0].series[:2]:
        assert series.style.colour in svg
        assert series.style.colour not in (tmp_path / "bare.svg").read_text(encoding="utf-8")


def test_a_shorter_run_has_them_at_the_same_share_and_says_so():
    whole, short = series_of_test(200)[0], series_of_test(4)[0]
    assert whole.label == "authors’ EMA"
    assert short.label == "authors’ EMA (200 epochs, squeezed)"
    assert whole.y == short.y
    assert whole.x[99] == 100
    assert short.x[99] == 2


@pytest.mark.parametrize(
    ("dataset", "drawn"), [("cifar-100n", True), ("CIFAR-10N", False), ("CIFAR-100", False)]
)
def test_they_are_drawn_for_their_own_data_only(toy, dataset, drawn):
    assert drawn_for(dataset) is drawn
    chart = row_charts(changed(toy, dataset=dataset), prefix="r")["test"]
    assert ("authors" in chart.caption) is drawn


def test_figure_1_has_sgd_the_marked_maximum_and_the_learning_rate(toy):
    row = changed(toy)
    charts = row_charts(row, prefix="r", preset="figure1")
    accuracy, rate = charts["figure1"].panels
    assert [line.label for line in accuracy.series] == ["SGD", "best average (maximum)"]
    assert [line.label for line in rate.series] == ["learning rate"]
    assert "2 seeds" in charts["figure1"].legend
    assert len(charts["batchnorm"].panels) == len(row.record.averages)
    assert "sliding mean of 5 epochs" in charts["batchnorm"].caption
    assert "2 seeds" in charts["batchnorm"].legend


def test_other_studies_have_no_figure_1(toy):
    assert "figure1" not in row_charts(changed(toy), prefix="r")
