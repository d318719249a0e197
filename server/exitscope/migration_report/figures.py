"""The figures of a migration's report: over time, and what they come down to."""

from typing import Any, Final

from .. import words
from ..report import Figure, linear_ticks
from .models import MigrationReport
from .over_time import INK, MOST_LABELS, brownout, bytes_left, fills, memory, phases, stall, whole_ticks
from .sentences import GROUP_WORDS

_GROUPS: Final = {
    "kernel": "--stage-fill", "handler_wait": "--stage-notify", "serve": "--stage-serve", "wake": "--stage-wake",
}  # fmt: skip
_MOST_BARS: Final = 24
"""More vCPUs than this are dots, not three bars each."""


def all_of(report: MigrationReport) -> list[Figure]:
    """Those that have something to show."""
    made = (phases, brownout, stall, bytes_left, fills, memory, _stages, _at_once, _account)
    return [figure for figure in (make(report) for make in made) if figure is not None]


def _stages(report: MigrationReport) -> Figure | None:
    if not report.stages:
        return None
    families = list(report.stages)[::-1]
    traces = []
    for group, colour in _GROUPS.items():
        parts = [next((one for one in report.stages[family] if one.group == group), None) for family in families]
        traces.append({
            "type": "bar", "orientation": "h", "name": GROUP_WORDS[group], "y": families,
            "x": [part.share if part else 0 for part in parts], "marker": {"color": colour},
            "text": [words.percent(part.share) if part and part.share > 0.08 else "" for part in parts],
            "textposition": "inside", "insidetextanchor": "middle", "textangle": 0, "textfont": {"color": INK},
            "hovertemplate": "%{fullData.name}: %{x:.1%}<extra></extra>",
        })  # fmt: skip
    layout = {"barmode": "stack", "xaxis": {"tickformat": ".0%", "range": [0, 1]}, "yaxis": {"type": "category"}}
    said = "; ".join(
        f"{family}: " + ", ".join(f"{part.title} {words.percent(part.share)}" for part in several)
        for family, several in report.stages.items()
    )
    return Figure(
        "Where the time went",
        "Shares of the time of all faults.",
        traces,
        layout,
        said,
        height=220 + 60 * len(families),
    )


def _at_once(report: MigrationReport) -> Figure | None:
    found = report.brownout
    if not found.peak:
        return None
    whole_ns = max(found.to_ns - found.from_ns, 1)
    trace = {
        "type": "bar", "x": list(range(len(found.time_at_ns))), "y": [ns / whole_ns for ns in found.time_at_ns],
        "marker": {"color": "--a"}, "customdata": [words.duration(ns) for ns in found.time_at_ns],
        "hovertemplate": "%{x} at once: %{y:.2%}, %{customdata}<extra></extra>",
    }  # fmt: skip
    layout = {
        "showlegend": False,
        "xaxis": {
            "title": {"text": f"of {words.counted(found.vcpus, 'vCPU')} stand still"},
            "range": [-0.6, found.peak + 0.6],
            **whole_ticks(found.peak),
        },
        "yaxis": {"tickformat": ".0%"},
    }
    caption = "Share of the time in which exactly so many stood still."
    return Figure("How many at once", caption, [trace], layout, caption)


def _account(report: MigrationReport) -> Figure | None:
    """QEMU's account against ours, vCPU by vCPU."""
    if not report.account.known:
        return None
    x = list(range(len(report.vcpus)))
    several: dict[str, tuple[list[Any], str]] = {
        "QEMU says": ([row.qemu_ns for row in report.vcpus], "--b"),
        "ours, counted the same way": ([row.same_ns for row in report.vcpus], "--a2"),
        "ours in full": ([row.stall_ns for row in report.vcpus], "--a"),
    }
    shape = {"type": "scatter", "mode": "markers"} if len(x) > _MOST_BARS else {"type": "bar"}
    traces = [
        {**shape, "name": name, "x": x, "y": values, "marker": {"color": colour},
         "customdata": ["not told" if value is None else words.duration(value) for value in values],
         "hovertemplate": "%{customdata}<extra>%{fullData.name}</extra>"}
        for name, (values, colour) in several.items()
    ]  # fmt: skip
    high = max(row.stall_ns for row in report.vcpus)
    step = -(-len(x) // MOST_LABELS)
    names = {"tickvals": x[::step], "ticktext": [f"{row.vcpu}" for row in report.vcpus[::step]]}
    layout = {
        "barmode": "group",
        "xaxis": {"title": {"text": "vCPU"}, **names},
        "yaxis": linear_ticks(max(high, 1), words.duration),
    }
    return Figure(
        "QEMU's blocktime and ours",
        "Why they differ stands below.",
        traces,
        layout,
        " ".join(report.account.why),
        wide=len(x) > 16,
    )
