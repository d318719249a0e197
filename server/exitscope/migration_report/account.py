"""QEMU's own account of a migration beside ours, vCPU by vCPU, and why they differ.

QEMU's postcopy-blocktime (migration/postcopy-ram.c) goes from the moment when its fault thread has read the event until
the page was placed. Until QEMU 10.1 it has one slot per vCPU and a clock that ticks in milliseconds. A request is sent
for each event, unless the page has come meanwhile (migrate_send_rp_req_pages).
"""

from collections.abc import Sequence
from typing import Any, Final

from ..models import NO_LATENCY
from ..words import counted, duration
from .brownout import Brownout
from .models import ReportAccount, ReportRequests, ReportVcpu
from .records import BEGIN, END, EVENT_READ, EXITS, PLACED, READ, STANDS_STILL, Records

MS: Final = 1_000_000


def vcpu_rows(
    records: Records,
    vcpus: dict[int, int],
    full: Brownout,
    qemu_ns: Sequence[int] | None,
    counted_ns: dict[int, int],
) -> tuple[list[ReportVcpu], int]:
    """The rows, and for how long all vCPUs stood still, counted as QEMU does, ns.

    vcpus: number -> thread. full: how long each stood still. qemu_ns: vcpu-blocktime, in the order of the vCPUs.
    counted_ns: vCPU -> stall as the kernel counted it.
    """
    numbers = sorted(vcpus)
    whole_ns = full.to_ns - full.from_ns
    same = records.sweep(numbers, whole_ns, EVENT_READ, PLACED, READ)  # no column of time is asked for: one is enough
    stall, same_ns = (one.stall_ns.sum(axis=1).tolist() for one in (full, same))
    latencies = records.distributions("vcpu", "latency_ns", "vcpu >= 0")
    parts = {row["vcpu"]: row for row in records.rows(_parts(), f"WHERE {STANDS_STILL} GROUP BY vcpu")}
    rows = []
    for place, vcpu in enumerate(numbers):
        part: dict[str, Any] = parts.get(vcpu, {"before_ns": 0, "after_ns": 0, "unread_ns": 0})
        before_ns, after_ns, unread_ns = (int(part[name]) for name in ("before_ns", "after_ns", "unread_ns"))
        rows.append(ReportVcpu(
            vcpu=vcpu, tid=vcpus[vcpu], latency_ns=latencies.get(vcpu, NO_LATENCY), stall_ns=stall[place],
            share=round(stall[place] / whole_ns, 6), kernel_stall_ns=counted_ns.get(vcpu),
            qemu_ns=qemu_ns[place] if qemu_ns and place < len(qemu_ns) else None,
            same_ns=same_ns[place], before_ns=before_ns, after_ns=after_ns, unread_ns=unread_ns,
            overlap_ns=same_ns[place] + before_ns + after_ns + unread_ns - stall[place],
        ))  # fmt: skip
    return rows, int(same.time_at_ns[-1])


def _parts() -> str:
    """Of each vCPU: what of its faults lies before and after QEMU's count; within the time that is looked at."""
    begin, end, read, placed = (f"greatest(least({at}, $to_ns), $from_ns)" for at in (BEGIN, END, EVENT_READ, PLACED))
    return (
        f"vcpu, coalesce(sum({read} - {begin}) FILTER ({READ}), 0) AS before_ns, "
        f"coalesce(sum({end} - {placed}) FILTER ({READ}), 0) AS after_ns, "
        f"coalesce(sum({end} - {begin}) FILTER (NOT {READ}), 0) AS unread_ns"
    )


