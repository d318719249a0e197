"""Following migrations over the monitors of real QEMUs."""

import itertools
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import exitscope_probes
from exitscope_probes.migration import Follower
from exitscope_probes.wire import Message
from tests.kernel.client import collecting, connect
from tests.kernel.harness import TIMEOUT_S, wait_until
from tests.kernel.migration import QEMU, Migration, Plan
from tests.kernel.qmp import Qmp

pytestmark = pytest.mark.needs("vm")

MIB = 1 << 20
MS = 1_000_000


class Watcher:
    """A follower in a loop of its own."""

    def __init__(self, *given: Path) -> None:
        self.selector = selectors.DefaultSelector()
        self.said: list[dict[str, Any]] = []
        self.follower = Follower(self.selector, self._note, list(map(str, given)))

    def _note(self, message: Message) -> None:
        self.said.append(message.meta)

    def see(self, pid: int) -> None:
        vm = {"vm": 1, "id": "vm-1", "pid": pid, "name": "x", "vmm": "QEMU", "state": "running"}
        self.follower.see([vm])

    def turn(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        due = 0.0
        while not condition():
            assert time.monotonic() < deadline, f"never; said: {self.said}"
            if time.monotonic() >= due:
                due = time.monotonic() + self.follower.run()
            for key, mask in self.selector.select(0.005):
                key.data(mask)

    def until(self, follow: str) -> dict[str, Any]:
        self.turn(lambda: bool(self.said) and self.said[-1]["follow"] == follow)
        return self.said[-1]


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    watcher = Watcher()
    yield watcher
    watcher.follower.close()


@contextmanager
def idle_qemu(directory: Path, *options: str, **settings: Any) -> Iterator[int]:
    """Pid of a QEMU without a machine, as soon as it has written it down."""
    pidfile = directory / "pid"
    command = [QEMU, "-machine", "none", "-nodefaults", "-display", "none", "-pidfile", str(pidfile), *options]
    with subprocess.Popen(command, cwd=directory, **settings) as process:
        pid = 0
        try:
            wait_until(lambda: pidfile.exists() and pidfile.read_text().strip().isdigit(), "a QEMU that runs")
            pid = int(pidfile.read_text())
            yield pid
        finally:
            process.kill()
            if pid and pid != process.pid:  # it has made a daemon of itself
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    "options",
    [
        ["-qmp", "unix:{0}/m.sock,server=on,wait=off"],
        ["-qmp", "unix:m.sock,server,nowait"],
        ["-qmp-pretty", "unix:{0}/m.sock,server=on,wait=off"],
        ["-chardev", "socket,id=c,path={0}/m.sock,server=on,wait=off", "-mon", "chardev=c,id=m,mode=control"],
        ["-chardev", "socket,id=c,path={0}/m.sock,server=on,wait=off", "-mon", "c,mode=control,pretty=on"],
        ["-qmp", "unix:{0}/m.sock,server=on,wait=off", "-daemonize"],
        ["-qmp", "tcp:127.0.0.1:0,server=on,wait=off", "-qmp", "unix:{0}/m.sock,server=on,wait=off"],
    ],
    ids=["path", "relative", "pretty", "chardev", "chardev-pretty", "daemon", "second"],
)
def test_a_monitor_is_found_by_the_command_line(watcher: Watcher, tmp_path: Path, options: list[str]) -> None:
    with idle_qemu(tmp_path, *(option.format(tmp_path) for option in options)) as pid:
        watcher.see(pid)
        meta = watcher.until("followed")
        assert (meta["socket"], meta["run_state"], meta["status"]) == (f"{tmp_path}/m.sock", "running", None)
        assert meta["capabilities"] == [] and meta["max_postcopy_bytes_per_s"] == 0


