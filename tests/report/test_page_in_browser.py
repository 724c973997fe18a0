"""The page as a browser lays it out: what no reading of its text shows."""

import html
import json
import re
import shutil
import subprocess
from typing import Any

import pytest

from polyak.analysis.loaded import load_recorded_study
from polyak.report.figures.training_curves import row_charts

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
]

HOST = """<!doctype html><body><iframe width="{width}" height="900" srcdoc="{page}"></iframe>
<script>
addEventListener("load", () => setTimeout(() => {{
  const inside = document.querySelector("iframe").contentWindow, {{document: page}} = inside;
  const found = (() => {{ {script} }})();
  document.body.innerHTML = "";
  document.body.append(JSON.stringify(found));
}}, 500));
</script></body>"""


def found_by(script: str, page: str, folder, *, width: int) -> Any:
    """What a script returns that sees `page`, the document, and `inside`, its window."""
    host = folder / "host.html"
    host.write_text(HOST.format(width=width, page=html.escape(page), script=script), "utf-8")
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000"]
    words += ["--virtual-time-budget=5000", "--dump-dom", host.as_uri()]
    done = subprocess.run(
        [str(CHROMIUM), *words], capture_output=True, text=True, check=True, timeout=300
    )
    return json.loads(html.unescape(re.search(r"<body>(.*)</body>", done.stdout, re.S).group(1)))


@pytest.mark.parametrize("width", [420, 1200])
def test_nothing_scrolls_sideways(page, tmp_path, width):
    script = """
      page.querySelectorAll("details").forEach((one) => (one.open = true));
      const wide = [...page.querySelectorAll(".scroll, .plot, figure, html")];
      return wide.filter((one) => one.scrollWidth > one.clientWidth + 1)
        .map((one) => (one.querySelector("caption") || one).textContent.slice(0, 80));
    """
    assert found_by(script, page, tmp_path, width=width) == []


def test_one_place_reads_every_line_and_both_views_have_them_all(toy, page, tmp_path):
    script = """
      const plot = page.getElementById("plot-row1-holdout"), canvas = plot.querySelector(".canvas");
      const press = (key) =>
        canvas.dispatchEvent(new inside.KeyboardEvent("keydown", {key, bubbles: true}));
      return [...plot.querySelectorAll(".views button")].map((view) => {
        view.click();
        press("ArrowRight"); press("ArrowRight"); press("ArrowRight");
        const cells = (row) => [...row.children].map((cell) => cell.textContent);
        return {
          view: view.textContent,
          at: canvas.querySelector(".reading b").textContent,
          rows: [...canvas.querySelectorAll(".reading tr")].map(cells),
          paths: canvas.querySelectorAll("svg.drawn > g > path").length,
          legend: plot.querySelectorAll(".legend li").length,
        };
      });
    """
    minus, absolute = found_by(script, page, tmp_path, width=1200)
    assert (minus["view"], absolute["view"]) == ("minus SGD", "absolute")
    assert minus["at"] == absolute["at"] == "epoch 3"
    (row,) = load_recorded_study(*toy).rows
    panel = row_charts(row, prefix="row1")["holdout"].panels[0]
    for told, drawn in ((minus, panel.minus), (absolute, panel)):
        values = {name: value for name, value, _ in told["rows"] if name[:6] != "chosen"}
        assert values.keys() == {s.label for s in drawn.series if s.style.width}
        for series in drawn.series:
            if series.style.width:
                said = float(values[series.label].replace("−", "-"))
                assert said == pytest.approx(series.y[2], rel=1e-3)
        assert told["legend"] == len(drawn.series)
        assert told["paths"] > len(drawn.series)


def test_a_line_goes_and_comes_back_at_its_name_in_the_legend(page, tmp_path):
    script = """
      const plot = page.getElementById("plot-row1-holdout"), lines = () =>
        [...plot.querySelectorAll("svg.drawn > g > path[fill=none]")].length;
      const first = () => plot.querySelector(".legend button");
      const before = lines();
      first().click();
      const without = [lines(), first().getAttribute("aria-pressed")];
      first().click();
      return [before, ...without, lines()];
    """
    before, without, pressed, after = found_by(script, page, tmp_path, width=1200)
    assert without < before == after
    assert pressed == "false"
