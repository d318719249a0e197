"""CPU of collector and server while real guests fault, at the rate that this machine reaches and at 100,000/s."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.request import urlopen

from exitscope_probes.procfs import Proc
from tests.bench.figure import BenchError, Effort, Row, Spread
from tests.bench.guests import faults_of, run_guest, settle, undisturbed
from tests.bench.tracers import collector, server, socket_path

ROUNDS = 5
RATE = 100_000
TARGET = 0.25
GUESTS = 2
_PAGES = 60_000
_PASSES = 3
_VCPUS = 4
_THINK_US = 2_000
_SLOW_PAGES = 16_000
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_NAMES = ("collector", "server")


@dataclass(frozen=True)
class Load:
    """faults per second, and each process's share of a core meanwhile."""

    rate: float
    shares: tuple[float, ...]

    @property
    def total(self) -> float:
        """Share of a core, all processes."""
        return sum(self.shares)

    def at(self, rate: float, slow: "Load") -> float:
        """The total at another rate, on the line through this load and a slow one."""
        return slow.total + (self.total - slow.total) * (rate - slow.rate) / (self.rate - slow.rate)


def rows(effort: Effort) -> Iterator[Row]:
    fast_loads: list[Load] = []
    on_line: list[float] = []
    ran: dict[int, int] = {}
    with ExitStack() as running:
        socket = running.enter_context(socket_path())
        collecting = running.enter_context(collector(socket))
        serving, address = running.enter_context(server(socket))
        running.enter_context(_client(address))
        processes = (collecting, serving)
        settle(1.0)
        for _ in range(effort.rounds(ROUNDS)):
            slow = undisturbed(lambda: _load(processes, ran, _SLOW_PAGES, "--think-us", _THINK_US))
            fast = undisturbed(lambda: _load(processes, ran, _PAGES, "--rounds", _PASSES))
            fast_loads.append(fast)
            on_line.append(fast.at(RATE, slow))
        settle(2.0)
        seen, lost = _seen(address, ran), _lost(address)
    rate = Spread.of([load.rate for load in fast_loads])
    share = Spread.of([load.total * RATE / load.rate for load in fast_loads])
    each = zip(_NAMES, zip(*(load.shares for load in fast_loads), strict=True), strict=True)
    yield Row(
        f"collector + server CPU at {RATE:,} faults/s, one page connected, share of a core",
        f"{share:.0%}",
        f"≤ {TARGET:.0%}",
        share.middle <= TARGET,
        f"in proportion, from {rate.middle:,.0f}/s, which is all that guests reach here: an upper bound; "
        f"on a line through two measured rates {Spread.of(on_line):.0%}",
    )
    yield Row(
        f"the same as measured, at {rate:,.0f} faults/s",
        f"{Spread.of([load.total for load in fast_loads]):.0%}",
        remark=", ".join(f"{name} {Spread.of(shares):.1%}" for name, shares in each)
        + f"; saw {seen:,} of {sum(ran.values()):,} faults, loss ledger {lost or 'empty'}",
    )


def _load(processes: tuple[subprocess.Popen[str], ...], ran: dict[int, int], pages: int, *options: object) -> Load:
    """GUESTS guests in exit mode at once, from start to end; adds {pid: faults} to `ran`."""
    reports: list[dict[str, Any]] = []
    command = ("--mode", "exit", "--vcpus", _VCPUS, "--pages", pages, *options)
    threads = [threading.Thread(target=lambda: reports.append(run_guest(*command))) for _ in range(GUESTS)]
    before = [_cpu_s(process.pid) for process in processes]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    settle()  # what is still in the ring
    passed_s = time.monotonic() - started
    spent = [_cpu_s(process.pid) - was for process, was in zip(processes, before, strict=True)]
    if len(reports) < GUESTS:
        raise BenchError("a guest failed")
    faults = {report["pid"]: faults_of(report) for report in reports}
    ran |= faults
    return Load(sum(faults.values()) / passed_s, tuple(cpu_s / passed_s for cpu_s in spent))


def _cpu_s(pid: int) -> float:
    """utime and stime, proc_pid_stat(5), of all threads."""
    fields = (Proc().text(pid, "stat") or "").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _seen(address: str, ran: dict[int, int]) -> int:
    """Exit faults that the server knows of these processes."""
    return sum(vm["faults"]["exit"] for vm in _get(address, "vms")["vms"] if vm["pid"] in ran)


def _lost(address: str) -> dict[str, int]:
    """What the loss ledger says, without zeros."""
    return {name: count for name, count in _get(address, "loss").items() if count}


def _get(address: str, what: str) -> dict[str, Any]:
    with urlopen(f"http://{address}/api/v1/{what}", timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


@contextmanager
def _client(address: str) -> Iterator[list[int]]:
    """A page's stand-in: the sizes of the messages that it got."""
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    sizes: list[int] = []
    with connect(f"ws://{address}/api/v1/live", max_size=None, open_timeout=10) as stream:

        def read() -> None:
            try:
                sizes.extend(len(message) for message in stream)
            except ConnectionClosed:
                return

        reading = threading.Thread(target=read, daemon=True)
        reading.start()
        yield sizes
    reading.join(5)