def account(rows: Sequence[ReportVcpu], same_all_ns: int, all_ns: int, qemu_all_ns: int | None) -> ReportAccount:
    """All vCPUs together, and why the two accounts differ."""
    told = [row.qemu_ns for row in rows if row.qemu_ns is not None]
    events = sum(row.latency_ns.count for row in rows)
    found = ReportAccount(
        known=bool(told),
        qemu_ns=sum(told) if told else None,
        same_ns=sum(row.same_ns for row in rows),
        stall_ns=sum(row.stall_ns for row in rows),
        before_ns=sum(row.before_ns for row in rows),
        after_ns=sum(row.after_ns for row in rows),
        unread_ns=sum(row.unread_ns for row in rows),
        overlap_ns=sum(row.overlap_ns for row in rows),
        # The difference of two floors of a millisecond has a variance of 1/6 ms².
        rounding_ns=round(2 * (events / 6) ** 0.5 * MS),
        qemu_all_ns=qemu_all_ns,
        same_all_ns=same_all_ns,
        all_ns=all_ns,
        why=[],
    )
    found.why = _why(found)
    return found


def _why(found: ReportAccount) -> list[str]:
    said = [
        f"Before QEMU's count begins: {duration(found.before_ns)} from the guest's access until a handler has "
        "read the event (raise and notify).",
        f"After it ends: {duration(found.after_ns)} from the wake-up until the vCPU ran again.",
    ]
    if found.unread_ns:
        said.append(f"Faults without an event that was read, of which QEMU knows nothing: {duration(found.unread_ns)}.")
    if found.overlap_ns:
        said.append(
            f"Faults of one vCPU at the same time are one standstill, not two: {duration(found.overlap_ns)} less."
        )
    if found.qemu_ns is None:
        return ["QEMU keeps an account only with the capability postcopy-blocktime, on the destination.", *said]
    rest_ns = found.qemu_ns - found.same_ns
    size = duration(abs(rest_ns))
    told = f"QEMU says {size} {'more' if rest_ns > 0 else 'less'} than ours counted the same way"
    rounding = duration(found.rounding_ns)
    if abs(rest_ns) <= found.rounding_ns:
        said.append(
            f"{told}: until version 10.1 its clock ticks in milliseconds, which alone makes ±{rounding} (95 %)."
        )
    elif rest_ns < 0:
        said.append(
            f"{told}, more than its clock of milliseconds explains (±{rounding}, 95 %): until version 10.1 it has one "
            "slot per vCPU, and forgets a fault if the vCPU misses its next page before the thread that placed the "
            "last one has counted it (inferred)."
        )
    else:
        said.append(
            f"{told}, more than its clock of milliseconds explains (±{rounding}, 95 %): its count ends when the thread "
            "that placed the page runs again, ours when the vCPU is woken (inferred)."
        )
    return said


def requests(records: Records, asked: int | None) -> ReportRequests:
    """asked: QEMU's postcopy-requests; None if the source did not say."""
    counts = records.one(f"count(*) AS faults, count(*) FILTER ({READ}) AS events", f"NOT {EXITS}")
    pages = records.one("count(DISTINCT hva) AS pages", READ)["pages"]
    at_one = records.rows(
        "count(DISTINCT vcpu) AS n", f"WHERE {READ} AND hva IS NOT NULL GROUP BY hva ORDER BY n DESC LIMIT 1"
    )
    found = ReportRequests(
        requests=asked, faults=counts["faults"], events=counts["events"], pages=pages,
        vcpus_at_one=at_one[0]["n"] if at_one else 0, why=[],
    )  # fmt: skip
    found.why = _why_requests(found)
    return found


def _why_requests(found: ReportRequests) -> list[str]:
    said = []
    if unread := found.faults - found.events:
        said.append(f"{counted(unread, 'fault')} ended before an event was read: the page came just then.")
    if again := found.events - found.pages:
        said.append(
            f"{counted(again, 'event')} asked for a page that somebody had asked for already (up to "
            f"{found.vcpus_at_one} vCPUs waited for one page): QEMU sends a request for each."
        )
    if found.requests is None:
        return [*said, "How many requests reached the source is not known: its monitor was not followed here."]
    rest = found.requests - found.events
    if rest < 0:
        said.append(f"For {counted(-rest, 'event')} no request was sent: the page had come meanwhile (inferred).")
    elif rest > 0:
        said.append(f"{counted(rest, 'request')} more than events: of faults that are not recorded here (inferred).")
    return said
