"""How long a migration's vCPUs stood still is one figure, wherever it is told."""

from pathlib import Path

from click.testing import CliRunner

from exitscope import words
from exitscope.cli import main
from exitscope.migration_report.report import report
from exitscope.migrations.models import Migration
from exitscope.migrations.standstill import span_ns, standstill
from exitscope.query import text
from exitscope.query.engine import Engine
from exitscope_probes.records import MODE_UFFD

from .frames import S
from .migrating import MS, Host, valid
from .test_migrations_recorded import recorded


def migrated() -> Host:
    """A precopy of 3 s, then a postcopy in which one of two vCPUs stands still for 1.6 s of 2 s; the source waits."""
    host = Host()
    leaving = host.vm(1, uffds=0, vmm="QEMU", uuid="u", name="left")
    coming = host.vm(2, vmm="QEMU", uuid="u", name="come")
    host.qmp(leaving, "active", "source")
    host.qmp(coming, "active", "destination")
    host.totals(3)
    host.qmp(leaving, "postcopy-active", "source")
    host.qmp(coming, "postcopy-active", "destination")
    for _ in range(10):
        host.feeder.time_ns += 180 * MS
        host.page(coming, demand=1, latency_ns=160 * MS)
        host.totals(0.02)
    host.qmp(leaving, "completed", "source")
    host.qmp(coming, "completed", "destination")
    host.totals(1)
    return host


def test_the_phase_that_qemu_names() -> None:
    phases = [("precopy", 10), ("postcopy", 40), ("postcopy-paused", 50), ("postcopy", 60), ("cancelling", 90)]
    assert span_ns(phases, 20, 100) == (40, 90)
    assert span_ns(phases[:4], 20, 100) == (40, 100)
    assert span_ns([("precopy", 10)], 20, 100) == (20, 100)


def test_one_figure_of_the_destinations_vcpus() -> None:
    host = migrated()
    source, destination = sorted((valid(one) for one in host.listed), key=lambda one: one.role, reverse=True)
    assert (source.role, source.standstill) == ("source", None)
    found = destination.standstill
    assert found is not None and (found.vcpus, found.stall_ns) == (2, 1600 * MS)
    (postcopy,) = [phase for phase in destination.phases if phase.name == "postcopy"]
    assert (found.from_ns, found.from_ns + found.length_ns) == (postcopy.from_ns, destination.to_ns)
    assert found.share == round(1600 * MS / (2 * found.length_ns), 6)
    assert abs(found.share - 0.4) < 0.03
    assert abs(destination.brownout.mean / 2 - found.share) < 1e-4, "the same of their number"
    assert standstill(destination, 0) == found, "by the one function"


def test_the_report_and_the_summary_say_the_same(tmp_path: Path) -> None:
    host = migrated()
    live = next(one["standstill"] for one in host.listed if one["role"] == "destination")
    file = recorded(host.messages, tmp_path / "r.parquet")
    number = next(number for number, one in enumerate(file.meta.migrations) if one.role == "destination")
    with Engine(tmp_path) as engine:
        made = report(engine, file, number)
    assert made.standstill is not None and made.standstill.model_dump() == live
    share, length = words.percent(live["share"]), words.duration(live["length_ns"])
    assert made.sentence.startswith(f"Postcopy of come took {length}; its 2 vCPUs stood still {share} of it")
    shown = CliRunner().invoke(main, ["summary", str(tmp_path / "r.parquet")]).output
    assert f"of 2 vCPUs stood still on average, {share} of the {length} in which pages were missing" in shown


def test_a_recording_from_before_gets_it_by_the_same_function() -> None:
    host = migrated()
    one = next(Migration.model_validate(one) for one in host.listed if one["role"] == "destination")
    assert standstill(one.model_copy(update={"standstill": None}), 0) == one.standstill


def test_the_vcpus_of_a_source_that_has_switched_over_are_not_counted_among_all() -> None:
    host = Host()
    leaving = host.vm(1, uffds=0, vmm="QEMU", uuid="u", name="left", vcpus=4)
    coming = host.vm(2, vmm="QEMU", uuid="u", name="come", vcpus=4)
    series = host.aggregate.series
    host.qmp(leaving, "active", "source")
    host.totals(3)
    assert series.ticks(0, host.aggregate.vms.running()[0].vcpu_rows(), 1)[-1]["stalled"]["vcpus"] == 8
    host.qmp(leaving, "postcopy-active", "source")
    host.feeder.fault(coming, 0, S, 1, MODE_UFFD)
    host.totals(3)
    assert series.ticks(0, host.aggregate.vms.running()[0].vcpu_rows(), 1)[-1]["stalled"]["vcpus"] == 4


def test_the_summary_names_faults_that_wake_answered(tmp_path: Path) -> None:
    host = Host()
    vm = host.vm(1, vmm="Firecracker")
    host.totals(1)
    host.feeder.fault(vm, 0, MS, 500, MODE_UFFD)
    host.feeder.fill(vm, "WAKE", 500)
    host.totals(7)
    file = recorded(host.messages, tmp_path / "r.parquet")
    assert "; 500 faults answered by WAKE alone" in text.migrations(file.meta.migrations)
