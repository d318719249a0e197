"""How a server's memory goes over an hour of load: python -m tests.bench.soak [minutes] [vCPUs] [faults/s].

A collector of this file's own feeds a real `exitscope serve`; meanwhile pages are connected with three windows,
/metrics is scraped, and recordings are made. Prints the server's resident memory every minute.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import Request, urlopen

import numpy as np
import numpy.typing as npt
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from exitscope_probes.histogram import BUCKETS, bucket_of
from exitscope_probes.isolated import python
from exitscope_probes.records import FAULT_DTYPE, FILLS, SERIES
from exitscope_probes.wire import Message, encode
from tests.unit.frames import FakeVm, Feeder

_VMS = 16
_STEP_S = 0.2
_SERIES = (0, 5, 6, 7, 8, 9)  # uffd, and its stages
_WINDOWS = ("10s", "1m", "15m")
_EXITS = np.array((0x40, 0x60, 0x7B, 0x7C, 0x78, 0x72))  # a running guest's
_RECORDING_S = 40
_SCRAPE_S = 15
_REPORT_S = 60


class Collector:
    """Speaks the protocol to any number of servers and recorders."""

    def __init__(self, vcpus: int, faults_per_s: int) -> None:
        self._random = np.random.default_rng(1)
        self._feeder = Feeder(time.monotonic_ns(), max_vcpus=vcpus)
        self._vms = [self._feeder.add_vm(number + 1, vcpus // _VMS) for number in range(_VMS)]
        self._each = int(faults_per_s * _STEP_S)
        self._writers: set[asyncio.StreamWriter] = set()

    async def connected(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for message in self._feeder.welcome():
            writer.write(encode(message))
        self._writers.add(writer)

    async def run(self) -> None:
        """A step five times a second, for ever."""
        due = time.monotonic()
        while True:
            self._send([*self._step(), self._feeder.totals(max(time.monotonic_ns() - self._feeder.time_ns, 1))])
            if int(due) != int(due + _STEP_S):
                self._send([self._feeder.vms_message()])
            due = max(due + _STEP_S, time.monotonic() - 1)
            await asyncio.sleep(due - time.monotonic())

    def _send(self, messages: list[Message]) -> None:
        data = b"".join(map(encode, messages))
        for writer in list(self._writers):
            if writer.is_closing():
                self._writers.discard(writer)
            elif writer.transport.get_write_buffer_size() < 64 << 20:
                writer.write(data)

    def _step(self) -> list[Message]:
        """What the kernel counts in one step, and its records."""
        feeder, random, count = self._feeder, self._random, self._each
        slots = random.integers(0, len(feeder.vcpus), count)
        latencies = (random.exponential(300_000, count) + 20_000).astype(np.int64)
        for series in _SERIES:
            self._count(slots, series, latencies // (1 + series))
        np.add.at(feeder.vcpus["stall_ns"], slots, latencies.astype(np.uint64))
        exits = random.integers(0, 200, (len(feeder.vcpus), len(_EXITS))).astype(np.uint64)
        for column, cell in enumerate(_EXITS):
            feeder.hardware["count"][:, cell] += exits[:, column]
            feeder.hardware["sum_ns"][:, cell] += exits[:, column] * np.uint64(1700)
            feeder.hardware["max_ns"][:, cell] = 90_000
        for vm in self._vms:
            vm.totals["fills_demand"][FILLS.index("COPY")] += np.uint64(count // _VMS)
        return [self._records(self._vms[0], slots, latencies)]

    def _count(self, slots: npt.NDArray[np.int64], series: int, latencies: npt.NDArray[np.int64]) -> None:
        feeder, lengths = self._feeder, latencies.astype(np.uint64)
        buckets = bucket_of(lengths)
        np.add.at(feeder.buckets.reshape(-1), (slots * SERIES + series) * BUCKETS + buckets, np.uint64(1))
        feeder.changed[slots, series, buckets] = True
        counted = feeder.vcpus["series"][:, series]
        np.add.at(counted["count"], slots, np.uint64(1))
        np.add.at(counted["sum_ns"], slots, lengths)
        np.maximum.at(counted["max_ns"], slots, lengths)

    def _records(self, vm: FakeVm, slots: npt.NDArray[np.int64], latencies: npt.NDArray[np.int64]) -> Message:
        message = self._feeder.records(vm, latencies.tolist())
        records, random = message.arrays["records"], self._random
        per_vm = len(self._feeder.vcpus) // _VMS
        records["vm"], records["vcpu"] = slots // per_vm + 1, slots % per_vm
        records["tid"], records["handler_tid"] = 9000 + slots, random.integers(100, 104, len(slots))
        records["gpa"] = random.integers(0, 1 << 34, len(slots)) & ~0xFFF
        records["memslot"] = random.integers(0, 3, len(slots))
        assert records.dtype == FAULT_DTYPE
        return message


async def page(port: int, window: str) -> None:
    """A page that reads for ever."""
    while True:
        with suppress(OSError, ConnectionClosed):
            async with connect(f"ws://127.0.0.1:{port}/api/v1/live?vm=all&window={window}", max_size=None) as live:
                async for _ in live:
                    pass
        await asyncio.sleep(1)


def ask(port: int, path: str, method: str = "GET", body: object = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    request = Request(f"http://127.0.0.1:{port}{path}", data, {"content-type": "application/json"}, method=method)
    with urlopen(request, timeout=60) as answer:
        read: bytes = answer.read()
    return read


async def scrape(port: int) -> None:
    while True:
        await asyncio.sleep(_SCRAPE_S)
        with suppress(OSError):
            await asyncio.to_thread(ask, port, "/metrics")


async def record(port: int) -> None:
    """Start, stop, summarize and delete, for ever."""
    while True:
        await asyncio.sleep(_RECORDING_S)
        with suppress(OSError):
            made = json.loads(await asyncio.to_thread(ask, port, "/api/v1/recordings", "POST", {"name": "soak"}))["id"]
            await asyncio.sleep(_RECORDING_S)
            await asyncio.to_thread(ask, port, f"/api/v1/recordings/{made}/stop", "POST", {})
            await asyncio.sleep(5)
            await asyncio.to_thread(ask, port, f"/api/v1/recordings/{made}/summary")
            await asyncio.to_thread(ask, port, f"/api/v1/recordings/{made}", "DELETE")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


def resident(pid: int) -> dict[str, int]:
    """RssAnon, RssFile and VmHWM in MB."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return {name: int(lines[name].split()[0]) // 1024 for name in ("VmRSS", "RssAnon", "RssFile", "VmHWM")}


