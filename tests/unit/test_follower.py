"""Following migrations in the collector's loop, politely. Real sockets, no QEMU."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exitscope_probes import migration as migration_module
from exitscope_probes.migration import FAST_S, SLOW_S, Follower
from exitscope_probes.monitorsocket import MonitorSockets
from exitscope_probes.qmp import QUERIES
from exitscope_probes.reads import NoTime

from .monitor_bench import TIMEOUT_S, Bench, greets_only, qemu


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "qmp.sock")
    yield bench
    bench.close()


def test_a_vm_without_a_migration_is_asked_once_a_second_and_told_of_once(bench: Bench) -> None:
    peer = bench.listen(qemu)
    bench.see(7)
    started_s = time.monotonic()
    bench.turn(lambda: len(peer.asked) == 3)
    assert time.monotonic() - started_s >= 2 * SLOW_S
    (meta,) = bench.said
    assert (meta["vm"], meta["id"], meta["follow"], meta["reason"]) == (7, "vm-7", "followed", None)
    assert (meta["socket"], meta["status"], meta["run_state"]) == (str(bench.path), None, "running")
    assert abs(meta["at_ns"] - time.monotonic_ns()) < 10_000_000_000
    assert {tuple(asked) for asked in peer.asked[:2]} == {("qmp_capabilities", *QUERIES)}
    assert [message.meta["vm"] for message in bench.follower.newest()] == [7]


def test_a_migration_is_asked_about_five_times_a_second_and_told_of_when_it_changed(bench: Bench) -> None:
    peer = bench.listen(qemu)
    peer.phase = "precopy"
    bench.see(7)
    started_s = time.monotonic()
    bench.turn(lambda: len(peer.asked) == 7)
    assert time.monotonic() - started_s >= 6 * FAST_S
    kinds = [len(asked) for asked in peer.asked[:6]]
    assert set(kinds) <= {3, 5} and kinds[0] == 5, "what changes when somebody sets it is asked once a second"
    assert all(meta["capabilities"] for meta in bench.said)
    bench.turn(lambda: len(bench.said) == 3)
    assert bench.published[2][0] - bench.published[0][0] >= 1.8, "once a second, as nothing has changed"
    assert {meta["remaining_bytes"] for meta in bench.said} == {16_793_600}
    assert bench.said[-1]["at_ns"] > bench.said[0]["at_ns"]
    for phase in ("postcopy1", "postcopy2", "completed"):
        peer.phase, count = phase, len(bench.said)
        bench.turn(lambda count=count: len(bench.said) > count)  # type: ignore[misc]
    assert [meta["remaining_bytes"] for meta in bench.said[-3:]] == [14_344_192, 9_822_208, 0]
    count = len(bench.said)
    bench.turn(1.3)
    assert len(bench.said) == count and bench.said[-1]["status"] == "completed"


def test_a_monitor_that_another_client_has_is_left_alone(bench: Bench) -> None:
    peer = bench.listen(qemu)
    with socket.socket(socket.AF_UNIX) as manager:
        manager.connect(str(bench.path))
        bench.turn(lambda: len(peer.asked) == 1)
        bench.see(7)
        meta = bench.until_follow("busy")
        assert "another client is connected" in meta["reason"] and meta["status"] is None
        bench.turn(1.0)
        assert len(peer.asked) == 1 and len(bench.said) == 1
    bench.until_follow("followed")
    with socket.socket(socket.AF_UNIX) as manager:
        count = len(peer.asked)
        manager.connect(str(bench.path))
        bench.turn(lambda: len(peer.asked) > count and bench.said[-1]["follow"] == "busy")
        assert bench.said[-1]["run_state"] == "running", "what was known stays"
        assert not any(peer.asked[count])


def test_a_client_that_comes_while_we_ask_is_served_right_after(bench: Bench) -> None:
    bench.listen(qemu)
    bench.see(7)
    bench.until_follow("followed")
    with socket.socket(socket.AF_UNIX) as manager:
        manager.settimeout(TIMEOUT_S)
        manager.connect(str(bench.path))
        bench.turn(0.1)
        assert b"QMP" in manager.recv(1000)


def test_a_socket_that_goes_away_and_comes_back(bench: Bench) -> None:
    peer = bench.listen(qemu)
    bench.see(7)
    bench.until_follow("followed")
    peer.close()
    bench.path.unlink()
    assert "nobody listens" in bench.until_follow("lost")["reason"]
    bench.listen(qemu)
    bench.turn(lambda: bench.said[-1]["follow"] == "followed")


def test_a_vm_that_is_gone_is_asked_no_more(bench: Bench) -> None:
    peer = bench.listen(greets_only)
    bench.see(7)
    bench.turn(lambda: len(peer.asked) == 1)
    bench.see(7, state="gone")
    assert not bench.selector.get_map() and bench.follower.newest() == []
    bench.turn(0.3)
    assert len(peer.asked) == 1 and bench.published == []


def test_a_process_that_has_ended_is_not_called_lost(bench: Bench) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    bench.see(7, pid=child)
    bench.turn(0.3)
    os.waitpid(child, 0)
    assert bench.published == []


def test_nobody_is_asked_where_that_is_not_wanted(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "qmp.sock")
    bench.follower = Follower(bench.selector, bench.note, [str(bench.path)], enabled=False)
    peer = bench.listen(qemu)
    bench.see(7)
    bench.turn(0.5)
    peer.close()
    assert peer.asked == []
    assert [(meta["follow"], "--no-qmp" in meta["reason"]) for meta in bench.said] == [("absent", True)]
    bench.selector.close()


def test_a_vm_without_a_monitor_says_why_and_again_from_time_to_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migration_module, "_REPEAT_S", 0.2)
    monkeypatch.setattr(migration_module, "_BACKOFF_S", 0.1)
    bench.see(7)
    bench.turn(1.0)
    assert len(bench.said) > 2
    assert {(meta["follow"], meta["reason"]) for meta in bench.said} == {
        ("absent", "QEMU was started without a QMP monitor (-qmp)")
    }


def test_many_vms_are_asked_in_turn(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more conversations at once than allowed, and all VMs together a bounded number of them per second."""
    monkeypatch.setattr(migration_module, "MAX_OPEN", 4)
    opened: list[int] = []
    connect = MonitorSockets.connect

    def counted(self: MonitorSockets, pid: int, place: Any) -> Any:
        opened.append(len(bench.selector.get_map()))
        return connect(self, pid, place)

    monkeypatch.setattr(MonitorSockets, "taken", lambda *_: None)
    monkeypatch.setattr(MonitorSockets, "connect", counted)
    peer = bench.listen(qemu)
    bench.see(*range(60))
    bench.turn(lambda: len({meta["vm"] for meta in bench.said}) == 60)
    assert max(opened) < 4
    count = len(peer.asked)
    bench.turn(2.0)
    assert len(peer.asked) - count <= 2 * 20 * 2
    assert {meta["follow"] for meta in bench.said[60:]} <= {"followed", "busy"}


def test_a_host_without_a_free_cpu_says_nothing_of_a_monitor(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = bench.listen(qemu)
    bench.see(7)
    bench.turn(lambda: len(peer.asked) == 1)
    read, refused = bench.follower._reads.read, list[bool]()

    def no_time(*arguments: Any) -> Any:
        if not refused:
            refused.append(True)
            raise NoTime("this host had no CPU time to spare for looking at process 1")
        return read(*arguments)

    monkeypatch.setattr(bench.follower._reads, "read", no_time)
    bench.turn(lambda: bool(refused) and len(peer.asked) == 2)
    assert {meta["follow"] for meta in bench.said} == {"followed"}
