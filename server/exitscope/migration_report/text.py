"""A report as tables: for the terminal, and for the HTML file."""

from typing import Final

from .. import words
from ..models import Latency
from ..tables import Table, columns
from ..terminal import joined
from .models import MigrationReport, ReportFault

TERMINAL_ROWS: Final = 16
ACCOUNT: Final = "QEMU's account and ours"
REQUESTS: Final = "Requests and faults"
_LATENCY: Final = ("p50", "p90", "p99", "max")


def terminal(report: MigrationReport) -> str:
    """All of it as text; long tables are cut."""
    lines = [report.sentence, *(f"  {line}" for line in report.details)]
    for table in tables(report):
        if table.rows:
            lines += ["", table.title, *columns(table._replace(rows=table.rows[:TERMINAL_ROWS]))]
            if len(table.rows) > TERMINAL_ROWS:
                lines.append(f"  … {len(table.rows) - TERMINAL_ROWS} more: --json and --html have them")
    for title, sentences in (
        ("Why QEMU's account and ours differ", report.account.why),
        ("Why requests and faults differ", report.requests.why),
        ("What is not known", report.unknown),
        ("How it is known", report.evidence),
    ):
        if sentences:
            lines += ["", title, *(f"  - {sentence}" for sentence in sentences)]
    return joined(lines)


def tables(report: MigrationReport) -> list[Table]:
    """Every table, those that say most first."""
    return [
        phases(report),
        brownout(report),
        latencies(report),
        stages(report),
        moments(report),
        slowest(report),
        handlers(report),
        account(report),
        requests(report),
        vcpus(report),
        memslots(report),
    ]


def phases(report: MigrationReport) -> Table:
    """How long each took."""
    rows = [
        (phase.name, since(report, phase.from_ns), words.duration(phase.length_ns), "" if phase.ended else "went on")
        for phase in report.phases
    ]
    return Table("Phases", ("phase", "began at", "took", ""), rows)


def brownout(report: MigrationReport) -> Table:
    """For how long so many vCPUs stood still at once."""
    found = report.brownout
    whole_ns = max(found.to_ns - found.from_ns, 1)
    rows = [
        (f"{count}", words.duration(length_ns), words.percent(length_ns / whole_ns))
        for count, length_ns in enumerate(found.time_at_ns)
        if length_ns
    ]
    return Table(
        f"How many of {words.counted(found.vcpus, 'vCPU')} stood still at once", ("at once", "time", "share"), rows
    )


def latencies(report: MigrationReport) -> Table:
    """Percentiles of each mode."""
    rows = [(mode, *latency(one)) for mode, one in report.modes.items()]
    return Table("How long faults took", ("mode", "faults", *_LATENCY), rows)


def stages(report: MigrationReport) -> Table:
    """Where the time went."""
    rows = [
        (f"{family}: {stage.title}{' (inferred)' if stage.inferred else ''}", words.percent(stage.share),
         words.duration(stage.latency_ns.sum), *latency(stage.latency_ns)[1:])
        for family, several in report.stages.items() for stage in several
    ]  # fmt: skip
    return Table("Where the time went", ("", "share", "in all", *_LATENCY), rows)


def moments(report: MigrationReport) -> Table:
    """The worst ones."""
    rows = [
        (
            since(report, one.from_ns),
            words.duration(one.to_ns - one.from_ns),
            f"{one.mean:.2f}",
            f"{one.peak}",
            words.count(one.faults),
            f"{words.duration(one.longest.latency_ns)}, vCPU {one.longest.vcpu}, page {one.longest.gpa or 'not known'}",
        )
        for one in report.worst
    ]
    return Table("Worst moments", ("at", "for", "stood still, mean", "peak", "faults", "slowest fault then"), rows)


