"""The clients of the collector: slow, deaf, talkative, dead ones."""

import os
import resource
import selectors
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from exitscope_probes import publisher as publisher_module
from exitscope_probes.publisher import MAX_CLIENTS, MAX_INPUT_BYTES, Publisher
from exitscope_probes.records import CELL_DTYPE, VCPU_DTYPE, VM_DTYPE
from exitscope_probes.socketfile import Listener
from exitscope_probes.wire import HEADER_BYTES, Kind, Message, decode_body, decode_header
from tests.unit.fakes import fault_records

BUFFER = 1 << 20


def totals(snapshot: bool, cells: int = 0) -> Message:
    arrays = {
        "slots": np.empty(0, "<u4"),
        "vcpus": np.empty(0, VCPU_DTYPE),
        "vms": np.empty(0, VM_DTYPE),
        "cells": np.zeros(cells, CELL_DTYPE),
    }
    return Message(Kind.TOTALS, 1, {"snapshot": snapshot, "loss": {}}, arrays)


def vms(*numbers: int) -> Message:
    return Message(Kind.VMS, 1, {"vms": [{"vm": number} for number in numbers]})


class Bench:
    """A publisher, and what its selector has to do."""

    def __init__(self, path: Path, welcome_cells: int = 0) -> None:
        self.path = str(path)
        self.selector = selectors.DefaultSelector()
        self.publisher = Publisher(Listener(self.path), self.selector, self.welcome, BUFFER)
        self.welcome_cells = welcome_cells
        self.clients: list[socket.socket] = []

    def welcome(self) -> list[Message]:
        return [Message(Kind.HELLO, 1, {"version": "x"}), vms(), totals(True, self.welcome_cells)]

    def turn(self, seconds: float = 0.0) -> None:
        """Handle everything that is ready, for at least so long."""
        deadline = time.monotonic() + seconds
        while True:
            ready = self.selector.select(0)
            for key, mask in ready:
                key.data(mask)
            if not ready and time.monotonic() >= deadline:
                return

    def client(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.connect(self.path)
        self.clients.append(client)
        self.turn()
        client.setblocking(False)
        return client

    def received(self, client: socket.socket) -> list[Message]:
        """All whole frames that there are for a client that reads as fast as it can."""
        data = bytearray()
        while True:
            self.turn()
            try:
                chunk = client.recv(1 << 20)
            except BlockingIOError:
                break
            if not chunk:
                break
            data += chunk
        messages = []
        while data:
            header = decode_header(bytes(data[:HEADER_BYTES]))
            end = HEADER_BYTES + header.rest_bytes
            messages.append(decode_body(header, bytes(data[HEADER_BYTES:end])))
            del data[:end]
        return messages

    def fill(self) -> None:
        """Leave a client that does not read no room for a big frame."""
        for _ in range(500):
            self.publisher.publish_faults(fault_records(100))

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.publisher.close("the test ends")
        self.selector.close()


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []

    def make(welcome_cells: int = 0) -> Bench:
        benches.append(Bench(tmp_path / "made" / f"{len(benches)}.sock", welcome_cells))
        return benches[-1]

    yield make
    for bench in benches:
        bench.close()


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


def kinds(messages: list[Message]) -> list[str]:
    return [message.kind.name for message in messages]


def test_a_client_is_welcomed_and_then_gets_every_frame_in_order(bench: Bench) -> None:
    first, second = bench.client(), bench.client()
    bench.publisher.publish_vms(vms(1))
    bench.publisher.publish_totals(totals(False, 3), lambda: totals(True))
    bench.publisher.publish_faults(fault_records(5))
    for client in (first, second):
        messages = bench.received(client)
        assert kinds(messages) == ["HELLO", "VMS", "TOTALS", "VMS", "TOTALS", "FAULTS"]
        assert messages[5].meta == {"dropped": 0}
        assert messages[5].arrays["records"]["begin_ns"].tolist() == [0, 1, 2, 3, 4]
        sequences = [message.sequence for message in messages]
        assert sequences == sorted(set(sequences))


def test_a_client_that_never_reads_is_bounded_and_hurts_nobody(bench: Bench) -> None:
    deaf, awake = bench.client(), bench.client()
    batch = fault_records(1000)
    seen = 0
    for _ in range(200):
        started = time.monotonic()
        bench.publisher.publish_faults(batch)
        bench.publisher.publish_totals(totals(False, 10_000), lambda: totals(True))
        assert time.monotonic() - started < 1, "publishing must not wait"
        seen += sum(len(message.arrays["records"]) for message in bench.received(awake) if message.kind is Kind.FAULTS)
    assert seen == 200_000, "the other client gets everything"
    slow = next(client for client in bench.publisher._clients if client.dropped)
    assert 0 < slow.buffered_bytes <= BUFFER
    assert bench.publisher.dropped == slow.dropped > 0
    assert bench.publisher.behind
    # Awake again: what was dropped is said, and counted to the last record; totals come whole.
    messages = bench.received(deaf)
    bench.publisher.publish_faults(batch)
    bench.publisher.publish_totals(totals(False), lambda: totals(True, 9))
    messages += bench.received(deaf)
    faults = [message for message in messages if message.kind is Kind.FAULTS]
    delivered = sum(len(message.arrays["records"]) for message in faults)
    assert faults[-1].meta["dropped"] == slow.dropped == 201_000 - delivered
    last = messages[-1]
    assert last.kind is Kind.TOTALS and last.meta["snapshot"] and len(last.arrays["cells"]) == 9
    assert not bench.publisher.behind
    bench.publisher.publish_totals(totals(False), lambda: totals(True))
    assert [message.meta["snapshot"] for message in bench.received(deaf)] == [False]


def test_no_changes_reach_a_client_that_still_needs_a_snapshot(bench: Bench) -> None:
    client = bench.client()
    bench.fill()
    bench.publisher.publish_totals(totals(False, 10_000), lambda: totals(True))
    assert bench.publisher.behind
    bench.publisher.publish_totals(totals(False), lambda: totals(True))
    later = [message for message in bench.received(client) if message.kind is Kind.TOTALS]
    assert [message.meta["snapshot"] for message in later] == [True], "only the welcome's"


def test_a_snapshot_bigger_than_the_buffer_still_arrives(make_bench: Callable[..., Bench]) -> None:
    big = make_bench(welcome_cells=2 * BUFFER // CELL_DTYPE.itemsize)
    client = big.client()
    messages = big.received(client)
    while big.publisher.behind:
        big.publisher.publish_totals(totals(False), lambda: big.welcome()[2])
        messages += big.received(client)
    snapshots = [message for message in messages if message.kind is Kind.TOTALS and message.meta["snapshot"]]
    assert len(snapshots[0].arrays["cells"]) == big.welcome_cells


def test_a_client_behind_with_the_vms_is_known_to_be(bench: Bench) -> None:
    client = bench.client()
    bench.fill()
    bench.publisher.publish_vms(vms(*range(10_000)))
    assert bench.publisher.behind
    bench.received(client)
    bench.publisher.publish_vms(vms(2))
    assert not bench.publisher.behind
    assert bench.received(client)[-1].meta == {"vms": [{"vm": 2}]}


def test_a_client_that_talks_is_closed_and_one_that_leaves_is_forgotten(bench: Bench) -> None:
    talker, leaver, quiet = bench.client(), bench.client(), bench.client()
    talker.send(b"x" * 10)
    bench.turn()
    assert bench.publisher.clients == 3
    talker.send(b"x" * MAX_INPUT_BYTES)
    bench.turn()
    leaver.close()
    bench.turn()
    assert bench.publisher.clients == 1
    bench.publisher.publish_vms(vms(1))
    assert kinds(bench.received(quiet))[-1] == "VMS"


def test_a_client_that_dies_while_it_is_written_to_is_forgotten(bench: Bench) -> None:
    client = bench.client()
    client.close()
    for _ in range(3):
        bench.publisher.publish_faults(fault_records(1000))
        bench.publisher.publish_totals(totals(False), lambda: totals(True))
        bench.publisher.publish_vms(vms(1))
    assert bench.publisher.clients == 0


def test_clients_without_end_are_refused(bench: Bench) -> None:
    for _ in range(MAX_CLIENTS):
        bench.client()
    extra = bench.client()
    assert bench.publisher.clients == MAX_CLIENTS
    assert extra.recv(10) == b""


def test_bye_comes_last_and_a_deaf_client_delays_it_by_a_moment_only(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(publisher_module, "_BYE_GRACE_S", 0.2)
    bench = Bench(tmp_path / "bye.sock")
    deaf, awake = bench.client(), bench.client()
    bench.received(awake)
    for _ in range(30):
        bench.publisher.publish_faults(fault_records(1000))
        bench.received(awake)
    started = time.monotonic()
    bench.publisher.close("SIGTERM")
    assert time.monotonic() - started < 5
    last = bench.received(awake)[-1]
    assert (last.kind, last.meta) == (Kind.BYE, {"reason": "SIGTERM"})
    assert not os.path.exists(bench.path)
    deaf.close()
    awake.close()
    bench.selector.close()


def test_the_socket_keeps_others_out(bench: Bench) -> None:
    assert stat.S_IMODE(os.stat(bench.path).st_mode) == 0o660
    assert stat.S_IMODE(os.stat(os.path.dirname(bench.path)).st_mode) == 0o750
    assert not os.get_inheritable(bench.selector.get_map()[next(iter(bench.selector.get_map()))].fd)


def test_without_descriptors_a_client_is_turned_away_and_wakes_nobody_up_again(tmp_path: Path) -> None:
    listener = Listener(str(tmp_path / "s.sock"))
    with selectors.DefaultSelector() as selector:
        publisher = Publisher(listener, selector, list)
        with socket.socket(socket.AF_UNIX) as client:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            client.connect(str(tmp_path / "s.sock"))
            lowest = os.dup(0)
            os.close(lowest)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))  # all that may be open are
            try:
                for key, mask in selector.select(1):
                    key.data(mask)
                assert not selector.select(0), "the client that waited is gone"
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert client.recv(1) == b"" and publisher.clients == 0
        publisher.close("x")
