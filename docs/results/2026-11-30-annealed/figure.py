"""The page's figure: average − decay of every cooldown over its share of the run, as SVG.

`cooldowns.py --figure` draws it from cooldowns.csv.
"""

from collections.abc import Iterator, Sequence
from math import log
from pathlib import Path

WIDTH, PANEL, LEFT, RIGHT, TOP, GAP, BOTTOM = 860, 210, 66, 12, 66, 34, 48
SHARES, LOSSES = (0.026, 0.68), (-0.032, 0.038)
TICKS = (0.03, 0.05, 0.1, 0.2, 0.3, 0.5)
SPACING = 4.0
"""Between marks of one share, which would hide each other."""

MARKS = {
    "linear": '<circle r="2.6"/>',
    "1-sqrt": '<rect x="-2.4" y="-2.4" width="4.8" height="4.8"/>',
    "cosine": '<path d="M0-3.2 3 2.3H-3z"/>',
}
STYLE = """
svg { background: var(--paper); color: var(--ink); font: 12px sans-serif;
  --paper: #fff; --ink: #1f2933; --muted: #52606d; --grid: #dfe4e8;
  --linear: #0072b2; --sqrt: #c04a00; --cosine: #00795a }
@media (prefers-color-scheme: dark) { svg {
  --paper: #14181c; --ink: #e6eaee; --muted: #a9b4be; --grid: #343c44;
  --linear: #63b8f0; --sqrt: #f0a04b; --cosine: #45d3a4 } }
text { fill: currentColor } .muted { fill: var(--muted) } .end { text-anchor: end }
.middle { text-anchor: middle } line { stroke: var(--grid) }
.zero { stroke: var(--muted) } .limit { stroke: var(--ink); stroke-dasharray: 5 4 }
.shape-linear { --own: var(--linear) } .shape-1-sqrt { --own: var(--sqrt) }
.shape-cosine { --own: var(--cosine) }
.mark { stroke: var(--own); fill: var(--own); stroke-width: 1.2 } .mark line { stroke: var(--own) }
.held { fill: var(--paper) }
"""


def draw(path: Path, rows: Sequence[dict], limit: float) -> None:
    """Write the figure.

    Args:
        path: Of the SVG.
        rows: Of cooldowns.csv, numbers as such.
        limit: The share of the run from which on the library warns.
    """
    nets = list(dict.fromkeys(row["net"] for row in rows))
    height = TOP + len(nets) * (PANEL + GAP) - GAP + BOTTOM
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'aria-labelledby="title words">',
        '<title id="title">Average less decay, by the decay’s share of the run</title>',
        f'<desc id="words">{words(rows, limit)}</desc>',
        f"<style>{STYLE}</style>",
        *_legend(),
    ]
    for k, net in enumerate(nets):
        top = TOP + k * (PANEL + GAP)
        lines += _axes(top, net, limit, last=k == len(nets) - 1)
        lines += _marks(top, [row for row in rows if row["net"] == net])
    path.write_text("\n".join([*lines, "</svg>", ""]), encoding="utf-8")


def words(rows: Sequence[dict], limit: float) -> str:
    """What it shows, for who cannot see it."""
    told = []
    for seed in sorted({row["seed"] for row in rows}):
        mine = [row for row in rows if row["seed"] == seed]
        near = [row for row in mine if _share(row) <= limit]
        far = [row for row in mine if _share(row) > limit]
        each = [
            f"the average is better in {sum(r['apart_high'] < 0 for r in part)} and worse in "
            f"{sum(r['apart_low'] > 0 for r in part)} of {len(part)} cooldowns, by at most "
            f"{max(r['emulated'] - r['real'] for r in part):.3f} nats"
            for part in (near, far)
        ]
        told.append(f"Seed {seed:g}: up to {limit:.0%} of the run {each[0]}; beyond, {each[1]}.")
    return " ".join(told)


def _x(share: float) -> float:
    low, high = SHARES
    return LEFT + (WIDTH - LEFT - RIGHT) * log(share / low) / log(high / low)


def _y(top: float, loss: float) -> float:
    low, high = LOSSES
    return top + PANEL * (high - min(max(loss, low), high)) / (high - low)


def _legend() -> Iterator[str]:
    yield f'<text x="{LEFT}" y="20">Loss of the average − loss after the real decay, nats</text>'
    at = LEFT + 5
    for shape, mark in MARKS.items():
        yield f'<g class="mark {_kind(shape)}" transform="translate({at} 40)">{mark}</g>'
        held = f"mark {_kind(shape)} held"
        yield f'<g class="{held}" transform="translate({at + 12} 40)">{mark}</g>'
        yield f'<text class="muted" x="{at + 22}" y="44">{shape}</text>'
        at += 90
    words = "filled: seed 0, which the rule was read off; hollow: seed 1, held back"
    yield f'<text class="muted" x="{at}" y="44">{words}</text>'


def _kind(shape: str) -> str:
    """A class of the style; such do not begin with a digit."""
    return f"shape-{shape}"


def _axes(top: float, net: str, limit: float, *, last: bool) -> Iterator[str]:
    end, foot = WIDTH - RIGHT, top + PANEL
    for loss in (-0.03, -0.02, -0.01, 0.0, 0.01, 0.02, 0.03):
        y = f"{_y(top, loss):.1f}"
        zero = "" if loss else ' class="zero"'
        yield f'<line{zero} x1="{LEFT}" y1="{y}" x2="{end}" y2="{y}"/>'
        yield f'<text class="muted end" x="{LEFT - 6}" y="{y}" dy="4">{loss:+.2f}</text>'
    x = f"{_x(limit):.1f}"
    yield f'<line class="limit" x1="{x}" y1="{top}" x2="{x}" y2="{foot}"/>'
    yield f'<text x="{LEFT + 6}" y="{top + 14}">{net}</text>'
    yield f'<text class="muted" x="{LEFT + 50}" y="{top + 14}">decay better ↑</text>'
    yield f'<text class="muted" x="{LEFT + 50}" y="{foot - 12}">average better ↓</text>'
    yield f'<text x="{x}" y="{foot - 12}" dx="6">warned of beyond {limit:.0%}</text>'
    if last:
        for share in TICKS:
            at = f"{_x(share):.1f}"
            yield f'<text class="muted middle" x="{at}" y="{foot + 18}">{share:.0%}</text>'
        middle = (LEFT + end) / 2
        words = "length of the decay as a share of all steps up to its end (logarithmic)"
        yield f'<text class="middle" x="{middle}" y="{foot + 38}">{words}</text>'


def _marks(top: float, rows: Sequence[dict]) -> Iterator[str]:
    shares = sorted({_share(row) for row in rows})
    for share in shares:
        mine = [row for row in rows if _share(row) == share]
        mine.sort(key=lambda row: (row["seed"], list(MARKS).index(row["shape"]), row["rate"]))
        for k, row in enumerate(mine):
            x = _x(share) + SPACING * (k - (len(mine) - 1) / 2)
            middle = _y(top, row["emulated"] - row["real"])
            low, high = (_y(top, row[f"apart_{end}"]) - middle for end in ("low", "high"))
            shape = row["shape"]
            kind = _kind(shape) + (" held" if row["seed"] else "")
            yield (
                f'<g class="mark {kind}" transform="translate({x:.1f} {middle:.1f})">'
                f'<line y1="{low:.1f}" y2="{high:.1f}"/>{MARKS[shape]}</g>'
            )


def _share(row: dict) -> float:
    return row["length"] / (row["begin"] + row["length"])
