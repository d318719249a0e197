"""Figures of a migration's report over one axis: seconds since its begin."""

from typing import Any, Final

from .. import words
from ..migrations.models import Sample
from ..report import Figure, PlotlyDict, linear_ticks, plotly_text
from .models import MigrationReport

INK: Final = "--ink"
MOST_LABELS: Final = 16
"""Rows or vCPUs with a label of their own."""

_PHASES: Final = {"precopy": "--a2", "switchover": "--stage-notify", "postcopy": "--b2", "paging": "--stage-reenter"}
_OTHER_PHASE: Final = "--stage-raise"
_HEAT: Final = [[0, "--card"], [0.4, "--b2"], [1, "--b"]]
_COLORBAR: Final = {"thickness": 12, "x": 1.005, "xpad": 4, "ypad": 0, "outlinewidth": 0}
_BINARY: Final = ("B", "KiB", "MiB", "GiB", "TiB")


def phases(report: MigrationReport) -> Figure | None:
    """One after another."""
    if not report.phases:
        return None
    traces: list[PlotlyDict] = []
    for phase in report.phases:
        begin, length = _seconds(report, phase.from_ns), phase.length_ns / 1e9
        wide = phase.length_ns > 0.08 * report.length_ns
        traces.append({
            "type": "bar", "orientation": "h", "name": plotly_text(phase.name), "base": [begin], "x": [length],
            "y": [""], "marker": {"color": _PHASES.get(phase.name, _OTHER_PHASE)},
            "text": [f"{plotly_text(phase.name)} {words.duration(phase.length_ns)}" if wide else ""],
            "textposition": "inside", "insidetextanchor": "middle", "textfont": {"color": INK},
            "hovertemplate": f"{plotly_text(phase.name)}: {words.duration(phase.length_ns)}<extra></extra>",
        })  # fmt: skip
    layout = {"barmode": "overlay", **_time(report), "yaxis": {"visible": False}}
    said = "; ".join(f"{phase.name} {words.duration(phase.length_ns)}" for phase in report.phases)
    return Figure("Phases", said + ".", traces, layout, f"Phases: {said}.", wide=True, height=150)


def brownout(report: MigrationReport) -> Figure | None:
    """How many stood still at once: average and most."""
    found = report.brownout
    if not found.peak:
        return None
    at = _columns(report, found.from_ns, found.to_ns, found.tick_ns)
    traces = [
        _steps("most at once", at, found.peak_over_time, {"color": "--b", "width": 1}),
        _steps("average", at, found.mean_over_time, {"color": "--a", "width": 2}) | {"fill": "tozeroy"},
    ]
    layout = {**_time(report), "yaxis": {"range": [0, found.peak * 1.06], **whole_ticks(found.peak)}}
    caption = (
        f"Of {found.vcpus}, in columns of {words.duration(found.tick_ns)}; exact: on average {found.mean:.2f} "
        f"({words.percent(found.share)}), at most {found.peak}."
    )
    return Figure("vCPUs that stand still at once", caption, traces, layout, caption, wide=True)


