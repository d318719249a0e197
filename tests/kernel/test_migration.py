"""A real postcopy migration, QEMU's own account of it beside ours."""

import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from exitscope_probes.discovery import Discovery, Rows
from exitscope_probes.records import (
    ADDRESS_UNKNOWN,
    MODE_ASYNC,
    MODE_UFFD,
    SEEN_FILL,
    VCPU_OTHER,
    WAITER_ASYNC,
    WAITER_OTHER,
    WAITER_VCPU,
)
from tests.kernel.harness import Observed, Watch, wait_until, whole_ns
from tests.kernel.migration import PAGE_BYTES, Account, Migration, Plan

pytestmark = pytest.mark.needs("root", "bpf", "kvm", "uffd", "vm")

MIB = 1 << 20
MS = 1_000_000


def assert_events(seen: Observed, account: Account) -> None:
    """Each event that QEMU has read was read, ended and recorded, by us too; some faults end before theirs is read."""
    events = account.events.total()
    assert (seen.vm["events_read"], seen.vm["events_done"]) == (events, events)
    rows = [*seen.vcpus, *seen.others]
    faults = sum(int(row["series"]["count"][mode]) for row in rows for mode in (MODE_UFFD, MODE_ASYNC))
    assert len(seen.records) == faults
    assert not seen.vcpus["open_since_ns"].any()


def assert_fills(seen: Observed, account: Account) -> None:
    """Each page that QEMU has placed was filled, also those that came before the vCPUs first ran; and no other."""
    demand, background = seen.fills("demand"), seen.fills("background")
    fills = {name: demand.get(name, 0) + background.get(name, 0) for name in demand.keys() | background.keys()}
    placed = {"COPY": account.copied.total(), "ZEROPAGE": account.zeroed.total()}
    assert fills == {name: count for name, count in placed.items() if count}
    assert seen.vm["bytes_background"] == sum(background.values()) * PAGE_BYTES
    assert seen.vm["fills_failed"] == 0


def assert_demand(seen: Observed, account: Account) -> None:
    """A fill was demanded where an event was read, or where a waiter was quicker than the reader."""
    records = seen.records
    named = records["hva"] != ADDRESS_UNKNOWN
    hvas = set(records["hva"][named].tolist())
    filled = set(records["hva"][named & (records["seen"] & SEEN_FILL != 0)].tolist())
    unnamed = int(np.count_nonzero(~named))
    demand = sum(seen.fills("demand").values())
    assert max(len(account.events), len(filled)) <= demand <= len(hvas) + unnamed
    assert account.events.keys() <= hvas <= account.copied.keys() | account.zeroed.keys()
    assert unnamed <= seen.vcpus["unread"].sum(), "an event names its page"
    assert np.count_nonzero(records["seen"] & SEEN_FILL) >= 0.9 * len(records)


def assert_account(seen: Observed, account: Account, migration: Migration) -> None:
    """All that must hold of a migration that went well."""
    assert account.status == "completed", migration.source.log()
    assert_events(seen, account)
    assert_fills(seen, account)
    assert_demand(seen, account)


def assert_vcpus(seen: Observed, account: Account, migration: Migration) -> None:
    """Each fault has the vCPU that its event named."""
    names = migration.destination.threads()
    vcpus = migration.plan.vcpus
    assert [names[tid] for tid in seen.vcpus["tid"].tolist()] == [f"CPU {vcpu}/KVM" for vcpu in range(vcpus)]
    own = seen.records[seen.records["vcpu"] != VCPU_OTHER]
    assert np.array_equal(own["tid"], seen.vcpus["tid"][own["vcpu"]])
    for row in [*seen.vcpus, *seen.others]:
        faults = int(row["series"]["count"][MODE_UFFD] - row["unread"])
        assert faults == account.tids[int(row["tid"])], "as the events name them"


def assert_blocktime(seen: Observed, account: Account) -> None:
    """QEMU counts from when it has read the event to when it has placed the page, one page of a vCPU at a time.

    Its clock ticks in ms, so each fault adds an error of less than 1 ms to either side: six standard deviations of
    their sum. Its end is seen when the thread that placed the page runs again, which a busy host may put off.
    """
    for row, blocktime_ms in zip(seen.vcpus, account.blocktime_ms, strict=True):
        faults = int(row["series"]["count"][MODE_UFFD])
        assert blocktime_ms * MS <= row["stall_ns"] + (1 + 3 * faults**0.5) * MS


MIGRATIONS = {
    "one-vcpu": Plan(),
    "four-vcpus": Plan(vcpus=4),
    "four-vcpus-preempt": Plan(vcpus=4, preempt=True),
    "four-vcpus-shared": Plan(vcpus=4, shared=True),
    "shared-preempt": Plan(shared=True, preempt=True, blocktime=False),
    "throttled": Plan(vcpus=4, bytes_per_s=8 * MIB, memory_mib=16),
    "throttled-shared-preempt": Plan(shared=True, preempt=True, bytes_per_s=8 * MIB, memory_mib=16),
}


