"""The report of a real migration that `exitscope record` recorded, beside QEMU's own account of it."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from exitscope.migration_report.html import html
from exitscope.migration_report.models import MigrationReport
from exitscope.migration_report.report import default_number, report
from exitscope.query.engine import Engine
from exitscope.recordings.file import RecordingFile
from exitscope_probes.isolated import python
from tests.kernel.harness import TIMEOUT_S, wait_until
from tests.kernel.migration import Account, Migration, Plan

pytestmark = pytest.mark.needs("root", "bpf", "kvm", "uffd", "vm")

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
MS = 1_000_000
SETTLE_S = 1.5  # QEMU is asked once a second


def recorded(directory: Path, plan: Plan) -> tuple[RecordingFile, Account]:
    """A migration from its begin to its end, traced by a collector of the recording's own."""
    output = directory / "a.parquet"
    command = [*python("exitscope", "record"), "--socket", directory / "none.sock", "-o", output]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}/server:{ROOT}/probes"}
    with subprocess.Popen(
        list(map(str, command)), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            spool = Path(f"{output}.spool")
            wait_until(lambda: spool.exists() and spool.stat().st_size > 500, "a recording")
            with Migration(plan, directory) as migration:
                migration.start()
                account = migration.finish()
                time.sleep(SETTLE_S)
                process.send_signal(signal.SIGINT)
                _, err = process.communicate(timeout=TIMEOUT_S)
        finally:
            process.kill()
    assert process.returncode == 0, err
    return RecordingFile.open(output), account


@pytest.mark.parametrize(
    "plan",
    [Plan(), Plan(vcpus=4, bytes_per_s=8 * MIB, memory_mib=16), Plan(vcpus=4, preempt=True, shared=True)],
    ids=["one-vcpu", "throttled", "preempt-shared"],
)
def test_the_report_agrees_with_qemu(tmp_path: Path, plan: Plan) -> None:
    file, account = recorded(tmp_path, plan)
    with Engine(tmp_path) as engine:
        made = report(engine, file, default_number(file.meta.migrations))
    assert (made.kind, made.role, made.how, made.state) == ("postcopy", "destination", "qmp", "completed")
    assert made.requests.events == account.events.total()
    assert made.requests.pages == len(account.events)
    # QEMU is asked once a second: one that was over before that shows in the destination only.
    source_seen = any(one.role == "source" for one in file.meta.migrations)
    assert made.requests.requests == (account.requests if source_seen else None)
    assert made.fills is not None
    placed = account.copied.total() + account.zeroed.total()
    assert made.fills.demand_total + made.fills.background_total == placed
    assert sum(made.fills.demand) + sum(made.fills.background) == placed
    assert_vcpus(made, account, plan)
    assert "stood still" in made.sentence and any("Where the faults' time went" in line for line in made.details)
    assert not any("beginning is missing" in line or "Losses" in line for line in made.unknown), made.unknown
    assert html(made).startswith("<!doctype html>")


def assert_vcpus(made: MigrationReport, account: Account, plan: Plan) -> None:
    """Ours in full is QEMU's count and what it does not see; the kernel counted the same, and what it solved alone."""
    assert [row.vcpu for row in made.vcpus] == list(range(plan.vcpus))
    for row, blocktime_ms in zip(made.vcpus, account.blocktime_ms, strict=True):
        assert row.qemu_ns == blocktime_ms * MS
        assert row.same_ns + row.before_ns + row.after_ns + row.unread_ns - row.overlap_ns == row.stall_ns
        assert row.qemu_ns <= row.stall_ns + (1 + 3 * row.latency_ns.count**0.5) * MS
        assert row.kernel_stall_ns is not None
        assert 0 <= row.kernel_stall_ns - row.stall_ns <= 0.05 * row.stall_ns + 20 * MS
    brownout = made.brownout
    assert sum(brownout.time_at_ns) == brownout.to_ns - brownout.from_ns
    assert sum(k * ns for k, ns in enumerate(brownout.time_at_ns)) == made.account.stall_ns
    assert made.modes["uffd"].count == sum(row.latency_ns.count for row in made.vcpus) == made.counted["uffd"]
    assert max(fault.latency_ns for fault in made.slowest) == made.modes["uffd"].max
    # A thread that lives for less than a second may have ended before anybody asked for its name.
    assert {handler.role for handler in made.handlers if handler.name} <= {"page copier"}, made.handlers
