"""A collector of synthetic faults as a process of its own: `python -m tests.unit.fake_collector SOCKET [PER_SECOND]`.

One VM, id "fake-1", 2 vCPUs. Fault number n (hva n * 4096) begins and ends when it is made; numbers go on as long as
the process lives. Ends on SIGTERM, with a BYE.
"""

import os
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import Any

import numpy as np

from exitscope_probes.wire import Kind, Message, encode

from .frames import Feeder

LATENCY_NS = 1000


class FakeCollector:
    """Serves any number of clients from `step`, which is to be called every few ms."""

    def __init__(self, path: str, per_second: int = 1000, incompressible: bool = False) -> None:
        with suppress(FileNotFoundError):
            os.unlink(path)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(8)
        self._listener.setblocking(False)
        self.feeder = Feeder(time.monotonic_ns())
        self.vm = self.feeder.add_vm(1, 2, id="fake-1")
        self.made = 0
        self._per_second = per_second
        self._random = np.random.default_rng(1) if incompressible else None
        self._started = time.monotonic()
        self._totals_due = 0.0
        self._clients: list[socket.socket] = []
        self._answers: dict[int, Message] = {}  # VM number -> its newest MIGRATION: a new client gets it, too

    def step(self) -> None:
        """Take new clients; send the faults that are due, and the totals when they are."""
        with suppress(BlockingIOError):
            client, _ = self._listener.accept()
            client.settimeout(5)
            self._clients.append(client)
            welcome = (*self.feeder.welcome(), *self._answers.values())
            self._send([client], *(self._now(message) for message in welcome))
        now = time.monotonic()
        count = int((now - self._started) * self._per_second) - self.made
        if count > 0:
            self._faults(count)
        if now >= self._totals_due:
            self._totals_due = now + 0.2
            message = self._now(self.feeder.totals(0))
            self._send(self._clients, self._now(self.feeder.vms_message()), message)

    def answer(self, **meta: Any) -> None:
        """VM 1 says this of its migration, or the VM of meta does."""
        said: dict[str, Any] = {"vm": 1, "id": "fake-1", "follow": "followed", "at_ns": time.monotonic_ns()} | meta
        message = self._answers[said["vm"]] = Message(Kind.MIGRATION, time.monotonic_ns(), said)
        self._send(self._clients, message)

    def close(self, reason: str | None = "the test ends") -> None:
        """With a BYE, or None: without."""
        if reason is not None:
            self._send(self._clients, Message(Kind.BYE, time.monotonic_ns(), {"reason": reason}))
        for one in (*self._clients, self._listener):
            one.close()

    def _faults(self, count: int) -> None:
        self.feeder.time_ns = time.monotonic_ns()
        message = self.feeder.records(self.vm, [LATENCY_NS] * count, vcpu=0, tid=9000)
        records = message.arrays["records"]
        records["hva"] = np.arange(self.made, self.made + count) * 4096
        if self._random is not None:
            records["exit_flags"] = self._random.integers(0, 1 << 62, count)
        self.feeder.faults(self.vm, 0, np.full(count, LATENCY_NS))
        self.made += count
        self._send(self._clients, message)

    def _now(self, message: Message) -> Message:
        meta = message.meta
        if message.kind is Kind.TOTALS:
            meta = meta | {"polled_ns": time.monotonic_ns()}
        return Message(message.kind, time.monotonic_ns(), meta, message.arrays)

    def _send(self, clients: list[socket.socket], *messages: Message) -> None:
        data = b"".join(map(encode, messages))
        for client in list(clients):
            try:
                client.sendall(data)
            except OSError:
                client.close()
                if client in self._clients:
                    self._clients.remove(client)


def main() -> None:
    collector = FakeCollector(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1000)
    ending = []
    signal.signal(signal.SIGTERM, lambda *_: ending.append(True))
    while not ending:
        collector.step()
        time.sleep(0.005)
    collector.close()


if __name__ == "__main__":
    main()