def stall(report: MigrationReport) -> Figure | None:
    """Share of time, vCPU by vCPU."""
    found = report.brownout
    if not found.peak:
        return None
    at = _columns(report, found.from_ns, found.to_ns, found.tick_ns)[:-1]
    rows = [f"{row.vcpu}" for row in report.vcpus]
    trace = {
        "type": "heatmap", "xtype": "scaled", "dx": found.tick_ns / 1e9, "x0": at[0] + found.tick_ns / 2e9,
        "z": found.stall_over_time,
        "y": list(range(len(rows))), "zmin": 0, "zmax": _heat_end(found.stall_over_time), "colorscale": _HEAT,
        "colorbar": _COLORBAR | {"tickformat": ".0%"},
        "hovertemplate": "vCPU %{y}, %{x:.3f} s: %{z:.0%}<extra></extra>",
    }  # fmt: skip
    step = -(-len(rows) // MOST_LABELS)
    shown = list(range(0, len(rows), step))
    axis = {"tickvals": shown, "ticktext": [rows[row] for row in shown], "title": {"text": "vCPU"}}
    layout = {**_time(report), "yaxis": {**axis, "range": [len(rows) - 0.5, -0.5]}}
    height = min(max(160 + 12 * len(rows), 220), 640)
    caption = "Share of each column of time in which each vCPU stood still."
    return Figure("Each vCPU", caption, [trace], layout, caption, wide=True, height=height)


def bytes_left(report: MigrationReport) -> Figure | None:
    """As QEMU says."""
    left = [(sample.at_ns, sample.remaining_bytes) for sample in report.samples if sample.remaining_bytes is not None]
    if len(left) < 2:
        return None
    rates = [(sample.at_ns, sample.bytes_per_s) for sample in report.samples if sample.bytes_per_s is not None]
    high, fast = max(count for _, count in left), max((rate for _, rate in rates), default=0.0)
    traces: list[PlotlyDict] = [_line(report, "left to send", left, size, {"color": "--a", "width": 2})]
    layout: PlotlyDict = {**_time(report), "yaxis": {"range": [0, high * 1.04], **linear_ticks(high, size)}}
    if fast > 0:
        rate = _line(report, "bandwidth", rates, _size_per_s, {"color": "--b", "width": 2, "dash": "dot"})
        traces.append(rate | {"yaxis": "y2"})
        ticks = {"range": [0, fast * 1.04], **linear_ticks(fast, _size_per_s)}
        layout["yaxis2"] = {"overlaying": "y", "side": "right", "showgrid": False, **ticks}
    asked = _requests(report.samples)
    caption = f"As QEMU says.{f' Pages asked for: {words.count(asked)}.' if asked else ''}"
    return Figure("Bytes left, and bandwidth", caption, traces, layout, f"{size(high)} to send. {caption}", wide=True)


def fills(report: MigrationReport) -> Figure | None:
    """On demand and ahead of need."""
    found = report.fills
    if found is None or not (found.demand_total or found.background_total):
        return None
    middle = [
        _seconds(report, found.from_ns + index * found.tick_ns + found.tick_ns // 2)
        for index in range(len(found.demand))
    ]
    width = found.tick_ns / 1e9
    traces = [
        {"type": "bar", "name": name, "x": middle, "y": counts, "width": width * 0.94, "marker": {"color": colour},
         "hovertemplate": "%{y:,} pages<extra>%{fullData.name}</extra>"}
        for name, counts, colour in (("on demand", found.demand, "--b"), ("ahead of need", found.background, "--a2"))
    ]  # fmt: skip
    high = max(sum(pair) for pair in zip(found.demand, found.background, strict=True))
    layout = {"barmode": "stack", **_time(report), "yaxis": linear_ticks(max(high, 1), _whole)}
    caption = (
        f"Pages placed every {words.duration(found.tick_ns)}: {words.count(found.demand_total)} because somebody "
        f"waited, {words.count(found.background_total)} ahead of need."
    )
    return Figure("Pages on demand and ahead of need", caption, traces, layout, caption)


def memory(report: MigrationReport) -> Figure | None:
    """By guest physical address."""
    found = report.memory
    if not found.cells:
        return None
    most = max(count for _, _, count in found.cells)
    counts: list[list[int | None]] = [[None] * found.ticks for _ in found.rows]
    for tick, row, count in found.cells:
        counts[row][tick] = count
    trace = {
        "type": "heatmap", "xtype": "scaled", "dx": found.tick_ns / 1e9,
        "x0": _seconds(report, report.brownout.from_ns) + found.tick_ns / 2e9, "y": list(range(len(found.rows))),
        "z": counts, "zmin": -0.12 * most, "zmax": most, "colorscale": _HEAT,
        "colorbar": _COLORBAR, "customdata": [[gpa] * found.ticks for gpa in found.rows],
        "hovertemplate": "%{customdata}, %{x:.3f} s: %{z} faults<extra></extra>",
    }  # fmt: skip
    shown = list(range(0, len(found.rows), -(-len(found.rows) // 10)))
    axis = {"tickvals": shown, "ticktext": [found.rows[row] for row in shown]}
    caption = (
        f"Faults by guest physical address, {binary_size(found.bin_bytes)} a row, {words.duration(found.tick_ns)} a "
        "column."
    )
    return Figure(
        "Guest memory that was asked for",
        caption,
        [trace],
        {**_time(report), "yaxis": axis},
        caption,
        height=380,
    )


def _heat_end(rows: list[list[float]]) -> float:
    """End of the scale: nearly all cells are below it, so that a VM that hardly stalls shows which vCPU does."""
    values = sorted(value for row in rows for value in row)
    most = values[int((len(values) - 1) * 0.995)] if values else 1.0
    return next((end for end in (0.02, 0.05, 0.1, 0.2, 0.5) if end >= most), 1.0)


def size(count: float) -> str:
    """64.3 MB"""
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= one:
            return f"{count / one:.3g} {unit}"
    return f"{count:.0f} B"


def binary_size(count: int) -> str:
    """Of a power of two: 512 KiB."""
    place = min((count.bit_length() - 1) // 10, len(_BINARY) - 1)
    return f"{count >> 10 * place} {_BINARY[place]}"


def _size_per_s(count: float) -> str:
    return f"{size(count)}/s"


def _whole(count: float) -> str:
    return words.count(round(count))


def whole_ticks(high: int) -> PlotlyDict:
    """tickvals and ticktext of an axis of whole numbers."""
    step = next((step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500) if high <= 8 * step), 1000)
    return {"tickvals": list(range(0, high + 1, step)), "ticktext": [f"{value}" for value in range(0, high + 1, step)]}


def _requests(samples: list[Sample]) -> int:
    return max((sample.postcopy_requests or 0 for sample in samples), default=0)


def _seconds(report: MigrationReport, at_ns: int) -> float:
    return round((at_ns - report.from_ns) / 1e9, 6)


def _time(report: MigrationReport) -> PlotlyDict:
    """The axis, and margins that make it stand below those of the other figures."""
    high = report.length_ns / 1e9
    axis = {"range": [0, high], "tickangle": 0, **linear_ticks(high, lambda value: f"{value:g} s")}
    return {"xaxis": axis, "margin": {"l": 96, "r": 96, "t": 28, "b": 44}}


def _columns(report: MigrationReport, from_ns: int, to_ns: int, tick_ns: int) -> list[float]:
    """Begins of the columns, and the end of the last one."""
    count = -(-(to_ns - from_ns) // tick_ns)
    return [_seconds(report, min(from_ns + column * tick_ns, to_ns)) for column in range(count + 1)]


def _steps(name: str, at: list[float], values: list[Any], line: PlotlyDict) -> PlotlyDict:
    return {
        "type": "scatter", "mode": "lines", "name": name, "x": at, "y": [*values, values[-1]],
        "line": {"shape": "hv", **line}, "hovertemplate": "%{y:.2f} vCPUs<extra>%{fullData.name}</extra>",
    }  # fmt: skip


def _line(
    report: MigrationReport, name: str, points: list[tuple[int, Any]], words_of: Any, line: PlotlyDict
) -> PlotlyDict:
    return {
        "type": "scatter", "mode": "lines", "name": name, "x": [_seconds(report, at_ns) for at_ns, _ in points],
        "y": [value for _, value in points], "line": line, "customdata": [words_of(value) for _, value in points],
        "hovertemplate": "%{customdata}<extra>%{fullData.name}</extra>",
    }  # fmt: skip