def test_a_monitor_that_was_handed_over_as_a_descriptor_as_libvirt_does(watcher: Watcher, tmp_path: Path) -> None:
    path = tmp_path / "monitor.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(1)
        fd = listening.fileno()
        options = ["-chardev", f"socket,id=charmonitor,fd={fd},server=on,wait=off"]
        options += ["-mon", "chardev=charmonitor,id=monitor,mode=control"]
        with idle_qemu(tmp_path, *options, pass_fds=[fd]) as pid:
            listening.close()
            watcher.see(pid)
            assert watcher.until("followed")["socket"] == str(path)
            manager = Qmp(path)
            assert "another client is connected" in watcher.until("busy")["reason"]
            manager.close()
            watcher.until("followed")


def test_a_monitor_that_was_given_by_another_path(tmp_path: Path) -> None:
    """The command line names a monitor that is held by its manager; the given one is found to be that VM's, too."""
    alias = tmp_path / "alias"
    alias.symlink_to(tmp_path / "b.sock")
    watcher = Watcher(tmp_path / "nowhere", alias)
    monitors = [option for name in "ab" for option in ("-qmp", f"unix:{tmp_path}/{name}.sock,server=on,wait=off")]
    with idle_qemu(tmp_path, *monitors) as pid:
        manager = Qmp(tmp_path / "a.sock")
        watcher.see(pid)
        assert watcher.until("followed")["socket"] == str(alias)
        manager.close()
    watcher.follower.close()


CAPABILITIES = {"the units'": "dac_read_search,sys_ptrace", "more": "dac_override,sys_ptrace"}
PROGRAM = """
import json, selectors, sys, time
from exitscope_probes.migration import Follower
from exitscope_probes.monitorcheck import survey
from exitscope_probes.procfs import Proc
name = f"few (pid {sys.argv[1]})"
while "nobody" in ((found := dict(survey(Proc())))[name] or ""):
    time.sleep(0.01)
selector, said = selectors.DefaultSelector(), []
follower = Follower(selector, lambda message: said.append(message.meta))
follower.see([{"vm": 1, "id": "x", "pid": int(sys.argv[1]), "name": "x", "vmm": "QEMU", "state": "running"}])
while not said:
    follower.run()
    for key, mask in selector.select(0.01):
        key.data(mask)
print(json.dumps([said[0], found[name]]))
"""


@pytest.mark.needs("root")
@pytest.mark.parametrize("who", CAPABILITIES)
def test_a_collector_with_few_privileges_says_what_it_lacks(tmp_path: Path, who: str) -> None:
    """Connecting takes the right to write to the socket, which the capabilities of deploy's unit do not give."""
    names = ",".join(f"+{name}" for name in CAPABILITIES[who].split(","))
    user = ["setpriv", "--reuid", "65534", "--clear-groups", "--inh-caps", names, "--ambient-caps", names]
    with idle_qemu(tmp_path, "-qmp", f"unix:{tmp_path}/m.sock,server=on,wait=off", "-name", "few") as pid:
        program = [*user, sys.executable, "-c", PROGRAM, str(pid)]
        environment = os.environ | {"PYTHONPATH": str(Path(exitscope_probes.__file__).parents[1])}
        output = subprocess.run(program, env=environment, check=True, capture_output=True, timeout=TIMEOUT_S).stdout
        meta, obstacle = json.loads(output)
    if who == "more":
        assert meta["follow"] == "followed" and obstacle is None
    else:
        assert meta["follow"] == "refused" and "may connect to it" in meta["reason"]
        assert "may not be written to" in obstacle


def test_managers_that_come_and_go_are_served_while_it_is_watched(watcher: Watcher, tmp_path: Path) -> None:
    """Each connects, asks and leaves; none is turned away, and the watcher never stays."""
    path = tmp_path / "m.sock"
    with idle_qemu(tmp_path, "-qmp", f"unix:{path},server=on,wait=off") as pid:
        watcher.see(pid)
        watcher.until("followed")
        watcher.said.clear()
        served = []

        def manage() -> None:
            for _ in range(300):
                manager = Qmp(path)
                served.append(manager.command("query-status")["running"])
                manager.close()

        thread = threading.Thread(target=manage, daemon=True)
        thread.start()
        watcher.turn(lambda: not thread.is_alive())
        assert served == [True] * 300
        if watcher.said:
            watcher.until("followed")
    assert {meta["follow"] for meta in watcher.said} <= {"followed", "busy"}


