"""A migration's report in words: what happened, and what is not known of it."""

from typing import Final

from .. import words
from ..migrations.models import Migration
from ..modes import user_faults
from ..recordings.meta import RecordedVm, RecordingMeta
from .models import MigrationReport, ReportStage

_KINDS: Final = {"postcopy": "Postcopy", "precopy": "Precopy", "page-in": "Paging in the memory"}
GROUP_WORDS: Final = {
    "kernel": "kernel", "handler_wait": "waiting for the handler", "serve": "handler and network (inferred)",
    "wake": "wake-up",
}  # fmt: skip
_LATE: Final = 0.05
_FOLLOW: Final = {
    "busy": "another client holds its monitor",
    "refused": "its monitor may not be opened",
    "lost": "its monitor was lost",
    "absent": "no QMP socket of it is known",
}


def sentence(report: MigrationReport) -> str:
    """The whole of it, for who reads only one line."""
    paged = report.brownout
    name = f"{_KINDS[report.kind]} of {report.vm_name}"
    took = words.duration(_length_ns(report))
    if report.state == "active":
        said = f"{name} was still going on when the recording ended, {took} after it began"
    elif report.state == "failed":
        said = f"{name} failed after {took}"
    else:
        said = f"{name} took {took}"
    faults = sum(one.count for one in report.modes.values())
    if report.role == "source":
        return f"{said}, seen from its source: its vCPUs wait for pages in the destination."
    if not faults:
        return f"{said}: no vCPU had to wait for a page."
    longest = max(one.max for one in report.modes.values())
    who = "its vCPU" if paged.vcpus == 1 else f"its {paged.vcpus} vCPUs"
    share = report.standstill.share if report.standstill else paged.share
    still = f"{said}; {who} stood still {words.percent(share)} of it, worst {words.duration(longest)}"
    if paged.vcpus == 1 or not paged.all_ns:
        return f"{still}."
    return f"{still}; all of them together for at most {words.duration(paged.all_ns)} at a stretch."


