"""A report as one HTML file that needs nothing else: its text, figures, plotly.js and the colours of both themes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from html import escape
from math import floor, log10
from typing import Any, Final

from exitscope_probes.untrusted import cleaned

from . import __version__
from .static import plotly_file

PlotlyDict = dict[str, Any]
_FEW_DECADES: Final = 3000


@dataclass(frozen=True, slots=True)
class Figure:
    """A Plotly figure. A colour may be a custom property of the style below, as "--a": it follows the theme.

    summary: what it shows, for who cannot see it.
    """

    title: str
    caption: str
    traces: list[PlotlyDict]
    layout: PlotlyDict
    summary: str
    wide: bool = False
    height: int = 340


@dataclass(slots=True)
class Report:
    """Parts in their order: HTML fragments (made by the functions below, which escape) and figures."""

    title: str
    parts: list[str | Figure] = field(default_factory=list)

    def html(self) -> str:
        """The whole file. Raises UserError if plotly.js is not installed."""
        figures: list[PlotlyDict] = []
        body: list[str] = []
        cards: list[str] = []
        for part in [*self.parts, ""]:
            if isinstance(part, Figure):
                cards.append(_card(part, len(figures)))
                figures.append({"data": part.traces, "layout": part.layout})
                continue
            if cards:
                body.append(f'<div class="grid">{"".join(cards)}</div>')
                cards = []
            body.append(part)
        # "<" cannot end the script element when it is written as an escape.
        data = json.dumps(figures, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{shown(self.title)}</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<style>{_STYLE}</style></head><body><main>{''.join(body)}"
            f"<footer>exitscope {escape(__version__)}. One file, nothing is loaded from elsewhere.</footer></main>"
            f'<script type="application/json" id="figures">{data}</script>'
            f"<script>{plotly_script()}</script><script>{_SCRIPT}</script></body></html>\n"
        )


@cache
def plotly_script() -> str:
    """plotly.js, kept: a server may have given up the right to read it. Raises UserError if it is not installed."""
    return plotly_file().read_text(encoding="utf-8").replace("</script", "<\\/script")


def shown(text: str) -> str:
    """Text as HTML: markup in it stays text, and nothing in it reorders or hides what stands beside it."""
    return escape(cleaned(text))


def heading(text: str, level: int = 2) -> str:
    """A heading."""
    return f"<h{level}>{shown(text)}</h{level}>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph; kind: a class of the style."""
    return f'<p class="{shown(kind)}">{shown(text)}</p>' if kind else f"<p>{shown(text)}</p>"


def bullets(lines: Sequence[str]) -> str:
    """A list."""
    return "<ul>" + "".join(f"<li>{shown(line)}</li>" for line in lines) + "</ul>" if lines else ""


def banner(text: str, kind: str, lines: Sequence[str] = ()) -> str:
    """What the report says above all; kind: good, plain or bad."""
    return f'<section class="banner {shown(kind)}"><p>{shown(text)}</p>{bullets(lines)}</section>'


def linear_ticks(high: float, label: Any) -> PlotlyDict:
    """tickvals and ticktext of an axis from 0 to about high, in round steps."""
    step = 10.0 ** floor(log10(max(high, 1e-9)))
    step *= next(part for part in (0.1, 0.2, 0.5, 1, 2, 5) if high / (step * part) <= 6)
    values = [step * i for i in range(int(high / step) + 1)]
    return {"tickvals": values, "ticktext": [label(value) for value in values]}


