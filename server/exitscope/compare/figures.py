"""The figures of a comparison."""

from typing import Any, Final

from .. import words
from ..report import Figure, linear_ticks, log_ticks, plotly_text
from .models import Bounds, Comparison, Ecdf, Run, VcpuPair

_COLOURS: Final = ("--a", "--b")
_STAGE_COLOURS: Final = {
    "raise": "--stage-raise",
    "notify": "--stage-notify",
    "serve": "--stage-serve",
    "fill": "--stage-fill",
    "wake / reenter": "--stage-wake",
}
_INK: Final = "--ink"


def all_of(comparison: Comparison) -> list[Figure]:
    """Those that have something to show."""
    found = [_ecdfs(comparison), _ratios(comparison), _stages(comparison), _vcpus(comparison)]
    return [figure for figure in found if figure is not None]


def _ecdfs(comparison: Comparison) -> Figure | None:
    pairs: list[tuple[Run, Ecdf, str]] = [
        (comparison.a, comparison.ecdf_a, _COLOURS[0]),
        (comparison.b, comparison.ecdf_b, _COLOURS[1]),
    ]
    every = [value for _, ecdf, _ in pairs for value in ecdf.latency_ns]
    if not every:
        return None
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": plotly_text(run.title),
            "x": ecdf.latency_ns,
            "y": ecdf.share,
            "line": {"color": colour, "width": 2.5},
            "customdata": [words.duration(value) for value in ecdf.latency_ns],
            "hovertemplate": "%{y:.2%} within %{customdata}<extra>%{fullData.name}</extra>",
        }
        for run, ecdf, colour in pairs
    ]
    layout = {
        "xaxis": {"type": "log", "title": {"text": "latency of a whole fault"}}
        | log_ticks(min(every), max(every), words.duration),
        "yaxis": {"title": {"text": "share of faults"}, "tickformat": ".0%", "range": [0, 1.01]},
    }
    return Figure(
        "How long faults last",
        "Empirical distributions: which share of the faults took at most so long. Further left is faster.",
        traces,
        layout,
        "Empirical distributions of the latency of both runs. " + comparison.verdict.sentence,
    )


def _ratios(comparison: Comparison) -> Figure | None:
    """B in units of A, with intervals: one row each."""
    rows = {name: figure for name, figure in comparison.latency_ns.items() if figure.ratio.low is not None}
    if not rows:
        return None
    names = list(reversed(rows))
    ratios = [rows[name].ratio for name in names]
    lows, highs = zip(*(_ends(ratio) for ratio in ratios), strict=True)
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [ratio.value for ratio in ratios],
        "y": names,
        "marker": {"size": 11, "color": ["--b" if rows[name].differs else "--muted" for name in names]},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [high - ratio.value for high, ratio in zip(highs, ratios, strict=True)],
            "arrayminus": [ratio.value - low for low, ratio in zip(lows, ratios, strict=True)],
            "color": "--muted",
            "thickness": 2,
        },
        "customdata": [
            f"{words.factor(ratio.value)} [{words.factor(low)}, {words.factor(high)}]"
            for ratio, low, high in zip(ratios, lows, highs, strict=True)
        ],
        "hovertemplate": "%{y}: %{customdata}<extra></extra>",
    }
    low, high = min(*lows, 0.5), max(*highs, 2.0)
    layout = {
        "showlegend": False,
        "xaxis": {"type": "log", "title": {"text": f"{comparison.b.title} / {comparison.a.title}"}}
        | log_ticks(low, high, words.factor),
        "yaxis": {"type": "category"},
        "shapes": [
            {
                "type": "line",
                "x0": 1,
                "x1": 1,
                "yref": "paper",
                "y0": 0,
                "y1": 1,
                "line": {"color": "--text", "dash": "dot"},
            }
        ],
    }
    layout["xaxis"]["title"]["text"] = plotly_text(layout["xaxis"]["title"]["text"])  # type: ignore[index]
    return Figure(
        "How much longer B takes than A",
        f"With {words.percent(comparison.confidence)} intervals that allow for a drift of "
        f"{words.percent(comparison.drift)} from run to run. Left of 1× B is faster; grey: no difference is shown.",
        [trace],
        layout,
        "Ratios of the percentiles: "
        + "; ".join(f"{name} {text}" for name, text in zip(names, trace["customdata"], strict=True)),
    )