async def soak(minutes: int, vcpus: int, faults_per_s: int) -> None:
    collector, port = Collector(vcpus, faults_per_s), free_port()
    with TemporaryDirectory() as folder:
        path = f"{folder}/collector.sock"
        listening = await asyncio.start_unix_server(collector.connected, path)
        os.chmod(folder, 0o777)  # root's server becomes another user
        os.chmod(path, 0o666)
        server = subprocess.Popen(
            [*python("exitscope"), "serve", "--socket", path, "--port", str(port), "--recordings", f"{folder}/kept"],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        tasks = [collector.run(), scrape(port), record(port), *(page(port, window) for window in _WINDOWS)]
        running = [asyncio.create_task(task) for task in tasks]
        try:
            for second in range(0, minutes * 60 + 1, _REPORT_S):
                shown = " ".join(f"{name} {size}" for name, size in resident(server.pid).items())
                ended = [repr(task.exception()) for task in running if task.done()]
                print(f"{second:5} s  {shown} MB  load {os.getloadavg()[0]:.1f} {ended or ''}", flush=True)
                await asyncio.sleep(_REPORT_S)
        finally:
            for task in running:
                task.cancel()
            server.terminate()
            server.wait()
            listening.close()


if __name__ == "__main__":
    asyncio.run(soak(*map(int, (*sys.argv[1:], *("50", "1024", "20000")[len(sys.argv) - 1 :]))))
