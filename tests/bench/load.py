"""CPU of collector and server while real guests fault, at the rate that this machine reaches and at 100,000/s."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.request import urlopen

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from exitscope_probes.procfs import Proc
from tests.bench.figure import Effort, Row, Spread
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
_TOLD_S = 1.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_NAMES = ("collector", "server")


@dataclass(frozen=True)
class Load:
    """rate: faults per second; shares: of a core, by process; faults: by the guests' count; seen: by the server's."""

    rate: float
    shares: tuple[float, ...]
    faults: int
    seen: int

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
    with ExitStack() as running:
        socket = running.enter_context(socket_path())
        collecting = running.enter_context(collector(socket))
        serving, address = running.enter_context(server(socket))
        running.enter_context(_client(address))
        processes = (collecting, serving)
        settle(1.0)
        for _ in range(effort.rounds(ROUNDS)):
            slow = undisturbed(lambda: _load(processes, address, _SLOW_PAGES, "--think-us", _THINK_US))
            fast = undisturbed(lambda: _load(processes, address, _PAGES, "--rounds", _PASSES))
            fast_loads.append(fast)
            on_line.append(fast.at(RATE, slow))
        lost = {name: count for name, count in _get(address, "loss").items() if count}
    ran, seen = sum(load.faults for load in fast_loads), sum(load.seen for load in fast_loads)
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
        + f"; saw {seen:,} of {ran:,} faults, loss ledger {lost or 'empty'}",
    )


def _load(processes: tuple[subprocess.Popen[str], ...], address: str, pages: int, *options: object) -> Load:
    """GUESTS guests in exit mode at once, from start to end."""
    command = ("--mode", "exit", "--vcpus", _VCPUS, "--pages", pages, *options)
    before = [_cpu_s(process.pid) for process in processes]
    started = time.monotonic()
    with ThreadPoolExecutor(GUESTS) as pool:
        reports = list(pool.map(lambda _: run_guest(*command), range(GUESTS)))
    settle()  # what is still in the ring
    passed_s = time.monotonic() - started
    spent = [_cpu_s(process.pid) - was for process, was in zip(processes, before, strict=True)]
    faults = {report["pid"]: faults_of(report) for report in reports}
    settle(_TOLD_S)
    seen = sum(vm["faults"]["exit"] for vm in _get(address, "vms")["vms"] if vm["pid"] in faults)
    ran = sum(faults.values())
    return Load(ran / passed_s, tuple(cpu_s / passed_s for cpu_s in spent), ran, seen)


def _cpu_s(pid: int) -> float:
    """utime and stime, proc_pid_stat(5), of all threads."""
    fields = (Proc().text(pid, "stat") or "").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _get(address: str, what: str) -> dict[str, Any]:
    with urlopen(f"http://{address}/api/v1/{what}", timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


@contextmanager
def _client(address: str) -> Iterator[None]:
    """A page's stand-in, that reads all that it is sent."""
    with connect(f"ws://{address}/api/v1/live", max_size=None) as stream:

        def read() -> None:
            with suppress(ConnectionClosed):
                for _ in stream:
                    pass

        reading = threading.Thread(target=read, daemon=True)
        reading.start()
        yield