@pytest.mark.parametrize("way", MIGRATIONS)
def test_our_account_and_qemus(watch: Watch, tmp_path: Path, way: str) -> None:
    plan = MIGRATIONS[way]
    with Migration(plan, tmp_path) as migration:
        with watch.losing():
            migration.start()
            account = migration.finish()
            seen = watch.observe(migration.destination.pid)
        assert_account(seen, account, migration)
        assert_vcpus(seen, account, migration)
        assert account.requests > 0
        assert seen.faults(MODE_UFFD) == seen.recorded(MODE_UFFD)
        assert min(seen.faults(MODE_UFFD)) > 0
        assert not any(seen.faults(MODE_ASYNC))
        vcpus = seen.records[seen.records["waiter"] != WAITER_OTHER]
        assert set(vcpus["waiter"]) == {WAITER_VCPU}
        for vcpu, row in enumerate(seen.vcpus):
            assert row["series"]["sum_ns"][MODE_UFFD] == whole_ns(vcpus[vcpus["vcpu"] == vcpu]).sum()
            assert row["stall_ns"] >= row["series"]["sum_ns"][MODE_UFFD]
        assert len(account.blocktime_ms) == (plan.vcpus if plan.blocktime else 0)
        if plan.blocktime:
            assert_blocktime(seen, account)
    watch.retire(migration.source.pid, migration.destination.pid)


@pytest.mark.parametrize("shared", [False, True], ids=["anon", "shared"])
def test_async_faults_are_the_vcpus(watch: Watch, tmp_path: Path, shared: bool) -> None:
    """The guest takes interrupts, so kworkers wait for its pages; it has not registered for async faults: it halts."""
    with Migration(Plan(vcpus=4, interrupts=True, shared=shared, blocktime=False), tmp_path) as migration:
        with watch.losing():
            migration.start()
            account = migration.finish()
            seen = watch.observe(migration.destination.pid)
        assert_account(seen, account, migration)
        assert min(seen.faults(MODE_ASYNC)) > 0
        assert seen.faults(MODE_ASYNC) == seen.recorded(MODE_ASYNC)
        waited = seen.records[seen.records["mode"] == MODE_ASYNC]
        assert set(waited["waiter"]) == {WAITER_ASYNC}
        assert np.array_equal(waited["tid"], seen.vcpus["tid"][waited["vcpu"]])
    watch.retire(migration.source.pid, migration.destination.pid)


def test_two_at_once_stay_apart(watch: Watch, tmp_path: Path) -> None:
    plans = {"first": Plan(vcpus=2), "second": Plan(shared=True, preempt=True)}
    with ExitStack() as stack:
        migrations = [stack.enter_context(Migration(plan, tmp_path, name)) for name, plan in plans.items()]
        with watch.losing():
            for migration in migrations:
                migration.start()
            accounts = [migration.finish() for migration in migrations]
            observed = [watch.observe(migration.destination.pid) for migration in migrations]
        for migration, account, seen in zip(migrations, accounts, observed, strict=True):
            assert_account(seen, account, migration)
            assert_vcpus(seen, account, migration)
    assert len({int(seen.vm["vm"]) for seen in observed}) == 2
    watch.retire(*(machine.pid for each in migrations for machine in (each.source, each.destination)))


@pytest.mark.parametrize("preempt", [False, True], ids=["plain", "preempt"])
def test_a_destination_killed_in_the_middle_leaves_nothing(watch: Watch, tmp_path: Path, preempt: bool) -> None:
    """Its vCPUs' faults never end: each is in the ledger, and no map keeps anything of them."""
    with Migration(Plan(vcpus=4, preempt=preempt, bytes_per_s=MIB), tmp_path) as migration:
        migration.start()
        pid = migration.destination.pid
        wait_until(lambda: bool(watch.numbers(pid)), "a VM that runs in the destination")
        wait_until(lambda: min(watch.observe(pid).faults(MODE_UFFD), default=0) > 3, "faults of each vCPU")
        traces = watch.left_of(pid)
        before = watch.loss()
        migration.destination.kill()
        seen = watch.observe(pid)
        after = watch.loss()
        assert seen.vcpus["exited"].tolist() == [1] * 4
        assert not seen.vcpus["open_since_ns"].any()
        assert 1 <= after.pop("unmatched_begin") - before.pop("unmatched_begin") <= 4
        assert after == before
    watch.retire(pid, migration.source.pid)
    wait_until(lambda: not traces.remaining(), f"maps that are empty again: {traces.remaining()}")


def test_what_is_open_in_the_middle(watch: Watch, tmp_path: Path) -> None:
    """Seen from outside while it goes on: the kernel's queue is as long as vCPUs stand still."""
    with Migration(Plan(vcpus=4, bytes_per_s=MIB), tmp_path) as migration:
        migration.start()
        pid = migration.destination.pid
        longest_ns, queued = 0, 0
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            queued = max(queued, *migration.queues())
            if watch.numbers(pid):
                open_ns = watch.observe(pid).vcpus["open_since_ns"]
                now = time.monotonic_ns()
                assert (open_ns <= now).all()
                longest_ns = max(longest_ns, *(now - open_ns[open_ns != 0]).tolist(), 0)
            time.sleep(0.005)
        assert 1 <= queued <= 4
        assert longest_ns > 0
        (vm,) = [vm for vm in Discovery().describe(Rows.of(watch.totals.poll()), 0) if vm["pid"] == pid]
        assert (vm["name"], vm["vmm"], vm["state"]) == ("moved", "QEMU", "running")
        assert {"main", "uffd reader", "page copier"} <= {thread["role"] for thread in vm["threads"]}
        assert [vcpu["name"] for vcpu in vm["vcpus"]] == [f"CPU {vcpu}/KVM" for vcpu in range(4)]
        assert "THREAD_ID" in vm["uffd_features"]
    watch.retire(pid, migration.source.pid)