def details(report: MigrationReport) -> list[str]:
    """What one asks next."""
    said = []
    for family, stages in report.stages.items():
        faults = stages[0].latency_ns.count
        if faults or len(report.stages) == 1:
            name = (
                f"Where the time of {family} faults went" if len(report.stages) > 1 else "Where the faults' time went"
            )
            said.append(f"{name}: {', '.join(_part(stage) for stage in stages)}.")
    for mode, one in report.modes.items():
        said.append(
            f"{words.counted(one.count, f'{mode} fault')}: half took at most "
            f"{words.duration(one.p50)}, 99 % at most {words.duration(one.p99)}, the longest {words.duration(one.max)}."
        )
    if report.fills and (report.fills.demand_total or report.fills.background_total):
        demand, background = report.fills.demand_total, report.fills.background_total
        share = demand / (demand + background)
        said.append(
            f"{words.counted(demand, 'page')} came because somebody waited ({words.percent(share)}), "
            f"{words.count(background)} ahead of need."
        )
    rows = sorted(report.vcpus, key=lambda row: row.stall_ns)
    if len(rows) > 1 and rows[-1].stall_ns > 2 * rows[len(rows) // 2].stall_ns > 0:
        said.append(
            f"vCPU {rows[-1].vcpu} stood still longest, {words.duration(rows[-1].stall_ns)}; the median vCPU "
            f"{words.duration(rows[len(rows) // 2].stall_ns)}."
        )
    if report.account.qemu_ns is not None and report.account.stall_ns:
        qemu_ns, ours_ns = report.account.qemu_ns, report.account.stall_ns
        said.append(
            f"QEMU says {words.duration(qemu_ns)} of blocktime in all, ours is {words.duration(ours_ns)}: "
            f"{words.percent(qemu_ns / ours_ns)}."
        )
    return said


def unknown(
    report: MigrationReport, migration: Migration, source: Migration | None, meta: RecordingMeta, vm: RecordedVm | None
) -> list[str]:
    """What is missing, inferred, or not whole. source: the other side's migration, if it is in the recording."""
    return [
        *_of_qemu(report, migration, source, vm),
        *_of_recording(report, migration, meta),
        *_of_faults(report, meta, vm),
    ]


def _of_qemu(
    report: MigrationReport, migration: Migration, source: Migration | None, vm: RecordedVm | None
) -> list[str]:
    said = []
    qmp = migration.qmp or {}
    follow = str(qmp.get("follow", ""))
    if report.how == "kernel":
        said.append("That this was a migration, and its begin and end, are inferred from what the kernel shows.")
    if vm is not None and vm.vmm not in (None, "QEMU"):
        said.append(f"Only QEMU can be asked about a migration, and this is {vm.vmm}: phases and bytes are not known.")
    elif follow != "followed":
        why = qmp.get("reason") or _FOLLOW.get(follow) or "no monitor of it was followed"
        said.append(f"QEMU was not asked ({str(why).rstrip('.')}): its phases, bytes and blocktime are not known.")
    elif report.role == "destination" and not report.account.known:
        said.append("QEMU keeps no blocktime of each vCPU here: that takes the capability postcopy-blocktime.")
    if report.kind == "postcopy" and report.role == "destination":
        if source is None or source.qmp is None:
            said.append("The source was not seen on this host: bytes left and requests are known only there.")
    elif report.kind == "postcopy":
        said.append("The brownout is the destination's: see its report.")
    return said


def _of_recording(report: MigrationReport, migration: Migration, meta: RecordingMeta) -> list[str]:
    said = []
    if meta.note:
        said.append(f"The recording says: {meta.note.rstrip('.')}.")
    if migration.from_ns <= meta.started_ns:
        said.append("It had begun before the recording did: its beginning is missing.")
    if migration.to_ns is None:
        said.append("It went on after the recording ended: its end is missing.")
    gaps = [gap for gap in meta.gaps if gap.from_ns < report.to_ns and gap.to_ns > report.from_ns]
    if gaps:
        length_ns = sum(gap.to_ns - gap.from_ns for gap in gaps)
        said.append(f"No collector ran for {words.duration(length_ns)} of it: what happened then is not known.")
    lost = {name: count for name, count in meta.loss.items() if count and name not in ("hook_missing", "slow_client")}
    if lost:
        listed = ", ".join(f"{name} {words.count(count)}" for name, count in lost.items())
        said.append(f"Losses over the whole recording: {listed}.")
    counted = user_faults(report.counted)
    recorded = sum(one.count for one in report.modes.values())
    if counted > recorded:
        said.append(
            f"The kernel counted {words.counted(counted, 'fault')}, of which {words.count(recorded)} are recorded: "
            "brownout, stages and the slowest faults are of these."
        )
    return said


def _of_faults(report: MigrationReport, meta: RecordingMeta, vm: RecordedVm | None) -> list[str]:
    said = []
    missing = [
        str(hook.get("title") or hook.get("hook"))
        for hook in meta.hooks
        if hook.get("status") not in ("attached", None)
    ]
    if missing:
        said.append(f"Hooks that this kernel did not let us attach: {', '.join(missing)}.")
    waits = next((str(hook.get("attachment") or "") for hook in meta.hooks if hook.get("hook") == "uffd_wait"), "")
    if "tracepoint:sched_switch" in waits:
        said.append(
            "Waits were seen by tracepoints alone: a vCPU that slept on a lock held by a fill may be taken for one "
            "that waited for its page, and a wait whose event names nobody may be missed."
        )
    if vm is not None and vm.async_faults:
        said.append(
            "Some page faults were asynchronous. A vCPU that was halted for one counts as standing still from its "
            "access on, at most a little too long; one that ran on does not."
        )
    if report.memory.unknown:
        said.append(f"The guest address of {words.counted(report.memory.unknown, 'fault')} is not known.")
    nameless = sum(not handler.name for handler in report.handlers)
    if nameless:
        threads = "a thread" if nameless == 1 else f"{words.count(nameless)} threads"
        said.append(f"The name of {threads} that filled pages is not known: it had ended before it was asked for.")
    if any(stage.inferred for stages in report.stages.values() for stage in stages):
        said.append("How much of serving a page was the network, and how much the handler, is not seen.")
    return said


def _length_ns(report: MigrationReport) -> int:
    """Of the part that the sentence is about: that in which pages were missing, if there was one."""
    if report.standstill and report.modes:
        return report.standstill.length_ns
    return report.brownout.to_ns - report.brownout.from_ns if report.modes else report.length_ns


def _part(stage: ReportStage) -> str:
    return f"{words.percent(stage.share)} {GROUP_WORDS[stage.group]}"
