"""A summary as tables for the terminal."""

from collections.abc import Sequence
from typing import Any, Final

from ..compare import words

_LATENCY: Final = ("count", "p50", "p90", "p99", "max")


def terminal(summary: dict[str, Any]) -> str:
    """What `exitscope summary` prints. summary: as summary.summary() makes it."""
    window = words.duration(summary["window_ns"])
    vms = "1 VM" if len(summary["vms"]) == 1 else f"{len(summary['vms'])} VMs"
    title = f"{summary['name'] or summary['id']}: {window}, {vms}, from {summary['source']}"
    parts = [title + (f"\n{summary['note']}" if summary["note"] else "")]
    modes = [(mode, *_latency(one), f"{one['rate_per_s']:,.1f}") for mode, one in summary["modes"].items()]
    parts.append(_table(("mode", *_LATENCY, "per s"), modes) if modes else "No faults.")
    stages = [
        (f"{family} {stage}", *_latency(one))
        for family, several in summary["stages"].items()
        for stage, one in several.items()
    ]
    parts.append(_table(("stage", *_LATENCY), stages))
    vcpus = [
        (row["vm_name"], f"{row['vcpu']}", *_latency(row["latency_ns"]), f"{row['stall']:.1%}")
        for row in summary["vcpus"]
    ]
    parts.append(_table(("VM", "vCPU", *_LATENCY, "stall"), vcpus))
    slowest = [
        (
            words.duration(fault["latency_ns"]),
            fault["mode"],
            f"{fault['vcpu']}",
            fault["gpa"] or "–",
            ", ".join(f"{stage} {words.duration(length)}" for stage, length in fault["stages_ns"].items() if length),
        )
        for fault in summary["slowest"][:10]
    ]
    parts.append(_table(("slowest", "mode", "vCPU", "gpa", "stages"), slowest))
    counts = [("exit", name, count) for name, count in summary["exits"].items()]
    counts += [
        (f"{kind} fill", name, count)
        for kind in ("demand", "background")
        for name, count in summary["fills"][kind].items()
    ]
    counts += [("lost", name, count) for name, count in summary["loss"].items() if count]
    parts.append(_table(("what", "", "count"), [(kind, name, f"{count:,}") for kind, name, count in counts]))
    return "\n\n".join(part for part in parts if part)


def _latency(one: dict[str, Any]) -> list[str]:
    if not one["count"]:
        return ["0", *("–",) * (len(_LATENCY) - 1)]
    return [f"{one['count']:,}", *(words.duration(one[name]) for name in _LATENCY[1:])]


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Empty if there are no rows. Columns of numbers stand to the right."""
    if not rows:
        return ""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    right = [headings[i] in (*_LATENCY, "per s", "stall", "vCPU") for i in range(len(headings))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in (headings, *rows)
    )
