"""A summary as tables for the terminal."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from exitscope_probes.untrusted import cleaned

from .. import words
from ..migrations.models import Migration
from ..migrations.standstill import standstill
from ..terminal import joined

_LATENCY: Final = ("count", "p50", "p90", "p99", "max")


def terminal(summary: dict[str, Any]) -> str:
    """What `exitscope summary` prints. summary: as summary.summary() makes it."""
    window = words.duration(summary["window_ns"])
    vms = words.counted(len(summary["vms"]), "VM")
    title = f"{summary['name'] or summary['id']}: {window}, {vms}, from {summary['source']}"
    parts = [joined((title, summary["note"]) if summary["note"] else (title,))]
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
    parts.append(_table(("what", "", "count"), [(kind, name, f"{count:,}") for kind, name, count in _counts(summary)]))
    if summary["exits"] is None:
        parts.append("Exits and fills of this part: not known, the recording holds only those of the whole.")
    return "\n\n".join(part for part in parts if part)


def _counts(summary: dict[str, Any]) -> Iterator[tuple[str, str, int]]:
    """What, its kind, and how often; nothing where it is not known."""
    yield from (("exit", name, count) for name, count in (summary["exits"] or {}).items())
    yield from (("hardware exit", name, one["count"]) for name, one in (summary["hardware"] or {}).items())
    for kind in ("demand", "background"):
        yield from ((f"{kind} fill", name, count) for name, count in (summary["fills"] or {kind: {}})[kind].items())
    yield from (("lost", name, count) for name, count in summary["loss"].items() if count)


def migrations(found: Sequence[Migration]) -> str:
    """A line for each migration of a recording; empty if there are none."""
    return joined(map(_migration, found))


def _migration(one: Migration) -> str:
    how = "QEMU says" if one.how == "qmp" else "as the kernel shows"
    still = one.standstill or standstill(one, one.to_ns or one.from_ns)
    length = f"{words.duration(one.to_ns - one.from_ns)}, " if one.to_ns is not None else ""
    state = "still going on" if one.state == "active" else one.state
    parts = [f"{one.kind}, {one.role} {one.vm_name} ({how}): {length}{state}"]
    if one.latency_ns.count:
        latency = f"p50 {words.duration(one.latency_ns.p50)}, p99 {words.duration(one.latency_ns.p99)}"
        parts.append(f"{words.counted(one.latency_ns.count, 'fault')}, {latency}")
    if one.fills.demand or one.fills.background:
        parts.append(f"{words.counted(one.fills.demand, 'fill')} on demand, {one.fills.background:,} in the background")
    if one.fills.woken:
        parts.append(f"{words.counted(one.fills.woken, 'fault')} answered by WAKE alone, the pages placed otherwise")
    if one.brownout.peak and still:
        mean = f"{still.share * still.vcpus:.1f} of {words.counted(still.vcpus, 'vCPU')} stood still on average"
        paging = f"{words.percent(still.share)} of the {words.duration(still.length_ns)} in which pages were missing"
        parts.append(f"{mean}, {paging}, {one.brownout.peak} at most")
    return "; ".join(parts)


def _latency(one: dict[str, Any]) -> list[str]:
    if not one["count"]:
        return ["0", *("–",) * (len(_LATENCY) - 1)]
    return [f"{one['count']:,}", *(words.duration(one[name]) for name in _LATENCY[1:])]


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Empty if there are no rows. Columns of numbers stand to the right."""
    if not rows:
        return ""
    rows = [[cleaned(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    right = [headings[i] in (*_LATENCY, "per s", "stall", "vCPU") for i in range(len(headings))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in (headings, *rows)
    )
