"""What answers on a monitor's socket may do what it likes: a guest may have taken its VMM over."""

import json
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from exitscope_probes.migration import Follower
from exitscope_probes.qmp import MAX_BYTES

from .monitor_bench import TIMEOUT_S, Bench, Peer, Talk, greets_only, qemu
from .test_qmp import GREETING, lines


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "qmp.sock")
    yield bench
    bench.close()


def silent(_: Peer, connection: socket.socket) -> None:
    connection.recv(1)


def endless(_: Peer, connection: socket.socket) -> None:
    connection.sendall(lines(GREETING))
    while True:
        connection.sendall(b" " * 10_000)


def endless_events(_: Peer, connection: socket.socket) -> None:
    connection.sendall(lines(GREETING))
    while True:
        connection.sendall(lines(*[{"event": "x"}] * 100))


def drips(_: Peer, connection: socket.socket) -> None:
    while True:
        connection.sendall(b" ")
        time.sleep(0.01)


def truncates(_: Peer, connection: socket.socket) -> None:
    connection.sendall(lines(GREETING)[:40])


def leaves(_: Peer, connection: socket.socket) -> None:
    connection.sendall(lines(GREETING))
    connection.recv(10)


def no_json(_: Peer, connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
    connection.recv(1)


def nested(_: Peer, connection: socket.socket) -> None:
    connection.sendall(b"[" * (MAX_BYTES - 1) + b"\n")
    connection.recv(1)


def wrong_types(peer: Peer, connection: socket.socket) -> None:
    connection.sendall(lines(GREETING))
    for line in connection.makefile("rb"):
        number = json.loads(line)["id"]
        connection.sendall(lines({"return": [{"capability": {}, "state": True}, "x", None], "id": number}))


HOSTILE: dict[Talk, tuple[str, str]] = {
    silent: ("busy", "no answer on"),
    greets_only: ("busy", "no answer on"),
    drips: ("busy", "no answer on"),
    endless: ("refused", "more than 256 KiB"),
    endless_events: ("refused", "more than 64 messages"),
    truncates: ("absent", "closed before"),
    leaves: ("absent", ""),
    no_json: ("refused", "no JSON: 'SSH-2.0-OpenSSH_9.2'"),
    nested: ("refused", "no JSON"),
    wrong_types: ("followed", ""),
}


@pytest.mark.parametrize("talk", HOSTILE, ids=lambda talk: talk.__name__)
def test_a_peer_may_do_what_it_likes(bench: Bench, talk: Talk, caplog: pytest.LogCaptureFixture) -> None:
    peer = bench.listen(talk)
    bench.see(7)
    with caplog.at_level(logging.INFO):
        bench.turn(lambda: len(bench.said) == 1)
        bench.turn(1.0)
    follow, reason = HOSTILE[talk]
    assert bench.said[0]["follow"] == follow and reason in (bench.said[0]["reason"] or "")
    assert bench.said[0]["status"] is None
    assert len(bench.said) <= 2 and len(peer.asked) <= 4
    assert len(caplog.records) == (follow == "refused"), "one line"
    assert bench.longest_s < 10, "the loop goes on"


@pytest.mark.parametrize("talk", [greets_only, truncates, no_json], ids=lambda talk: talk.__name__)
def test_one_that_was_followed_and_goes_wrong_is_lost_until_it_answers_again(bench: Bench, talk: Talk) -> None:
    peer = bench.listen(qemu)
    peer.phase = "postcopy1"
    bench.see(7)
    bench.until_follow("followed")
    peer.talk = talk
    meta = bench.until_follow("lost")
    assert meta["reason"] and meta["postcopy_requests"] == 6, "what was known stays"
    assert meta["at_ns"] < time.monotonic_ns() - 1000
    peer.talk, count = qemu, len(bench.said)
    bench.turn(lambda: bench.said[-1]["follow"] == "followed" and len(bench.said) > count)
    assert bench.said[-1]["reason"] is None


def test_forty_that_hold_do_not_starve_another(tmp_path: Path) -> None:
    """More than are asked at the same time; each takes the connection and says nothing."""
    benches = [Bench(tmp_path / f"{number}.sock") for number in range(41)]
    follower = Bench(tmp_path / "all.sock")
    follower.follower = Follower(follower.selector, follower.note, [str(bench.path) for bench in benches])
    children = []
    for number, bench in enumerate(benches):
        child = os.fork()
        if child == 0:
            try:
                bench.listen(qemu if number == 40 else greets_only)
                signal.pause()
            finally:
                os._exit(0)
        children.append(child)
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while not all(bench.path.exists() for bench in benches):
            assert time.monotonic() < deadline
        follower.follower.see(
            [
                {"vm": n, "id": f"vm-{n}", "pid": pid, "name": "web", "vmm": "QEMU", "state": "running"}
                for n, pid in enumerate(children, 1)
            ]
        )
        follower.turn(lambda: any(meta["vm"] == 41 and meta["follow"] == "followed" for meta in follower.said))
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        for bench in (*benches, follower):
            bench.close()
