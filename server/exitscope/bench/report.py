"""What a bench found out, for a person: a table, and a page with the curves."""

from collections.abc import Sequence
from datetime import UTC, datetime
from statistics import median
from typing import Any, Final

from .. import report, words
from .models import PointResult, Spread, Summary
from .published import RATES_PER_S

_MODE_COLOURS: Final = {"uffd": ("--a", "--a2"), "exit": ("--b", "--b2")}
_DASHES: Final = ("solid", "dash", "dot", "dashdot")
HEADINGS: Final = (
    "vCPUs",
    "mode",
    "handlers",
    "untraced",
    "traced",
    "traced / untraced",
    "exit / uffd",
    "published on 256 cores",
)


def rows(summary: Summary) -> list[tuple[str, ...]]:
    """A row per point; medians with lowest and highest of the repeats."""
    return [
        (
            str(point.vcpus),
            point.mode,
            str(point.handlers) if point.handlers else "–",
            _rates(point.untraced_per_s),
            _rates(point.traced_per_s),
            _ratios(point.cost),
            _against_uffd(summary.points, point),
            words.rate(point.published_per_s) if point.published_per_s else "–",
        )
        for point in summary.points
    ]


def sentences(summary: Summary) -> list[str]:
    """What the table comes down to."""
    planned = words.counted(summary.planned, "run")
    made = planned if summary.complete else f"{len(summary.runs)} of {planned}"
    lines = [
        f"Medians (lowest–highest) of {summary.repeats} repeats in random order, {made}, {words.count(summary.pages)} "
        f"pages each, on {summary.cpus} × {summary.cpu_model or 'CPU not known'}, Linux {summary.kernel}.",
        f"Published figures: {summary.published}. They were not measured here.",
    ]
    costs = [point.cost.median for point in summary.points if point.cost]
    if costs:
        lines.append(
            f"Traced by a collector and recorded, guests fault at {words.percent(median(costs))} of their untraced "
            f"rate (median of the points; lowest {words.percent(min(costs))}, highest {words.percent(max(costs))})."
        )
    if summary.drift is not None:
        lines.append(
            f"From repeat to repeat rates vary by {words.percent(summary.drift)} (standard deviation): "
            f"`exitscope compare --drift {100 * summary.drift:.0f}` allows for as much."
        )
    lost = sum(sum(run.loss.values()) for run in summary.runs)
    if lost:
        lines.append(f"The recordings' loss ledgers count {words.count(lost)} losses.")
    return lines + summary.notes


def terminal(summary: Summary) -> str:
    """The table as text, and its sentences."""
    cells = [HEADINGS, *rows(summary)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEADINGS))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join([*lines, "", *sentences(summary)])


