"""A client of the collector's socket, as simple as can be, and a collector process to connect to."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exitscope_probes.isolated import python
from exitscope_probes.records import FAULT_DTYPE, VCPU_DTYPE, VM_DTYPE
from exitscope_probes.wire import HEADER_BYTES, Kind, Message, decode_body, decode_header
from tests.kernel.harness import TIMEOUT_S, Report

_PROBES = Path(__file__).parents[2] / "probes"


class Client:
    """Reads frames when asked to, and keeps the last that each VM and vCPU was said to be."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(TIMEOUT_S)
        self._socket.connect(str(path))
        self.hello: dict[str, Any] = {}  # empty until it has been read
        self.bye: str | None = None
        self.loss: dict[str, int] = {}
        self.vms: dict[int, dict[str, Any]] = {}  # VM number -> its entry in VMS
        self.migrations: list[dict[str, Any]] = []  # what MIGRATION said, all of it
        self._vm_rows: dict[int, Any] = {}
        self._rows: dict[tuple[int, int], Any] = {}  # (VM number, tid) -> VCPU_DTYPE
        self._records: list[npt.NDArray[Any]] = []
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def read(self) -> Message:
        """The next frame, taken note of; frames come in order, and none is missing."""
        header = decode_header(self._receive(HEADER_BYTES))
        message = decode_body(header, self._receive(header.rest_bytes))
        assert message.sequence > self._sequence
        self._sequence = message.sequence
        if message.kind is Kind.HELLO:
            self.hello = message.meta
        elif message.kind is Kind.BYE:
            self.bye = message.meta["reason"]
        elif message.kind is Kind.VMS:
            self.vms |= {vm["vm"]: vm for vm in message.meta["vms"]}
        elif message.kind is Kind.TOTALS:
            self.loss = message.meta["loss"]
            self._vm_rows |= {int(row["vm"]): row for row in message.arrays["vms"]}
            self._rows |= {(int(row["vm"]), int(row["tid"])): row for row in message.arrays["vcpus"]}
        elif message.kind is Kind.MIGRATION:
            self.migrations.append(message.meta)
        else:
            assert message.meta["dropped"] == 0
            self._records.append(message.arrays["records"])
        return message

    def read_until(self, condition: Any, what: str) -> None:
        """Read until condition() holds; it is asked after every frame."""
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline, f"never: {what}"
            self.read()

    def vm_of(self, pid: int) -> dict[str, Any] | None:
        """What VMS said last of the only VM of a process."""
        own = [vm for vm in self.vms.values() if vm["pid"] == pid]
        assert len(own) <= 1
        return own[0] if own else None

    def is_gone(self, pid: int) -> bool:
        """Whether its VM was said to have ended."""
        vm = self.vm_of(pid)
        return vm is not None and vm["state"] == "gone"

    def vm_row(self, pid: int) -> Any:
        """The last VM_DTYPE of a process's VM."""
        vm = self.vm_of(pid)
        assert vm is not None
        return self._vm_rows.get(vm["vm"], np.zeros((), VM_DTYPE))

    def rows(self, pid: int) -> npt.NDArray[Any]:
        """The last VCPU_DTYPE of each of its vCPUs, by vcpu."""
        vm = self.vm_of(pid)
        own = [row for (number, _), row in self._rows.items() if vm and number == vm["vm"]]
        return np.array(sorted(own, key=lambda row: row["vcpu"]), VCPU_DTYPE)

    def records(self, pid: int) -> npt.NDArray[Any]:
        """All records of its VM so far."""
        vm = self.vm_of(pid)
        records = np.concatenate([np.empty(0, FAULT_DTYPE), *self._records])
        own: npt.NDArray[Any] = records[records["vm"] == (vm["vm"] if vm else 0)]
        return own

    def faults(self, pid: int, mode: int) -> list[int]:
        """Finished faults of each of its vCPUs, by the last totals."""
        counts: list[int] = self.rows(pid)["series"]["count"][:, mode].tolist()
        return counts

    def _receive(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = self._socket.recv(count - len(data))
            assert piece, "the collector has closed the connection"
            data += piece
        return bytes(data)


def assert_told(client: Client, report: Report, mode: int) -> None:
    """All that went over the wire about an ended guest is what the guest says itself."""
    pid = report["pid"]
    assert client.faults(pid, mode) == [vcpu["faults"] for vcpu in report["vcpus"]]
    assert client.rows(pid)["tid"].tolist() == [vcpu["tid"] for vcpu in report["vcpus"]]
    assert client.vm_row(pid)["events_read"] == report["events_read"]
    assert client.vm_row(pid)["fills_demand"].sum() == report["fills"]["demand"]
    records = client.records(pid)
    assert np.array_equal(
        np.bincount(records["vcpu"], minlength=len(report["vcpus"])), [vcpu["faults"] for vcpu in report["vcpus"]]
    )


def welcomed(path: Path) -> Client:
    """A client that has read HELLO."""
    client = Client(path)
    client.read_until(lambda: client.hello, "HELLO")
    return client


def command(path: Path, *options: object) -> list[str]:
    """A collector of the VMs of this test session alone."""
    ours = ("--only-pid-tree", os.getpid())
    return python("exitscope_probes", "collect", "--socket", str(path), *map(str, (*ours, *options)))


@contextmanager
def collecting(path: Path, *options: object, wrapper: Sequence[str] = ()) -> Iterator["subprocess.Popen[str]"]:
    """A collector that serves on the path; killed at the end if it still runs. wrapper: executes what follows it."""
    with subprocess.Popen(
        [*wrapper, *command(path, *options)], cwd=_PROBES, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            connect(path, process).close()
            yield process
        finally:
            process.kill()


def connect(path: Path, process: "subprocess.Popen[str]") -> Client:
    """A client that has been welcomed. The socket is there before the probes are: the welcome takes seconds."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stderr and process.stderr.read()
        with suppress(FileNotFoundError, ConnectionRefusedError):
            return welcomed(path)
        time.sleep(0.02)
    raise AssertionError(f"nobody listens on {path}")
