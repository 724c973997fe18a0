"use strict";
// Draws the charts that `figures/interactive.py` describes, as SVG at the width there is. A pointer
// or the arrow keys read every line of a panel at one x.
(() => {
  const PIXELS_AN_INCH = 92,
    MARKS_A_LINE = 10,
    NARROWEST_PANEL = 230;
  const MARGIN = {left: 56, right: 12, top: 24, bottom: 24},
    X_LABEL = 18;
  const DASHES = {solid: "", dash: "7 3", dot: "1.5 3", dashdot: "7 3 1.5 3"};
  const MARKERS = {
    circle: "M-3.4 0a3.4 3.4 0 1 0 6.8 0a3.4 3.4 0 1 0 -6.8 0z",
    square: "M-3 -3h6v6h-6z",
    diamond: "M0 -4.2L4.2 0L0 4.2L-4.2 0z",
    "triangle-up": "M0 -4L3.8 3H-3.8z",
    "triangle-down": "M0 4L3.8 -3H-3.8z",
    cross: "M-1.4 -4h2.8v2.6h2.6v2.8h-2.6v2.6h-2.8v-2.6h-2.6v-2.8h2.6z",
    x: "M-4 -4L4 4M-4 4L4 -4",
  };
  const charts = JSON.parse(document.getElementById("charts").textContent);

  function element(name, attributes = {}, parent = null, text = "") {
    const html = /^(div|ul|li|button|p|b|span|table|tr|th|td)$/.test(name);
    const made = html
      ? document.createElement(name)
      : document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text) made.textContent = text;
    if (parent) parent.append(made);
    return made;
  }

  // Round numbers that divide a range into about `count` steps.
  function ticks([low, high], count) {
    const rough = (high - low) / count,
      power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((n) => n * power >= rough);
    const found = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) {
      found.push(Number((k * step).toPrecision(12)));
    }
    return found;
  }

  const written = (value, signed = false) =>
    (signed && value > 0 ? "+" : "") + String(Number(value.toPrecision(4))).replace("-", "−");

  function range(values) {
    const low = Math.min(...values),
      high = Math.max(...values);
    const room = (high - low || Math.abs(high) || 1) * 0.05;
    return [low - room, high + room];
  }

  function scale([low, high], [from, to]) {
    return (value) => from + ((value - low) / (high - low)) * (to - from);
  }

  class Plot {
    constructor(root, chart) {
      this.root = root;
      this.chart = chart;
      this.minus = chart.differences;
      this.hidden = new Set();
      this.controls = element("div", {class: "views"}, root);
      this.canvas = element("div", {class: "canvas", tabindex: "0"}, root);
      this.legend = element("div", {class: "legend"}, root);
      this.reading = element("div", {class: "reading", role: "status"}, this.canvas);
      if (chart.panels.some((panel) => panel.minus)) this.addViews();
      this.canvas.addEventListener("pointermove", (event) => this.point(event));
      this.canvas.addEventListener("pointerdown", (event) => this.point(event));
      this.canvas.addEventListener("pointerleave", () => this.read(null));
      this.canvas.addEventListener("blur", () => this.read(null));
      this.canvas.addEventListener("keydown", (event) => this.press(event));
      new ResizeObserver(() => this.canvas.clientWidth !== this.width && this.draw()).observe(
        this.canvas,
      );
      this.draw();
    }

    addViews() {
      for (const [minus, text] of [
        [true, "minus SGD"],
        [false, "absolute"],
      ]) {
        const button = element("button", {type: "button"}, this.controls, text);
        const show = () => button.setAttribute("aria-pressed", String(this.minus === minus));
        button.addEventListener("click", () => {
          this.minus = minus;
          this.draw();
        });
        this.views = [...(this.views || []), show];
      }
    }

    shown(panel) {
      return (this.minus && panel.minus) || panel;
    }

    visible(panel) {
      return this.shown(panel).series.filter((series) => !this.hidden.has(series.label));
    }

    draw() {
      this.read(null);
      for (const show of this.views || []) show();
      this.width = this.canvas.clientWidth;
      const {chart} = this,
        columns = Math.max(1, Math.min(chart.columns, Math.floor(this.width / NARROWEST_PANEL)));
      const rows = Math.ceil(chart.panels.length / columns);
      const heights = [...Array(rows).keys()].map(
        (row) => chart.heights[Math.min(row, chart.heights.length - 1)] * PIXELS_AN_INCH,
      );
      const height = heights.reduce((sum, one) => sum + one, 0) + X_LABEL;
      this.svg?.remove();
      this.svg = element("svg", {
        class: "drawn",
        viewBox: `0 0 ${this.width} ${height}`,
        "aria-hidden": "true",
      });
      this.canvas.prepend(this.svg);
      this.panels = chart.panels.map((panel, index) => {
        const row = Math.floor(index / columns),
          wide = this.width / columns;
        const left = (index % columns) * wide,
          top = heights.slice(0, row).reduce((sum, one) => sum + one, 0);
        return this.drawPanel(panel, {
          left,
          right: left + wide,
          top,
          bottom: top + heights[row],
          last: index + columns >= chart.panels.length,
        });
      });
      this.drawLegend();
    }

    drawPanel(panel, place) {
      const shown = this.shown(panel),
        series = this.visible(panel);
      const x = scale(this.xRange(), [place.left + MARGIN.left, place.right - MARGIN.right]);
      const yRange = this.yRange(panel),
        y = scale(yRange, [place.bottom - MARGIN.bottom, place.top + MARGIN.top]);
      const group = element("g", {}, this.svg);
      this.drawAxes(group, {x, y, yRange, place, shown});
      for (const line of series.filter((one) => one.low && one.band)) {
        const high = line.x.map((at, i) => `${x(at).toFixed(1)} ${y(line.high[i]).toFixed(1)}`);
        const low = line.x.map((at, i) => `${x(at).toFixed(1)} ${y(line.low[i]).toFixed(1)}`);
        element(
          "path",
          {d: `M${high.join("L")}L${low.reverse().join("L")}z`, fill: line.colour, opacity: 0.14},
          group,
        );
      }
      for (const line of series)
        this.drawLine(
          group,
          line,
          line.x.map((at, i) => [x(at), y(line.y[i])]),
        );
      const rule = element(
        "line",
        {class: "rule", y1: place.top + MARGIN.top, y2: place.bottom - MARGIN.bottom},
        group,
      );
      return {panel, place, x, y, rule, dots: element("g", {}, group)};
    }

    drawAxes(group, {x, y, yRange, place, shown}) {
      const left = place.left + MARGIN.left,
        right = place.right - MARGIN.right,
        foot = place.bottom - MARGIN.bottom;
      for (const at of ticks(yRange, Math.max(2, (place.bottom - place.top) / 48))) {
        element(
          "line",
          {
            class: this.minus && at === 0 && shown.minus === undefined ? "zero" : "grid",
            x1: left,
            x2: right,
            y1: y(at),
            y2: y(at),
          },
          group,
        );
        element("text", {x: left - 6, y: y(at) + 4, "text-anchor": "end"}, group, written(at));
      }
      for (const at of ticks(this.xRange(), Math.max(2, (right - left) / 70))) {
        element("line", {class: "tick", x1: x(at), x2: x(at), y1: foot, y2: foot + 4}, group);
        element("text", {x: x(at), y: foot + 17, "text-anchor": "middle"}, group, written(at));
      }
      element("line", {class: "axis", x1: left, x2: right, y1: foot, y2: foot}, group);
      const heading = shown.title ? `${shown.title}: ${shown.y_label}` : shown.y_label;
      element("text", {class: "heading", x: place.left + 4, y: place.top + 14}, group, heading);
      if (place.last)
        element(
          "text",
          {x: (left + right) / 2, y: place.bottom + 11, "text-anchor": "middle"},
          group,
          shown.x_label,
        );
    }

    drawLine(group, line, points) {
      const path = points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L");
      if (line.width)
        element(
          "path",
          {
            d: `M${path}`,
            fill: "none",
            stroke: line.colour,
            "stroke-width": line.width,
            "stroke-dasharray": DASHES[line.dash],
            "stroke-linejoin": "round",
          },
          group,
        );
      const step = line.width ? Math.max(1, Math.floor(points.length / MARKS_A_LINE)) : 1;
      if (line.marker)
        points.filter((_, i) => i % step === 0).forEach(([x, y]) => this.mark(group, line, x, y));
    }

    mark(group, {marker, colour}, x, y) {
      const look =
        marker === "x" ? {fill: "none", stroke: colour, "stroke-width": 2.2} : {fill: colour};
      element(
        "path",
        {d: MARKERS[marker], transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`, ...look},
        group,
      );
    }

    drawLegend() {
      this.legend.replaceChildren();
      const note = this.minus
        ? "minus SGD, paired by seed; band: 95 % interval of the longest window"
        : this.chart.legend;
      const list = element("ul", {}, this.legend),
        named = new Set();
      for (const line of this.chart.panels.flatMap((panel) => this.shown(panel).series)) {
        if (!line.in_legend || named.has(line.label)) continue;
        named.add(line.label);
        const pressed = String(!this.hidden.has(line.label));
        const button = element(
          "button",
          {type: "button", "aria-pressed": pressed, title: "show or hide"},
          element("li", {}, list),
        );
        this.drawLine(
          element("svg", {class: "drawn", width: 34, height: 12, "aria-hidden": "true"}, button),
          {...line, marker: null},
          [
            [1, 6],
            [33, 6],
          ],
        );
        if (line.marker) this.mark(button.firstChild, line, 17, 6);
        element("span", {}, button, line.label);
        button.addEventListener("click", () => {
          this.hidden[this.hidden.has(line.label) ? "delete" : "add"](line.label);
          this.draw();
        });
      }
      element("p", {}, this.legend, note);
    }

    xRange() {
      const all = this.chart.panels.flatMap((panel) => panel.series.flatMap((line) => line.x));
      const low = Math.min(...all),
        high = Math.max(...all),
        room = (high - low || 1) * 0.015;
      return [low - room, high + room];
    }

    yRange(panel) {
      const of = this.chart.share_y ? this.chart.panels : [panel];
      const lines = of.flatMap((one) => this.visible(one));
      const all = lines.flatMap((line) =>
        line.low && line.band ? [...line.y, ...line.low, ...line.high] : line.y,
      );
      return all.length ? range(all) : [0, 1];
    }

    point(event) {
      const box = this.canvas.getBoundingClientRect(),
        x = event.clientX - box.left,
        y = event.clientY - box.top;
      const here = this.panels.find(
        ({place}) => x >= place.left && x <= place.right && y >= place.top && y <= place.bottom,
      );
      if (here)
        this.read(
          here,
          this.nearest(here, (at) => Math.abs(here.x(at) - x)),
        );
    }

    places({panel}) {
      return [...new Set(this.visible(panel).flatMap((line) => line.x))].sort((a, b) => a - b);
    }

    nearest(here, distance) {
      return this.places(here).reduce(
        (best, at) => (best === null || distance(at) < distance(best) ? at : best),
        null,
      );
    }

    press(event) {
      const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
      if (event.key === "Escape") this.read(null);
      if (!step || event.target !== this.canvas) return;
      event.preventDefault();
      const here = this.at?.here || this.panels[0],
        places = this.places(here);
      const next = this.at ? places.indexOf(this.at.x) + step : 0;
      this.read(here, places[Math.min(places.length - 1, Math.max(0, next))]);
    }

    // Every line of a panel at the x nearest to the pointer; a line without a point there gives its nearest.
    read(here, at = null) {
      for (const {rule, dots} of this.panels || []) {
        rule.classList.toggle("on", here !== null && at !== null);
        dots.replaceChildren();
      }
      this.reading.replaceChildren();
      this.reading.classList.toggle("on", here !== null && at !== null);
      this.at = here && at !== null ? {here, x: at} : null;
      if (!this.at) return;
      for (const one of this.panels)
        one.rule.setAttribute("transform", `translate(${one.x(at)} 0)`);
      const lines = this.visible(here.panel)
        .map((line) => {
          const i = line.x.reduce(
            (best, x, k) => (Math.abs(x - at) < Math.abs(line.x[best] - at) ? k : best),
            0,
          );
          return {line, x: line.x[i], y: line.y[i], ends: line.low && [line.low[i], line.high[i]]};
        })
        .filter(({line, x}) => line.width || x === at)
        .sort((a, b) => b.y - a.y);
      this.fillReading(here, at, lines);
      for (const {line, x, y} of lines) {
        element(
          "circle",
          {cx: here.x(x), cy: here.y(y), r: 4, fill: line.colour, class: "dot"},
          here.dots,
        );
      }
      const right = here.x(at) < this.width / 2;
      this.reading.style.left = right ? `${here.x(at) + 12}px` : "";
      this.reading.style.right = right ? "" : `${this.width - here.x(at) + 12}px`;
      this.reading.style.top = `${here.place.top + MARGIN.top}px`;
    }

    fillReading(here, at, lines) {
      const signed = this.minus && Boolean(here.panel.minus),
        {x_label} = this.shown(here.panel);
      element("b", {}, this.reading, `${x_label} ${written(at)}`);
      const table = element("table", {}, this.reading);
      for (const {line, x, y, ends} of lines) {
        const row = element("tr", {}, table),
          name = element("th", {scope: "row"}, row);
        const swatch = element(
          "svg",
          {class: "drawn", width: 10, height: 10, "aria-hidden": "true"},
          name,
        );
        element("circle", {cx: 5, cy: 5, r: 4, fill: line.colour}, swatch);
        element("span", {}, name, line.label);
        element("td", {}, row, written(y, signed));
        const aside = x === at ? "" : ` at ${written(x)}`;
        element(
          "td",
          {class: "spread"},
          row,
          (ends ? `[${ends.map((end) => written(end, signed)).join(", ")}]` : "") + aside,
        );
      }
    }
  }

  for (const [name, chart] of Object.entries(charts))
    new Plot(document.getElementById(`plot-${name}`), chart);
  // What is shut on a screen is read on paper.
  addEventListener("beforeprint", () =>
    document.querySelectorAll("details").forEach((one) => (one.open = true)),
  );
})();
