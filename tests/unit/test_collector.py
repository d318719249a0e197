"""The whole collector on a kernel side made of memory files: what clients and recordings see."""

import gzip
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from exitscope_probes import observing
from exitscope_probes.collector import Collector
from exitscope_probes.discovery import Discovery
from exitscope_probes.histogram import BUCKETS
from exitscope_probes.ledger import LEDGER
from exitscope_probes.migration import Follower
from exitscope_probes.procfs import Proc
from exitscope_probes.recording import Recording
from exitscope_probes.records import SERIES
from exitscope_probes.socketfile import Listener
from exitscope_probes.wire import HEADER_BYTES, Kind, Message, decode_body, decode_header
from tests.unit.fakes import FakeProbes, fault_records
from tests.unit.test_discovery import FakeProc

TIMEOUT_S = 20


class Client:
    """Reads frames, and keeps what a server would."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(TIMEOUT_S)
        self.socket.connect(path)

    def read(self) -> Message:
        header = decode_header(self._bytes(HEADER_BYTES))
        return decode_body(header, self._bytes(header.rest_bytes))

    def until(self, kind: Kind, *, vm_state: str = "", records: int = 0) -> list[Message]:
        """Messages up to the first of this kind that shows a VM in this state, or so many records in all."""
        messages, seen = [], 0
        while True:
            message = self.read()
            messages.append(message)
            if message.kind is Kind.FAULTS:
                seen += len(message.arrays["records"])
            states = [vm["state"] for vm in message.meta.get("vms", [])]
            if message.kind is kind and (not vm_state or vm_state in states) and seen >= records:
                return messages

    def _bytes(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            chunk = self.socket.recv(count - len(data))
            if not chunk:
                raise EOFError
            data += chunk
        return data


class Running:
    """A collector in a thread, on fake probes and a fake /proc with one VM in it."""

    def __init__(self, directory: Path) -> None:
        self.probes = FakeProbes()
        self.proc = FakeProc(directory / "proc")
        self.proc.process(100, exe="/usr/bin/firecracker", arguments=("firecracker", "--id", "vm-7"))
        self.probes.add_vm(1, 100, {2: 101, 5: 102}, vm_slot=3)
        self.path = str(directory / "c.sock")
        self.recording = directory / "run.gz"
        recording = Recording(str(self.recording), 60)
        self.collector = Collector(self.probes, Listener(self.path), recording)  # type: ignore[arg-type]
        self.thread = threading.Thread(target=self.collector.run, daemon=True)

    def start(self) -> Client:
        self.thread.start()
        return Client(self.path)

    def stop(self) -> None:
        self.collector.stop("the test ends")
        self.thread.join(TIMEOUT_S)
        assert not self.thread.is_alive()


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    (tmp_path / "proc").mkdir()
    proc = Proc(tmp_path / "proc")
    monkeypatch.setattr(observing, "Discovery", partial(Discovery, proc))
    monkeypatch.setattr(observing, "Follower", partial(Follower, proc=proc))
    run = Running(tmp_path)
    yield run
    if run.thread.is_alive():
        run.stop()
    run.probes.close()


def test_a_client_sees_vm_totals_and_records(running: Running) -> None:
    probes = running.probes
    probes.fault(2, 0, 100, 3)
    sent = fault_records(1000, vm=1, handler_tid=9)
    for record in sent[:500]:
        probes.ring.put(record.tobytes())
    client = running.start()
    messages = client.until(Kind.VMS, vm_state="running")
    hello = messages[0]
    assert hello.kind is Kind.HELLO and hello.meta["max_vcpus"] == probes.max_vcpus
    assert [hook["status"] for hook in hello.meta["capabilities"]["hooks"]] == [
        "attached",
        "missing",
        "missing",
    ]
    vm = messages[-1].meta["vms"][0]
    assert (vm["id"], vm["name"], vm["vmm"], vm["state"]) == ("100-777", "vm-7", "Firecracker", "running")
    assert [(vcpu["vcpu"], vcpu["slot"], vcpu["tid"]) for vcpu in vm["vcpus"]] == [(0, 2, 101), (1, 5, 102)]
    for record in sent[500:]:
        assert probes.ring.put(record.tobytes()) is not None
    messages += client.until(Kind.TOTALS)
    totals = [message for message in messages if message.kind is Kind.TOTALS][-1]
    assert totals.arrays["slots"].tolist() == [2, 5]
    assert totals.arrays["vms"][["kvm", "mm"]].tolist() == [(0, 0)]
    assert tuple(totals.meta["loss"]) == LEDGER
    assert totals.meta["loss"]["hook_missing"] == 1
    cells: dict[int, int] = {}
    for message in messages:
        if message.kind is Kind.TOTALS:
            cells |= dict(message.arrays["cells"].tolist())
    assert cells == {2 * SERIES * BUCKETS + 100: 3}
    running.stop()
    rest = client.until(Kind.BYE)
    assert rest[-1].meta == {"reason": "the test ends"}
    assert not os.path.exists(running.path)
    # The recording has everything, whatever a client missed before it connected.
    recorded = read_recording(running.recording)
    assert [message.kind for message in (recorded[0], recorded[-1])] == [Kind.HELLO, Kind.BYE]
    records = np.concatenate([m.arrays["records"] for m in recorded if m.kind is Kind.FAULTS])
    assert np.array_equal(records, sent)


def test_a_gone_vm_is_told_once_with_its_last_totals_and_its_slots_are_freed(running: Running) -> None:
    probes = running.probes
    client = running.start()
    client.until(Kind.VMS, vm_state="running")
    probes.fault(5, 1, 7, 4)
    probes.ring.put(fault_records(1, vm=1, begin_ns=77)[0].tobytes())
    (running.proc.root / "100").rename(running.proc.root / "ended")
    messages = client.until(Kind.VMS, vm_state="gone")
    cells: dict[int, int] = {}
    for message in messages:
        if message.kind is Kind.TOTALS:
            cells |= dict(message.arrays["cells"].tolist())
    assert cells == {(5 * SERIES + 1) * BUCKETS + 7: 4}
    assert any(message.kind is Kind.FAULTS for message in messages), "its last records come before its end"
    assert messages[-1].meta["vms"][0]["name"] == "vm-7"
    assert client.until(Kind.VMS)[-1].meta["vms"] == []
    assert len(client.until(Kind.TOTALS)[-1].arrays["vcpus"]) == 0
    assert sorted(probes.freed) == [("vcpu", 2), ("vcpu", 5), ("vm", 3)]
    # The slots serve another VM, whose counts begin at nothing.
    running.proc.process(200)
    probes.add_vm(2, 200, {5: 201}, vm_slot=3)
    probes.fault(5, 1, 7, 1)
    messages = client.until(Kind.VMS, vm_state="running")
    messages += client.until(Kind.TOTALS)
    assert messages[-1].arrays["vcpus"]["vm"].tolist() == [2]
    assert messages[-1].arrays["cells"].tolist() == [((5 * SERIES + 1) * BUCKETS + 7, 1)]


def look(collector: Collector) -> None:
    """Let the collector find out what is to be found now."""
    collector._tick()
    deadline = time.monotonic() + TIMEOUT_S
    while collector._observer.asked:
        assert time.monotonic() < deadline
        for key, mask in collector._selector.select(0.1):
            key.data(mask)


def test_what_happens_after_a_vm_is_found_gone_still_comes_before_its_end(running: Running) -> None:
    """Its last threads may be ending while its process is already out of /proc."""
    collector, probes = running.collector, running.probes
    look(collector)
    collector._tick()
    (running.proc.root / "100").rename(running.proc.root / "ended")
    collector._asked_ns = 0
    look(collector)
    collector._tick()
    probes.fault(5, 1, 7)
    probes.ring.put(fault_records(1, vm=1)[0].tobytes())
    collector._tick()
    collector._publisher.close("x")
    assert collector._recording
    collector._recording.close("x")
    messages = read_recording(running.recording)
    states = [vm["state"] for message in messages for vm in message.meta.get("vms", [])]
    assert states.count("gone") == 1 and states[-1] == "gone"
    end = next(i for i, message in enumerate(messages) if "gone" in str(message.meta.get("vms")))
    before = messages[:end]
    assert any(message.kind is Kind.FAULTS for message in before)
    assert any(message.kind is Kind.TOTALS and len(message.arrays["cells"]) for message in before)


def test_a_late_client_gets_a_snapshot(running: Running) -> None:
    first = running.start()
    first.until(Kind.VMS, vm_state="running")
    running.probes.fault(2, 0, 100, 3)
    while not len(first.until(Kind.TOTALS)[-1].arrays["cells"]):
        pass
    assert not len(first.until(Kind.TOTALS)[-1].arrays["cells"]), "nothing changes any more"
    late = Client(running.path)
    hello, vms, totals = late.read(), late.read(), late.read()
    assert [message.kind for message in (hello, vms, totals)] == [Kind.HELLO, Kind.VMS, Kind.TOTALS]
    assert vms.meta["vms"][0]["name"] == "vm-7"
    assert totals.meta["snapshot"] and totals.arrays["cells"].tolist() == [(2 * SERIES * BUCKETS + 100, 3)]


def test_what_is_known_of_migrations_goes_to_every_client_and_into_the_recording(running: Running) -> None:
    first = running.start()
    said = first.until(Kind.MIGRATION)[-1].meta
    assert (said["vm"], said["id"], said["follow"]) == (1, "100-777", "absent")
    assert "Firecracker has no monitor" in said["reason"] and said["status"] is None
    late = Client(running.path).until(Kind.MIGRATION)
    assert [message.kind for message in late] == [Kind.HELLO, Kind.VMS, Kind.TOTALS, Kind.MIGRATION]
    assert late[-1].meta == said
    running.stop()
    recorded = [message.meta for message in read_recording(running.recording) if message.kind is Kind.MIGRATION]
    assert recorded == [said]


def test_a_garbled_ring_is_counted_and_left_behind(running: Running) -> None:
    client = running.start()
    client.until(Kind.VMS, vm_state="running")
    running.probes.ring.put(b"\xff" * 40)
    running.probes.ring.put(fault_records(1)[0].tobytes())
    messages = client.until(Kind.TOTALS, records=1)
    assert messages[-1].meta["loss"]["ring_error"] == 1


def test_a_recording_ends_by_itself(tmp_path: Path) -> None:
    recording = Recording(str(tmp_path / "r.gz"), 0)
    recording.write(Message(Kind.VMS, 1, {"vms": []}))
    assert recording.over
    recording.write(Message(Kind.VMS, 1, {"vms": []}))
    assert [message.kind for message in read_recording(tmp_path / "r.gz")] == [Kind.BYE]


def read_recording(path: Path) -> list[Message]:
    messages = []
    with gzip.open(path) as file:
        while head := file.read(HEADER_BYTES):
            header = decode_header(head)
            messages.append(decode_body(header, file.read(header.rest_bytes)))
    return messages


def test_totals_go_on_while_nobody_looks_at_processes_and_another_looks_again(running: Running) -> None:
    client = running.start()
    client.until(Kind.VMS, vm_state="running")
    observer = running.collector._observer
    first = observer._pid
    os.kill(first, signal.SIGSTOP)  # as if a process held it up
    client.until(Kind.TOTALS)
    running.probes.fault(2, 0, 100, 3)
    while not len(client.until(Kind.TOTALS)[-1].arrays["cells"]):
        pass
    os.kill(first, signal.SIGKILL)
    deadline = time.monotonic() + TIMEOUT_S
    while observer._pid == first:
        assert time.monotonic() < deadline
        client.read()
    (vm,) = client.until(Kind.VMS, vm_state="running")[-1].meta["vms"]
    assert (vm["id"], vm["name"]) == ("100-777", "vm-7"), "its id is kept"


def test_a_vm_without_a_vcpu_that_ends_at_once_is_no_vm(running: Running) -> None:
    """A VMM's test of what KVM can do."""
    client = running.start()
    client.until(Kind.VMS, vm_state="running")
    running.probes.add_vm(2, 9999, {}, vm_slot=1)  # its process is gone already
    deadline = time.monotonic() + TIMEOUT_S
    seen: set[int] = set()
    while ("vm", 1) not in running.probes.freed:
        assert time.monotonic() < deadline
        seen |= {vm["vm"] for vm in client.read().meta.get("vms", [])}
    assert seen == {1}
