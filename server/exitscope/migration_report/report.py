"""The report of one migration of a recording."""

from typing import Any, Final

from ..errors import UserError
from ..migrations.models import Migration
from ..migrations.standstill import standstill
from ..modes import user_faults
from ..query.engine import Engine
from ..query.ticks import tick_width_ns
from ..recordings.damaged import read_from
from ..recordings.file import RecordingFile
from ..recordings.meta import RecordedVm
from . import account, pages, sentences, worst
from .brownout import Brownout
from .models import MigrationReport, ReportBrownout, ReportPhase
from .records import BEGIN, END, Records
from .stages import stages

_MS: Final = 1_000_000
_LATE_NS: Final = 1_200_000_000
"""A migration's begin and end are known at least so exactly: QEMU is asked once a second."""


def report(engine: Engine, recording: RecordingFile, number: int) -> MigrationReport:
    """Of the recording's migration `number`, from 0. Raises UserError if it has no such migration, or is damaged."""
    with read_from(recording.path):
        return _report(engine, recording, number)


def _report(engine: Engine, recording: RecordingFile, number: int) -> MigrationReport:
    meta = recording.meta
    migration = chosen(meta.migrations, number)
    found_ns = extent(engine, recording, number)
    from_ns, end_ns = min(migration.from_ns, found_ns[0]), found_ns[1]
    vm = meta.vm(migration.vm)
    records = Records(engine, recording, migration.vm, *found_ns)
    threads = worst.Threads(vm)
    other = next((one for one in meta.migrations if one.id == migration.other), None)
    source = migration if migration.role == "source" else other
    destination = migration if migration.role == "destination" else other
    told: dict[str, Any] = (destination.qmp if destination else None) or {}
    vcpus = _vcpus(records, vm)
    still = records.sweep(sorted(vcpus), tick_width_ns(found_ns[1] - found_ns[0]), BEGIN, END)
    counted_ns = {one.vcpu: one.stall_ns for one in migration.stall}
    rows, same_all_ns = account.vcpu_rows(records, vcpus, still, told.get("vcpu_blocktime_ns"), counted_ns)
    samples = source.samples if source and source.samples else migration.samples
    found = MigrationReport(
        recording=meta.id, recording_name=meta.name, migration=number, id=migration.id, vm=migration.vm,
        vm_name=migration.vm_name, host=meta.host, kind=migration.kind, role=migration.role, how=migration.how,
        evidence=migration.evidence, state=migration.state, sentence="", details=[], unknown=[],
        from_ns=from_ns, to_ns=end_ns, length_ns=end_ns - from_ns,
        started_wall_ms=migration.wall_ms - (migration.from_ns - from_ns) // _MS,
        phases=_phases(migration, from_ns, end_ns), samples=samples,
        standstill=migration.standstill or standstill(migration, end_ns),
        brownout=_brownout(still), modes=records.distributions("mode", "latency_ns", "vcpu >= 0"),
        counted=migration.faults, stages=stages(records), worst=worst.moments(records, still, threads),
        slowest=worst.slowest(records, threads), handlers=worst.handlers(records, threads),
        fills=pages.fills(recording, migration.vm, found_ns, migration.fills),
        memory=pages.memory(records, found_ns), vcpus=rows,
        account=account.account(rows, same_all_ns, int(still.time_at_ns[-1]), told.get("blocktime_ns")),
        requests=account.requests(records, ((source.qmp if source else None) or {}).get("postcopy_requests")),
    )  # fmt: skip
    found.sentence = sentences.sentence(found)
    found.details = sentences.details(found)
    found.unknown = sentences.unknown(found, migration, source, meta, vm)
    return found


def chosen(migrations: list[Migration], number: int) -> Migration:
    """Raises UserError if there is none of this number."""
    if 0 <= number < len(migrations):
        return migrations[number]
    has = {0: "no migration", 1: "one migration, number 0"}
    raise UserError(
        f"no migration {number} in the recording: it has {has.get(len(migrations), f'{len(migrations)}, from 0 on')}"
    )


def default_number(migrations: list[Migration]) -> int:
    """The one with most faults; of several the last."""
    faults = [user_faults(one.faults) for one in migrations]
    return max(range(len(faults)), key=lambda number: (faults[number], number), default=0)


def extent(engine: Engine, recording: RecordingFile, number: int) -> tuple[int, int]:
    """When pages were missing: the whole migration if that is not known.

    Faults were counted some times a second, and QEMU was asked once: the records say exactly when the first and the
    last one was. What belongs to another migration of the VM is not looked at.
    """
    meta = recording.meta
    migration = meta.migrations[number]
    from_ns = migration.from_ns if migration.missing_from_ns is None else migration.missing_from_ns
    end_ns = max(migration.to_ns or meta.ended_ns, from_ns + 1)
    others = [one for one in meta.migrations if one.vm == migration.vm and one is not migration]
    earliest_ns = max([from_ns - _LATE_NS, *(one.to_ns for one in others if one.to_ns and one.to_ns <= from_ns)])
    latest_ns = min([end_ns + _LATE_NS, *(one.from_ns for one in others if one.from_ns >= end_ns)])
    if migration.role == "destination" and earliest_ns < latest_ns:
        records = Records(engine, recording, migration.vm, earliest_ns, latest_ns)
        ends = records.one("min(begin_ns) AS first, max(begin_ns + latency_ns) AS last", "begin_ns >= $from_ns")
        if ends["first"] is not None:
            from_ns, end_ns = min(from_ns, ends["first"]), max(end_ns, ends["last"])
    return from_ns, end_ns


def _vcpus(records: Records, vm: RecordedVm | None) -> dict[int, int]:
    """Number -> thread, of those that the recording names or has faults of."""
    seen = records.rows("vcpu, max(tid) AS tid", "WHERE vcpu >= 0 GROUP BY vcpu")
    named = {vcpu.vcpu: vcpu.tid for vcpu in vm.vcpus} if vm else {}
    return {row["vcpu"]: row["tid"] for row in seen} | {vcpu: tid for vcpu, tid in named.items() if vcpu >= 0}


def _phases(migration: Migration, from_ns: int, end_ns: int) -> list[ReportPhase]:
    """From from_ns to end_ns, which records may know more exactly than the migration does."""
    found = []
    for phase in migration.phases:
        begin_ns = from_ns if phase.from_ns == migration.from_ns else phase.from_ns
        to_ns = end_ns if phase.to_ns in (None, migration.to_ns) else phase.to_ns
        if to_ns <= begin_ns:
            continue
        found.append(ReportPhase(
            name=phase.name, from_ns=begin_ns, to_ns=to_ns, length_ns=to_ns - begin_ns,
            ended=phase.to_ns is not None,
        ))  # fmt: skip
    return found


def _brownout(still: Brownout) -> ReportBrownout:
    vcpus, length_ns = len(still.stall_ns), still.to_ns - still.from_ns
    mean = float(still.stall_ns.sum()) / length_ns
    return ReportBrownout(
        from_ns=still.from_ns,
        to_ns=still.to_ns,
        vcpus=vcpus,
        mean=round(mean, 6),
        share=round(mean / max(vcpus, 1), 6),
        peak=int(still.peak.max(initial=0)),
        time_at_ns=still.time_at_ns.tolist(),
        all_ns=still.all_ns if vcpus else 0,
        all_from_ns=still.all_from_ns if still.all_ns and vcpus else None,
        tick_ns=still.tick_ns,
        mean_over_time=still.mean.round(4).tolist(),
        peak_over_time=still.peak.tolist(),
        stall_over_time=(still.stall_ns / still.lengths_ns).round(3).tolist(),
    )