def slowest(report: MigrationReport) -> Table:
    """And who served them."""
    rows = [
        (
            since(report, fault.time_ns),
            words.duration(fault.latency_ns),
            f"{fault.vcpu}",
            fault.mode,
            stages_of(fault),
            fault.gpa or "–",
            served(fault),
        )
        for fault in report.slowest
    ]
    return Table("Slowest faults", ("at", "took", "vCPU", "mode", "stages", "gpa", "served by"), rows)


def handlers(report: MigrationReport) -> Table:
    """Who filled pages that somebody waited for."""
    rows = [
        (f"{one.name or 'thread'} ({one.tid})", one.role or "–", words.count(one.faults), *latency(one.serve_ns)[1:])
        for one in report.handlers
    ]
    return Table("Who served: from the event to the page", ("thread", "role", "faults", *_LATENCY), rows)


def account(report: MigrationReport) -> Table:
    """QEMU's account and ours, from the one to the other."""
    found = report.account
    qemu = "not told" if found.qemu_ns is None else words.duration(found.qemu_ns)
    qemu_all = "not told" if found.qemu_all_ns is None else words.duration(found.qemu_all_ns)
    rows = [
        ("QEMU's vcpu-blocktime", qemu, qemu_all),
        ("ours counted the same way: event read to page placed", words.duration(found.same_ns),
         words.duration(found.same_all_ns)),
        ("+ before that: raise, notify", words.duration(found.before_ns), ""),
        ("+ after that: wake", words.duration(found.after_ns), ""),
        ("+ faults without an event", words.duration(found.unread_ns), ""),
        ("− several of one vCPU at once", words.duration(found.overlap_ns), ""),
        ("ours in full", words.duration(found.stall_ns), words.duration(found.all_ns)),
    ]  # fmt: skip
    return Table(ACCOUNT, ("", "all vCPUs together", "while all stood still"), rows)


def requests(report: MigrationReport) -> Table:
    """Requests beside faults."""
    found = report.requests
    rows = [
        ("faults that were recorded", words.count(found.faults)),
        ("events that a handler has read", words.count(found.events)),
        ("different pages among these", words.count(found.pages)),
        ("requests that the source got", "not known" if found.requests is None else words.count(found.requests)),
    ]
    return Table(REQUESTS, ("", "count"), rows)


def vcpus(report: MigrationReport) -> Table:
    """One row each."""
    rows = [
        (
            f"{row.vcpu}",
            words.duration(row.stall_ns),
            words.percent(row.share),
            "–" if row.qemu_ns is None else words.duration(row.qemu_ns),
            words.duration(row.same_ns),
            *latency(row.latency_ns),
        )
        for row in report.vcpus
    ]
    headings = ("vCPU", "stood still", "share", "QEMU says", "counted the same way", "faults", *_LATENCY)
    return Table("vCPU by vCPU", headings, rows)


def memslots(report: MigrationReport) -> Table:
    """Which memory was asked for."""
    rows = [(f"{one.memslot}", one.from_gpa, one.to_gpa, words.count(one.faults)) for one in report.memory.memslots]
    return Table("Guest memory that was asked for", ("slot", "from gpa", "to gpa", "faults"), rows)


def since(report: MigrationReport, at_ns: int) -> str:
    """Seconds since the migration's begin: 3.217 s."""
    return f"{(at_ns - report.from_ns) / 1e9:.3f} s"


def stages_of(fault: ReportFault) -> str:
    """Its stages that were seen."""
    return ", ".join(f"{stage} {words.duration(length)}" for stage, length in fault.stages_ns.items() if length)


def served(fault: ReportFault) -> str:
    """By whom, and how."""
    if not fault.handler_tid:
        return "not seen"
    who = fault.handler_role or fault.handler_name or "thread"
    return f"{who} {fault.handler_tid}, {fault.resolver}"


def latency(one: Latency) -> list[str]:
    """count, p50, p90, p99 and max."""
    if not one.count:
        return ["0", *("–",) * len(_LATENCY)]
    return [words.count(one.count), *(words.duration(ns) for ns in (one.p50, one.p90, one.p99, one.max))]
