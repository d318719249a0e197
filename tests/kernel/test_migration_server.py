"""Real migrations through the whole product, `exitscope run`: what its API says of them, beside QEMU's own account."""

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from tests.kernel.harness import wait_until
from tests.kernel.migration import Account, Machine, Migration, Plan
from tests.kernel.test_collector_live import loaded_programs, programs_of
from tests.product import Product, products

pytestmark = pytest.mark.needs("root", "bpf", "kvm", "uffd", "vm")

MIB: Final = 1 << 20
MS: Final = 1_000_000
PRECOPY_S: Final = 1.5  # longer than it takes to begin a recording of the source alone
Told = dict[str, Any]


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[..., Product]]:
    with products() as start:
        yield start


@pytest.fixture(scope="module")
def product(start: Callable[..., Product]) -> Product:
    """That asks QEMU, and records what it sees."""
    return _tracing(start("run", "--auto-record"))


def _tracing(product: Product) -> Product:
    """Once its probes are there."""
    product.until("api/v1/health", lambda health: health["source"]["state"] == "connected", "a collector")
    return product


def _of(product: Product, machine: Machine, state: Callable[[Told], Any], what: str) -> Told:
    """The migration of a QEMU once it is in a state."""
    vm = product.wait_for_vm(machine.pid)

    def own(answer: Told) -> list[Told]:
        return [each for each in answer["migrations"] if each["vm"] == vm and state(each)]

    (found,) = own(product.until("api/v1/migrations", own, what))
    return dict(product.get(f"api/v1/migrations/{found['id']}"))


def _over(product: Product, machine: Machine) -> Told:
    return _of(product, machine, lambda told: told["state"] != "active", "the end of a migration")


def assert_destination(told: Told, account: Account, migration: Migration) -> None:
    """All that the kernel shows of it."""
    assert (told["kind"], told["role"]) == ("postcopy", "destination")
    assert told["evidence"]
    fills = told["fills"]
    assert fills["demand"] + fills["background"] == account.copied.total() + account.zeroed.total()
    assert fills["demand"] >= len(account.events)
    names = migration.destination.threads()
    read = sum(count for tid, count in account.tids.items() if names[tid].startswith("CPU "))
    stages = told["stages_ns"]["uffd"]
    assert stages["notify"]["count"] == stages["serve"]["count"] == read
    assert read <= told["faults"]["uffd"] == told["latency_ns"]["count"] <= read * 1.1 + 8, (
        "some end before they are read"
    )
    assert not any(told["faults"][mode] for mode in ("exit", "memory_fault", "async"))
    vcpus = migration.plan.vcpus
    assert [row["vcpu"] for row in told["stall"]] == list(range(vcpus))
    for row, blocktime_ms in zip(told["stall"], account.blocktime_ms, strict=True):
        assert row["stall_ns"] >= (blocktime_ms - 1 - 3 * told["faults"]["uffd"] ** 0.5) * MS
    assert told["brownout"]["vcpus"] == vcpus
    assert 0 < told["brownout"]["mean"] <= told["brownout"]["peak"] <= vcpus
    assert_phases(told)


def assert_phases(told: Told) -> None:
    """They follow each other from the first sign to the last."""
    phases = told["phases"]
    assert (phases[0]["from_ns"], phases[-1]["to_ns"]) == (told["from_ns"], told["to_ns"])
    assert all(a["to_ns"] == b["from_ns"] for a, b in itertools.pairwise(phases))
    assert all(phase["from_ns"] <= phase["to_ns"] for phase in phases)