def table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], marked: Sequence[bool] = (), words_only: bool = False
) -> str:
    """A table; columns of numbers are set right unless words_only. marked: rows that stand out."""
    numeric = [
        bool(rows) and not words_only and all(_is_number(row[column]) for row in rows)
        for column in range(len(headings))
    ]
    classes = [' class="number"' if is_number else "" for is_number in numeric]
    head = "".join(f"<th{kind}>{shown(text)}</th>" for kind, text in zip(classes, headings, strict=True))
    lines = []
    for index, row in enumerate(rows):
        cells = "".join(f"<td{kind}>{shown(text)}</td>" for kind, text in zip(classes, row, strict=True))
        mark = ' class="marked"' if index < len(marked) and marked[index] else ""
        lines.append(f"<tr{mark}>{cells}</tr>")
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def plotly_text(text: str) -> str:
    """Somebody else's text where Plotly would take tags for markup."""
    return cleaned(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def log_ticks(low: float, high: float, label: Any) -> PlotlyDict:
    """tickvals and ticktext of a logarithmic axis from low to high: 1, 2 and 5 times powers of ten, or powers alone."""
    low, high = max(low, 1e-9), max(high, low * 1.01, 1e-9)
    first, last = floor(log10(low)), floor(log10(high)) + 1
    steps = (1, 2, 5) if high / low < _FEW_DECADES else (1,)
    values = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    inside = [value for value in values if low * 0.99 <= value <= high * 1.01] or [low, high]
    return {"tickvals": inside, "ticktext": [label(value) for value in inside]}


def _is_number(text: str) -> bool:
    return text in {"", "–"} or text.lstrip("+-−(")[:1].isdigit()


def _card(figure: Figure, number: int) -> str:
    kind = "card wide" if figure.wide else "card"
    return (
        f'<figure class="{kind}"><h2>{shown(figure.title)}</h2>'
        f'<div class="plot" data-figure="{number}" role="img" aria-label="{shown(figure.summary)}" '
        f'style="height:{figure.height}px"></div><figcaption>{shown(figure.caption)}</figcaption></figure>'
    )


_STYLE: Final = """
:root { color-scheme: light dark; --page: light-dark(#f3f5f8, #0d1015); --card: light-dark(#ffffff, #151a21);
  --line: light-dark(#dce1e8, #262e39); --grid: light-dark(#e6e9ee, #262e39); --text: light-dark(#18202c, #e6eaf0);
  --muted: light-dark(#566173, #9aa6b6); --a: light-dark(#1560bd, #5aa9ff); --b: light-dark(#a85300, #ffab4a);
  --a2: light-dark(#7aa7dc, #2f6cb0); --b2: light-dark(#d7a06a, #b3752f);
  --good: light-dark(#16703f, #5fd394); --good-back: light-dark(#e3f4ea, #14291f);
  --bad: light-dark(#8a5300, #ffc264); --bad-back: light-dark(#fdf0d8, #33270f);
  --ink: #10151c; --stage-raise: #97a3b4; --stage-notify: light-dark(#e0b52e, #e9c64c);
  --stage-serve: light-dark(#e5737c, #e8808a); --stage-fill: light-dark(#3fb39b, #45bfa6);
  --stage-wake: light-dark(#8593f2, #8b9bff); --stage-reenter: light-dark(#c08ae0, #c595ea); }
:root[data-theme="dark"] { color-scheme: dark; } :root[data-theme="light"] { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums; }
main { max-width: 1840px; margin: 0 auto; padding: 20px 24px 40px; }
h1 { font-size: 22px; margin: 0 0 4px; } h2 { font-size: 16px; margin: 22px 0 8px; } p { margin: 0 0 8px; }
.muted, figcaption, footer { color: var(--muted); } footer { margin-top: 32px; font-size: 13px; }
.banner { margin: 16px 0; padding: 16px 20px; border-radius: 12px; border-left: 6px solid var(--muted);
  background: var(--card); }
.banner > p { font-size: 20px; line-height: 1.4; margin: 0; max-width: 110ch; text-wrap: pretty; }
.banner.good { background: var(--good-back); border-color: var(--good); }
.banner.bad { background: var(--bad-back); border-color: var(--bad); }
ul { margin: 10px 0 0; padding-left: 20px; } li { margin: 2px 0; max-width: 130ch; }
.grid { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 16px; margin: 16px 0; }
.card { margin: 0; padding: 14px 16px; background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
.card h2 { margin: 0 0 4px; } .card.wide { grid-column: 1 / -1; } figcaption { font-size: 13px; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
table { border-collapse: collapse; width: 100%; } th, td { padding: 7px 14px; text-align: left; vertical-align: top; }
th { color: var(--muted); font-weight: 600; font-size: 13px; } td { border-top: 1px solid var(--line); }
td { overflow-wrap: anywhere; } .number { text-align: right; white-space: nowrap; }
.marked td { background: var(--bad-back); }
:focus-visible { outline: 2px solid var(--a); }
@media (max-width: 1000px) { .grid { grid-template-columns: minmax(0, 1fr); } }
:root.print main { width: 1040px; padding: 0; } :root.print .grid { grid-template-columns: minmax(0, 1fr); }
@page { size: A4 landscape; margin: 10mm; }
@media print { body { background: none; } .card, .banner, tr { break-inside: avoid; } h2 { break-after: avoid; }
  .scroll { overflow: visible; } }
"""

_SCRIPT: Final = """
const figures = JSON.parse(document.getElementById('figures').textContent);
const probe = document.body.appendChild(document.createElement('i'));
const colour = (name) => { probe.style.color = `var(${name})`; return getComputedStyle(probe).color; };
const resolved = (value) => {
  if (typeof value === 'string') return /^--[a-z]/.test(value) ? colour(value) : value;
  if (Array.isArray(value)) return value.map(resolved);
  if (value && typeof value === 'object') {
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, resolved(inner)]));
  }
  return value;
};
const axis = (given) => ({ gridcolor: '--grid', linecolor: '--line', zeroline: false, automargin: true, ...given });
const draw = (paper) => {
  for (const place of document.querySelectorAll('.plot')) {
    const { data, layout } = figures[place.dataset.figure];
    const whole = {
      paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', margin: { l: 56, r: 16, t: 28, b: 44 },
      font: { color: '--text', size: 13, family: getComputedStyle(document.body).fontFamily },
      legend: { orientation: 'h', x: 0, y: 1.02, yanchor: 'bottom' },
      hoverlabel: { bgcolor: '--card', bordercolor: '--line', font: { color: '--text' } }, ...layout,
    };
    for (const key of Object.keys(whole)) if (/^[xy]axis/.test(key)) whole[key] = axis(whole[key]);
    if (paper) Object.assign(whole, { width: place.clientWidth, height: place.clientHeight });
    Plotly.react(place, resolved(data), resolved(whole), { responsive: true, displayModeBar: false });
  }
};
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => draw(false));
const print = (paper) => {
  document.documentElement.classList.toggle('print', paper);
  if (paper) document.documentElement.dataset.theme = 'light'; else delete document.documentElement.dataset.theme;
  draw(paper);
};
addEventListener('beforeprint', () => print(true));
addEventListener('afterprint', () => print(false));
draw(false);
"""