def test_a_qemu_that_does_not_answer_and_goes_on(watcher: Watcher, tmp_path: Path) -> None:
    with idle_qemu(tmp_path, "-qmp", f"unix:{tmp_path}/m.sock,server=on,wait=off") as pid:
        watcher.see(pid)
        watcher.until("followed")
        os.kill(pid, signal.SIGSTOP)
        watcher.turn(lambda: watcher.said[-1]["follow"] in ("lost", "busy"))
        os.kill(pid, signal.SIGCONT)
        watcher.until("followed")


@pytest.mark.needs("root", "bpf", "kvm", "uffd")
@pytest.mark.parametrize("preempt", [False, True], ids=["plain", "preempt"])
def test_a_real_migration_on_both_sides_beside_qemus_own_account(tmp_path: Path, preempt: bool) -> None:
    """Through the whole collector, while the monitors of the command line that come first are held by their manager."""
    socket_path = tmp_path / "collector.sock"
    with collecting(socket_path) as process:
        client = connect(socket_path, process)
        with Migration(Plan(vcpus=2, preempt=preempt, bytes_per_s=8 * MIB, memory_mib=16), tmp_path) as migration:
            pids = {"source": migration.source.pid, "destination": migration.destination.pid}

            def said(side: str) -> list[dict[str, Any]]:
                vm = client.vm_of(pids[side])
                return [meta for meta in client.migrations if vm and meta["id"] == vm["id"]]

            client.read_until(lambda: said("source"), "the source's monitor")
            migration.start()
            account = migration.finish()
            for side in pids:
                client.read_until(lambda side=side: said(side) and said(side)[-1]["status"] == "completed", side)
            told = migration.source.qmp.command("query-migrate")
            late = connect(socket_path, process)
            late.read_until(lambda: len(late.migrations) == 2, "what is known, for one who comes late")
        source, destination = said("source"), said("destination")
        for side, machine in (("source", migration.source), ("destination", migration.destination)):
            # The host may have a collector of its own, which asks the same monitor now and then.
            assert {meta["follow"] for meta in said(side)} <= {"followed", "busy"}
            assert all(meta["socket"].endswith(".free") for meta in said(side))
            names = {"plain": {"postcopy-ram"}, "preempt": {"postcopy-ram", "postcopy-preempt"}}
            assert names["preempt" if preempt else "plain"] <= set(said(side)[-1]["capabilities"]), machine
            times = [meta["at_ns"] for meta in said(side)]
            assert times == sorted(times)
        statuses = [status for status, _ in itertools.groupby(meta["status"] for meta in source)]
        assert statuses in ([None, "active", "postcopy-active", "completed"], [None, "postcopy-active", "completed"])
        assert {meta["role"] for meta in source if meta["status"]} == {"source"}
        assert {meta["role"] for meta in destination} == {"destination"}
        moving = [meta for meta in source if meta["status"] == "postcopy-active"]
        assert all(a["transferred_bytes"] < b["transferred_bytes"] for a, b in itertools.pairwise(moving))
        assert {meta["max_postcopy_bytes_per_s"] for meta in moving} == {8 * MIB}
        last, ram = source[-1], told["ram"]
        assert (last["remaining_bytes"], last["transferred_bytes"]) == (0, ram["transferred"])
        assert (last["postcopy_requests"], last["page_bytes"]) == (account.requests, 4096)
        assert (last["total_ns"], last["downtime_ns"]) == (told["total-time"] * MS, told["downtime"] * MS)
        assert destination[-1]["vcpu_blocktime_ns"] == [blocked * MS for blocked in account.blocktime_ms]
        threads = {thread["role"]: thread["cpu_ns"] for thread in (client.vm_of(pids["source"]) or {})["threads"]}
        assert threads["main"] > 0
        with suppress(OSError):
            client.close()
        late.close()