def _stages(comparison: Comparison) -> Figure | None:
    if not comparison.stages:
        return None
    titles = [plotly_text(comparison.b.title), plotly_text(comparison.a.title)]  # the first is drawn at the bottom
    whole = max(sum(stage.a_ns for stage in comparison.stages), sum(stage.b_ns for stage in comparison.stages), 1.0)
    traces = []
    for stage in comparison.stages:
        lengths = [stage.b_ns, stage.a_ns]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": stage.stage,
                "x": lengths,
                "y": titles,
                "marker": {"color": _STAGE_COLOURS[stage.stage]},
                "text": [words.duration(length) if length > 0.07 * whole else "" for length in lengths],
                "textposition": "inside",
                "insidetextanchor": "middle",
                "textfont": {"color": _INK},
                "customdata": [words.duration(length) for length in lengths],
                "hovertemplate": "%{fullData.name}: %{customdata}<extra></extra>",
            }
        )
    layout = {
        "barmode": "stack",
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
        "xaxis": linear_ticks(whole, words.duration),
        "yaxis": {"type": "category"},
    }
    return Figure(
        "What the median fault is made of",
        "Mean length of each stage over the faults from the 40th to the 60th percentile.",
        traces,
        layout,
        "; ".join(
            f"{stage.stage}: {words.duration(stage.a_ns)} in A, {words.duration(stage.b_ns)} in B"
            for stage in comparison.stages
        ),
    )


def _vcpus(comparison: Comparison) -> Figure | None:
    both = [pair for pair in comparison.vcpus if pair.a is not None and pair.b is not None]
    if not both:
        return None
    traces = [_scatter(both, name, symbol) for name, symbol in (("p50", "circle"), ("p99", "diamond"))]
    every = [value for trace in traces for axis in ("x", "y") for value in trace[axis] if value > 0] or [1.0]
    low, high = min(every) / 1.3, max(every) * 1.3
    ticks = log_ticks(low, high, words.duration)
    diagonal = {
        "type": "line",
        "x0": low,
        "y0": low,
        "x1": high,
        "y1": high,
        "line": {"color": "--muted", "dash": "dot"},
    }
    layout = {
        "xaxis": {"type": "log", "title": {"text": plotly_text(comparison.a.title)}} | ticks,
        "yaxis": {"type": "log", "title": {"text": plotly_text(comparison.b.title)}} | ticks,
        "shapes": [diagonal],
    }
    return Figure(
        "vCPU by vCPU",
        "One point per vCPU of the same number. Below the dotted line B is faster.",
        traces,
        layout,
        f"p50 and p99 of {words.counted(len(both), 'vCPU')} in A against B.",
    )


def _scatter(pairs: list[VcpuPair], name: str, symbol: str) -> dict[str, Any]:
    x = [getattr(pair.a, name) for pair in pairs]
    y = [getattr(pair.b, name) for pair in pairs]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": x,
        "y": y,
        "marker": {"symbol": symbol, "size": 9, "opacity": 0.85, "color": "--a" if name == "p50" else "--b"},
        "customdata": [
            f"vCPU {pair.vcpu}: {words.duration(mine)} in A, {words.duration(theirs)} in B"
            for pair, mine, theirs in zip(pairs, x, y, strict=True)
        ],
        "hovertemplate": "%{fullData.name}, %{customdata}<extra></extra>",
    }


def _ends(bounds: Bounds) -> tuple[float, float]:
    low = bounds.value if bounds.low is None else bounds.low
    high = bounds.value if bounds.high is None else bounds.high
    return low, high
