"""Charts as data, and the two ways of drawing them."""

import csv
import json
import re
import subprocess
import sys
from dataclasses import replace
from importlib.resources import files
from typing import get_args

import pytest

from polyak.analysis.loaded import load_recorded_study
from polyak.report.figures import style
from polyak.report.figures.alternative import alternative
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


def test_an_interactive_figure_has_every_value_of_every_line_in_both_views(charts):
    """What is read under the pointer: as many points as the chart has, to five digits."""
    for chart in charts.values():
        values = json.loads(json.dumps(spec(chart)))
        for panel, given in zip(chart.panels, values["panels"], strict=True):
            _same_lines(panel, given)
            assert (given["minus"] is None) == (panel.minus is None)
            if panel.minus is not None:
                _same_lines(panel.minus, given["minus"])


def _same_lines(panel, given):
    assert [line["label"] for line in given["series"]] == [s.label for s in panel.series]
    for series, told in zip(panel.series, given["series"], strict=True):
        assert told["x"] == list(series.x)
        for name in ("y", "low", "high"):
            ours = getattr(series, name)
            assert (name in told) == (ours is not None)
            assert ours is None or told[name] == pytest.approx(ours, rel=1e-4)


def test_every_dash_and_marker_has_a_shape_in_the_drawing_script():
    script = files("polyak.report.templates").joinpath("charts.js").read_text("utf-8")
    for name in (*get_args(style.Dash), *get_args(style.Marker)):
        assert re.search(rf'\b{name}"?: "', script), name


def test_leads_are_paired_by_seed_and_sgd_is_the_line_at_zero(charts):
    """Seeds differ by a point in level and agree in the lead, so its interval is narrower."""
    accuracy, loss, rate = charts["holdout"].panels
    leads = {series.label: series for series in accuracy.minus.series}
    levels = {series.label: series for series in accuracy.series}
    assert list(leads) == ["EMA 0.5", "EMA 0.9", "SGD", "chosen for EMA (acc.)"]
    assert set(leads["SGD"].y) == {0.0}
    expected = [ours - sgd for ours, sgd in zip(levels["EMA 0.9"].y, levels["SGD"].y, strict=True)]
    assert leads["EMA 0.9"].y == pytest.approx(expected)
    widths = [h - low for h, low in zip(leads["EMA 0.9"].high, leads["EMA 0.9"].low, strict=True)]
    levels_widths = [h - low for h, low in zip(levels["SGD"].high, levels["SGD"].low, strict=True)]
    assert max(widths) < min(levels_widths)
    assert [series.banded for series in leads.values()][:2] == [False, True]
    # At each seed's own scores: both at epoch 3, where the chosen average led by as much.
    assert leads["chosen for EMA (acc.)"].x == (3, 3)
    assert loss.minus is not None
    assert rate.minus is None


def test_differences_are_shown_first_where_lines_are_crowded():
    def panel(near: float) -> Panel:
        sgd = line("SGD")
        lead = replace(sgd, y=(near, -near))
        return Panel(y_label="y", series=(sgd,), minus=Panel(y_label="d", series=(lead,)))

    # SGD's own range is 10.
    assert panel(1.0).crowded
    assert not panel(5.0).crowded
    assert not Panel(y_label="y", series=(line("SGD"),)).crowded


def test_labels_are_text_to_matplotlib():
    panel = Panel(y_label="y", series=(line("<a href='http://x'>$\\frac$</a>"),))
    chart = Chart(name="c", subject="$\\nothing$", title="t", caption="", panels=(panel,))
    draw(chart).canvas.draw()  # mathematics would not parse


def test_the_text_alternative_tells_each_line_at_fixed_places(charts):
    told = alternative(charts["holdout"])
    assert told.startswith("toy row. On the hold-out, during the search")
    assert "Hold-out accuracy (%) at epoch 1, 2, 3 and 4:" not in told  # the crosses lie elsewhere
    assert "SGD 40.5 at 1, 50.5 at 2, 60.5 at 3, 70.5 at 4" in told
    assert "Learning rate at epoch 1, 2, 3 and 4: learning rate 0.1, 0.05, 0.0333, 0.025." in told
    assert "maximum" not in told
    for chart in charts.values():
        words = alternative(chart)
        for panel in chart.panels:
            assert all(s.label in words for s in panel.series if "maximum" not in s.label)


def test_the_text_alternative_of_a_long_line_has_five_of_its_values():
    curve = Series(
        label="a", x=tuple(range(101)), y=tuple(0.1 * x for x in range(101)), style=style.SGD
    )
    panels = (Panel(y_label="y", series=(curve,)),)
    chart = Chart(name="c", subject="s", title="t", caption="", panels=panels)
    assert alternative(chart) == "s. t. Y at epoch 0, 25, 50, 75 and 100: a 0, 2.5, 5, 7.5, 10."


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