def html(summary: Summary) -> str:
    """One self-contained file."""
    began = datetime.fromtimestamp(summary.started_wall_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    page = report.Report(f"exitscope bench, {began}")
    page.parts += [
        report.heading("Fault rates by vCPUs and mode", 1),
        report.paragraph(f"{summary.id}, {summary.host}, begun {began}.", "muted"),
        report.banner(_headline(summary), "plain", sentences(summary)),
        _rate_figure(summary),
        _cost_figure(summary),
        report.heading("All points"),
        report.table(HEADINGS, rows(summary)),
        report.heading("Recordings"),
        report.table(
            ("point", "recording", "records of that run"),
            [
                (f"{run.mode}, {words.counted(run.vcpus, 'vCPU')}", run.recording or "", words.count(run.recorded or 0))
                for run in summary.runs
                if run.recording
            ],
        ),
    ]
    return page.html()


def _headline(summary: Summary) -> str:
    """Where exit mode wins here, and where it does not."""
    ratios = [
        (point.vcpus, point.untraced_per_s.median / base.untraced_per_s.median)
        for point in summary.points
        if point.mode == "exit" and point.untraced_per_s
        for base in [_uffd_of(summary.points, point.vcpus)]
        if base is not None and base.untraced_per_s
    ]
    if not ratios:
        return f"{words.counted(len(summary.points), 'point')} measured."
    listed = ", ".join(f"{words.factor(ratio)} with {words.counted(vcpus, 'vCPU')}" for vcpus, ratio in ratios)
    return f"Exit mode against uffd mode on this machine, faults per second: {listed}."


def _rates(spread: Spread | None) -> str:
    if spread is None:
        return "–"
    return f"{words.rate(spread.median)} ({spread.low / 1e3:.1f}–{spread.high / 1e3:.1f})"


def _ratios(spread: Spread | None) -> str:
    return f"{spread.median:.2f} ({spread.low:.2f}–{spread.high:.2f})" if spread else "–"


def _uffd_of(points: Sequence[PointResult], vcpus: int) -> PointResult | None:
    """The best uffd point of so many vCPUs."""
    found = [point for point in points if point.mode == "uffd" and point.vcpus == vcpus and point.untraced_per_s]
    return max(found, key=lambda point: point.untraced_per_s.median if point.untraced_per_s else 0, default=None)


def _against_uffd(points: Sequence[PointResult], point: PointResult) -> str:
    base = _uffd_of(points, point.vcpus)
    if base is None or base.untraced_per_s is None or point.untraced_per_s is None or point.mode == "uffd":
        return "–"
    return words.factor(point.untraced_per_s.median / base.untraced_per_s.median)


def _curves(summary: Summary) -> list[tuple[str, int, list[PointResult]]]:
    """(mode, place among the mode's curves, points): one curve per mode and rule for handlers.

    Points of a mode that have the same number of vCPUs differ in handlers: the first of each make one curve.
    """
    found: list[tuple[str, int, list[PointResult]]] = []
    for mode in dict.fromkeys(point.mode for point in summary.points):
        by_vcpus: dict[int, list[PointResult]] = {}
        for point in summary.points:
            if point.mode == mode:
                by_vcpus.setdefault(point.vcpus, []).append(point)
        most = max(map(len, by_vcpus.values()))
        found += [
            (mode, place, [points[place] for points in by_vcpus.values() if place < len(points)])
            for place in range(most)
        ]
    return found


def _rate_figure(summary: Summary) -> report.Figure:
    traces: list[dict[str, Any]] = []
    for mode, place, points in _curves(summary):
        handlers = {point.handlers for point in points}
        which = f", {words.counted(handlers.pop(), 'handler')}" if len(handlers) == 1 and mode == "uffd" else ""
        full, pale = _MODE_COLOURS.get(mode, ("--text", "--muted"))
        for name, colour, dash, spreads in (
            ("here", full, _DASHES[place % len(_DASHES)], [(point, point.untraced_per_s) for point in points]),
            ("here, traced", pale, "dot", [(point, point.traced_per_s) for point in points]),
        ):
            there = [(point, spread) for point, spread in spreads if spread is not None]
            if there:
                traces.append(_curve(f"{mode} {name}{which}", colour, dash, there))
    measured = {point.vcpus for point in summary.points}
    for mode, rates in RATES_PER_S.items():
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": f"{mode}, published (256 cores)",
                "x": list(rates),
                "y": list(rates.values()),
                "line": {"color": "--muted", "dash": "dash", "width": 1.5},
                "marker": {"symbol": "circle-open" if mode == "uffd" else "diamond-open", "size": 7},
                "customdata": [words.rate(rate) for rate in rates.values()],
                "hovertemplate": "%{x} vCPUs: %{customdata}<extra>%{fullData.name}</extra>",
            }
        )
    every = [float(rate) for rates in RATES_PER_S.values() for rate in rates.values()]
    every += [
        value
        for point in summary.points
        for spread in (point.untraced_per_s, point.traced_per_s)
        if spread
        for value in (spread.low, spread.high)
    ]
    vcpus = sorted(measured | {count for rates in RATES_PER_S.values() for count in rates})
    layout = {
        "xaxis": {"type": "log", "title": {"text": "vCPUs"}, "tickvals": vcpus, "ticktext": list(map(str, vcpus))},
        "yaxis": {"type": "log", "title": {"text": "faults per second"}}
        | report.log_ticks(min(every), max(every), words.rate),
    }
    return report.Figure(
        "Faults per second",
        f"Medians with lowest and highest of the repeats. Grey: {summary.published}; not measured here.",
        traces,
        layout,
        "Fault rates over vCPUs. " + _headline(summary),
        wide=True,
        height=520,
    )


def _curve(name: str, colour: str, dash: str, points: Sequence[tuple[PointResult, Spread]]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": [point.vcpus for point, _ in points],
        "y": [spread.median for _, spread in points],
        "line": {"color": colour, "dash": dash, "width": 2.5},
        "marker": {"size": 8},
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [spread.high - spread.median for _, spread in points],
            "arrayminus": [spread.median - spread.low for _, spread in points],
            "color": colour,
            "thickness": 1.2,
        },
        "customdata": [_rates(spread) for _, spread in points],
        "hovertemplate": "%{x} vCPUs: %{customdata}<extra>%{fullData.name}</extra>",
    }


def _cost_figure(summary: Summary) -> report.Figure:
    traces = []
    for mode, place, points in _curves(summary):
        there = [(point, point.cost) for point in points if point.cost is not None]
        if there:
            trace = _curve(mode, _MODE_COLOURS.get(mode, ("--text", ""))[0], _DASHES[place % len(_DASHES)], there)
            traces.append(trace | {"customdata": [_ratios(spread) for _, spread in there]})
    vcpus = sorted({point.vcpus for point in summary.points})
    layout = {
        "xaxis": {"type": "log", "title": {"text": "vCPUs"}, "tickvals": vcpus, "ticktext": list(map(str, vcpus))},
        "yaxis": {"title": {"text": "traced / untraced"}, "rangemode": "tozero"},
        "shapes": [
            {
                "type": "line",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": 1,
                "y1": 1,
                "line": {"color": "--text", "dash": "dot"},
            }
        ],
    }
    return report.Figure(
        "What tracing and recording cost",
        "Rate of a traced run / rate of the untraced run a moment before or after it. 1: nothing.",
        traces,
        layout,
        "Traced rate over untraced rate by vCPUs.",
        wide=True,
        height=300,
    )
