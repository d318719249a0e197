"""QEMU's own live snapshot: it protects guest memory against writing, and saves each page before it is written."""

from pathlib import Path

import pytest

from exitscope_probes.records import MODE_UFFD, PRESENCES, RESOLVERS, SEEN_FILL, SEEN_READ
from tests.kernel.harness import Watch, wait_until
from tests.kernel.migration import Machine, Plan
from tests.kernel.operators import Operator, operator

__all__ = ["operator"]

pytestmark = pytest.mark.needs("root", "bpf", "kvm", "uffd", "vm")


def test_what_the_guest_waits_for(watch: Watch, operator: Operator, tmp_path: Path) -> None:
    """Write-protect faults, lifted on demand and in the background; nothing is paged in, and nothing moves in."""
    plan = Plan(vcpus=2)
    machine = Machine("snapped", plan, tmp_path)
    try:
        qmp, pages = machine.qmp, (plan.memory_mib << 20) // 4096
        wait_until(lambda: min(machine.touches(2)) > 2 * pages, "a guest that has written all its pages")
        qmp.enable(background_snapshot=True)
        qmp.command("migrate-set-parameters", **{"max-bandwidth": 8 << 20})
        with watch.losing():
            qmp.command("migrate", uri="exec:cat >/dev/null")

            def over() -> bool:
                operator.for_seconds(0.1)
                return str(qmp.command("query-migrate").get("status")) in ("completed", "failed")

            wait_until(over, "the end of the snapshot")
            assert qmp.command("query-migrate")["status"] == "completed"
            qmp.command("stop")
            seen = watch.observe(machine.pid)
        assert sum(seen.faults(MODE_UFFD)) == len(seen.records) > 100
        assert {RESOLVERS[code] for code in seen.records["resolver"]} == {"WRITEPROTECT"}
        assert (seen.records["seen"] & SEEN_FILL).all()
        read = seen.records[seen.records["seen"] & SEEN_READ != 0]  # others were lifted in the background just then
        assert len(read) > 100 and len(seen.records) - len(read) == seen.vcpus["unread"].sum()
        assert {PRESENCES[code] for code in read["presence"]} == {"write-protected"}
        assert seen.fills("demand").keys() == seen.fills("background").keys() == {"WRITEPROTECT"}
        assert seen.vm["bytes_background"] == 0
        stages = {stage: seen.records[stage].sum() for stage in ("notify_ns", "serve_ns", "fill_ns", "finish_ns")}
        assert all(stages.values()), stages
        operator.for_seconds(1)
        assert {"page-in", "postcopy"}.isdisjoint(one["kind"] for one in operator.migrations(machine.pid))
    finally:
        machine.kill()
    watch.retire(machine.pid)