def assert_qmp(source: Told, destination: Told, account: Account) -> None:
    """All that QEMU says of it."""
    for told in (source, destination):
        assert (told["how"], told["state"], told["qmp"]["follow"]) == ("qmp", "completed", "followed")
        assert told["phases"][-1]["name"] == "postcopy"
    assert (source["other"], destination["other"]) == (destination["id"], source["id"])
    assert source["role"] == "source"
    assert source["qmp"]["postcopy_requests"] == account.requests
    assert [ns // MS for ns in destination["qmp"]["vcpu_blocktime_ns"]] == account.blocktime_ms
    samples = source["samples"]
    assert all(a["at_ns"] < b["at_ns"] for a, b in itertools.pairwise(samples))
    assert (samples[-1]["status"], samples[-1]["remaining_bytes"]) == ("completed", 0)
    assert samples[-1]["transferred_bytes"] > samples[0]["transferred_bytes"]


def assert_identity(product: Product, migration: Migration, name: str) -> None:
    """Which VM it is, and what its threads do while it is paged in."""

    def own(answer: Told) -> list[Told]:
        vms = [vm for vm in answer["vms"] if vm["pid"] == migration.destination.pid]
        return [vm for vm in vms if {"uffd reader", "page copier"} <= {thread["role"] for thread in vm["threads"]}]

    (vm,) = own(product.until("api/v1/vms", own, "threads with their roles"))
    assert (vm["name"], vm["vmm"], vm["uuid"], vm["state"]) == (name, "QEMU", migration.uuid, "running")
    roles = {thread["role"]: thread["name"] for thread in vm["threads"]}
    assert (roles["uffd reader"], roles["page copier"]) == ("fault-default", "postcopy/listen")
    assert "main" in roles


def recorded(product: Product, told: Told) -> tuple[Told, str]:
    """What the recording that was made by itself knows of a migration, and the path of its report."""

    def finished(answer: Told) -> list[Told]:
        own = [each for each in answer["recordings"] if each["id"] == told["recording"]]
        return [each for each in own if each["state"] == "finished"]

    product.until("api/v1/recordings", finished, "a finished recording")
    path = f"api/v1/recordings/{told['recording']}"
    found = [each for each in enumerate(product.get(path)["migrations"]) if each[1]["vm"] == told["vm"]]
    ((number, kept),) = found
    assert (kept["kind"], kept["state"], kept["role"]) == (told["kind"], told["state"], "destination")
    return kept, f"{path}/migrations/{number}/report"


def assert_recording(product: Product, told: Told, account: Account) -> None:
    """It is as whole as what was seen live, and has its report."""
    kept, path = recorded(product, told)
    assert (kept["fills"], kept["faults"]) == (told["fills"], told["faults"])
    report = product.get(path)
    assert report["requests"]["events"] == account.events.total()
    assert report["standstill"] == kept["standstill"]
    assert kept["standstill"]["length_ns"] == pytest.approx(told["standstill"]["length_ns"], rel=0.01)
    assert kept["standstill"]["share"] == pytest.approx(told["standstill"]["share"], abs=0.005), "one figure of it"
    ids = [each["id"] for each in product.get("api/v1/migrations")["migrations"] if each["vm"] == told["vm"]]
    assert ids == [told["id"]], "a late fault is no further migration"


def test_migrations_at_once_as_qemu_tells_them(product: Product, tmp_path: Path) -> None:
    plans = {
        "first": Plan(vcpus=4, bytes_per_s=8 * MIB, memory_mib=64),
        "second": Plan(shared=True, preempt=True, bytes_per_s=8 * MIB, memory_mib=16),
    }
    with ExitStack() as stack:
        migrations = [stack.enter_context(Migration(plan, tmp_path, name)) for name, plan in plans.items()]
        for precopy_s, migration in zip((0, PRECOPY_S), migrations, strict=True):
            product.wait_for_vm(migration.source.pid)
            migration.start(precopy_s)
        for migration in migrations:
            told = _of(product, migration.destination, lambda told: told["faults"]["uffd"], "faults of a migration")
            assert (told["state"], told["to_ns"], told["phases"][-1]["to_ns"]) == ("active", None, None)
            assert_identity(product, migration, told["vm_name"])
        assert not [alarm for alarm in product.get("api/v1/alarms")["alarms"] if alarm["severity"] == "critical"]
        for migration in migrations:
            migration.unthrottle()
        accounts = [migration.finish() for migration in migrations]
        for name, migration, account in zip(plans, migrations, accounts, strict=True):
            source, destination = (_over(product, side) for side in (migration.source, migration.destination))
            assert_destination(destination, account, migration)
            assert destination["vm_name"] == name
            assert_qmp(source, destination, account)
            assert_recording(product, destination, account)
        assert source["phases"][-2]["name"] == "precopy"
    assert not any(product.get("api/v1/loss").values())


def test_a_migration_that_only_the_kernel_tells(start: Callable[..., Product], tmp_path: Path) -> None:
    product = _tracing(start("run", "--no-qmp"))
    with Migration(Plan(vcpus=2, bytes_per_s=8 * MIB, memory_mib=16), tmp_path) as migration:
        product.wait_for_vm(migration.source.pid)
        migration.start()
        account = migration.finish()
        told = _over(product, migration.destination)
        assert (told["how"], told["qmp"], told["samples"]) == ("kernel", None, [])
        assert [phase["name"] for phase in told["phases"]] == ["paging"]
        assert told["state"] in ("completed", "ended")
        assert_destination(told, account, migration)
        assert len(product.get("api/v1/migrations")["migrations"]) == 1, "the source shows nothing"
    assert product.stop() == 0


@pytest.mark.parametrize("preempt", [False, True], ids=["plain", "preempt"])
def test_a_destination_killed_in_the_middle(product: Product, tmp_path: Path, preempt: bool) -> None:
    with Migration(Plan(vcpus=4, preempt=preempt, bytes_per_s=MIB), tmp_path) as migration:
        migration.start()
        vm = product.wait_for_vm(migration.destination.pid)
        _of(product, migration.destination, lambda told: told["faults"]["uffd"] > 16, "faults of a migration")

        def raised() -> list[Told]:
            alarms = product.get("api/v1/alarms")["alarms"]
            return [each for each in alarms if each["vm"] == vm and each["kind"] == "vm_died"]

        assert not raised()
        killed_s = time.monotonic()
        migration.destination.kill()
        wait_until(lambda: bool(raised()), "an alarm")
        took_s = time.monotonic() - killed_s
        (alarm,) = raised()
        assert (alarm["active"], alarm["severity"]) == (True, "critical")
        told = _over(product, migration.destination)
        assert told["state"] == "failed" and told["to_ns"] is not None
        (dead,) = [each for each in product.get("api/v1/vms")["vms"] if each["id"] == vm]
        assert dead["state"] == "gone"
        answer = product.get("api/v1/alarms")
        assert [each["kind"] for each in answer["alarms"] if each["vm"] == vm and each["active"]] == ["vm_died"]
        assert vm not in [each["vm"] for each in answer["oldest_faults"]]
        assert product.get("api/v1/loss")["unmatched_begin"] >= 1, "its vCPUs' faults have no end"
    recorded(product, told)  # it ends with the source, which waited for another destination
    print(f"alarm {took_s:.2f} s after the kill: {alarm['message']}", os.linesep)


def test_nothing_is_left(product: Product) -> None:
    """Of the product itself, after all of that. What its maps keep of a VM is test_migration.py's."""
    collector = product.child("collect")
    assert collector
    programs = programs_of(collector)
    assert programs and programs <= loaded_programs()
    assert product.stop() == 0
    wait_until(lambda: not programs & loaded_programs(), "no program left")  # the kernel frees them in its own time
    assert not product.socket.exists()
