"""Charts as data, and the two ways of drawing them."""

import csv
import subprocess
import sys

import plotly.graph_objects as go
import pytest

from polyak.analysis.loaded import load_recorded_study
from polyak.report.figures import style
from polyak.report.figures.chart import Chart, Panel, Series, write_csv
from polyak.report.figures.interactive import spec
from polyak.report.figures.svg import draw, write_svg
from polyak.report.figures.training_curves import row_charts


@pytest.fixture(scope="module")
def charts(toy):
    (row,) = load_recorded_study(*toy).rows
    return row_charts(row, prefix="row1")


def line(label: str, **more) -> Series:
    return Series(label=label, x=(1, 2), y=(50.0, 60.0), style=style.SGD, **more)


def test_hold_out_curves_are_means_over_seeds_in_percent(charts):
    panels = charts["holdout"].panels
    by_label = {series.label: series for series in panels[0].series}
    # 0.3 + 0.1 e + 0.01 s, over seeds 0 and 1
    assert by_label["SGD"].y == pytest.approx([40.5, 50.5, 60.5, 70.5])
    assert by_label["best average (maximum)"].y == pytest.approx([42.5, 52.5, 65.5, 75.5])
    assert by_label["SGD"].low[0] < 40.5 < by_label["SGD"].high[0]
    assert by_label["EMA 0.9"].low is None
    # both seeds stopped in epoch 3, at 0.65 and 0.66
    assert by_label["chosen for EMA (acc.)"].x == (3, 3)
    assert by_label["chosen for EMA (acc.)"].y == pytest.approx([65.0, 66.0])
    assert panels[2].series[0].y == pytest.approx([0.1, 0.05, 0.1 / 3, 0.025])


def test_best_average_is_marked_and_never_among_the_memorised(charts):
    assert "maximum" in charts["test"].caption
    labels = {s.label for panel in charts["memorised"].panels for s in panel.series}
    assert labels == {"SGD", "EMA 0.5", "EMA 0.9"}


def test_recomputation_has_a_panel_an_average_smoothed_over_five_epochs(charts):
    panels = charts["batchnorm"].panels
    assert [panel.title for panel in panels] == ["EMA 0.5", "EMA 0.9"]
    averaged, recomputed = panels[0].series
    # Monitors of seeds 10 and 11 at 0.425 + 0.1 e; means of 3, 4, 4 and 3 neighbours
    assert averaged.y == pytest.approx([62.5, 67.5, 67.5, 72.5])
    assert recomputed.y == pytest.approx([61.5, 66.5, 66.5, 71.5])


def test_legend_says_seeds_and_band(charts):
    assert charts["holdout"].legend == "means of 2 seeds; band: 95 % interval"
    assert charts["batchnorm"].legend == "means of 2 seeds"


def test_every_interactive_figure_is_valid_plotly(charts):
    for chart in charts.values():
        values = spec(chart)
        figure = go.Figure(values)
        assert len(figure.data) == len(values["data"]) > 0
        bands = sum(s.low is not None for panel in chart.panels for s in panel.series)
        assert len(figure.data) == bands + sum(len(panel.series) for panel in chart.panels)


def test_each_label_is_once_in_a_legend(charts):
    for chart in charts.values():
        shown = [trace["name"] for trace in spec(chart)["data"] if trace["showlegend"]]
        assert len(shown) == len(set(shown))


def test_panels_of_a_grid_do_not_overlap(charts):
    layout = spec(charts["holdout"])["layout"]
    first, second, third = (layout[f"yaxis{n}"]["domain"] for n in ("", "2", "3"))
    assert first[0] > second[1] > second[0] > third[1] > third[0] == 0


def test_labels_are_text_to_plotly_and_matplotlib():
    panel = Panel(y_label="y", series=(line("<a href='http://x'>$\\frac$</a>"),))
    chart = Chart(name="c", subject="$\\nothing$", title="t", caption="", panels=(panel,))
    assert "<a" not in str(spec(chart)["data"])
    draw(chart).canvas.draw()  # mathematics would not parse


def test_static_figures_have_labelled_axes_and_a_legend(charts):
    for chart in charts.values():
        figure = draw(chart)
        drawn = [axes for axes in figure.axes if axes.axison]
        assert [axes.get_ylabel() for axes in drawn] == [panel.y_label for panel in chart.panels]
        assert drawn[-1].get_xlabel() == chart.panels[-1].x_label
        assert figure.legends[0].get_title().get_text() == chart.legend


def test_csv_holds_every_drawn_point(tmp_path):
    banded = line("a", low=(40.0, 50.0), high=(60.0, 70.0))
    chart = Chart(
        name="c",
        subject="s",
        title="t",
        caption="",
        panels=(Panel(title="p", y_label="accuracy (%)", series=(banded, line("b"))),),
    )
    write_csv(chart, tmp_path / "c.csv")
    rows = list(csv.DictReader((tmp_path / "c.csv").read_text().splitlines()))
    assert [row["series"] for row in rows] == ["a", "a", "b", "b"]
    assert (rows[1]["x"], rows[1]["y"], rows[1]["low"], rows[1]["high"]) == (
        "2", "60.0", "50.0", "70.0",
    )  # fmt: skip
    assert rows[3]["low"] == ""
    assert rows[0]["y_is"] == "accuracy (%)"


def test_svg_is_the_same_whenever_it_is_drawn(charts, tmp_path):
    for name in ("a.svg", "b.svg"):
        write_svg(charts["reliability"], tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_no_line_of_a_bank_looks_like_another():
    drawn = style.bank([f"ema_{i}" for i in range(5)])
    assert len({(s.dash, s.marker) for s in drawn.values()}) == 5
    assert len({s.colour for s in drawn.values()}) == 5


def test_drawing_needs_no_pyplot():
    code = "import sys, polyak.report.page; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
