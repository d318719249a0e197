"""CPU of collector and server while real guests fault, at the rate that this machine reaches and at 100,000/s."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from urllib.request import urlopen

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
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_NAMES = ("collector", "server")


@dataclass(frozen=True)
class Load:
    """faults per second, and each process's share of a core meanwhile."""

    rate: float
    shares: tuple[float, ...]

    def at(self, rate: float, slow: "Load") -> tuple[float, ...]:
        """Shares at another rate, on the line through this load and a slow one."""
        steps = (rate - slow.rate) / (self.rate - slow.rate)
        return tuple(low + (high - low) * steps for low, high in zip(slow.shares, self.shares, strict=True))


def rows(effort: Effort) -> Iterator[Row]:
    fast_loads: list[Load] = []
    extrapolated: list[tuple[float, ...]] = []
    proportional: list[float] = []
    with ExitStack() as running:
        socket = running.enter_context(socket_path())
        collecting = running.enter_context(collector(socket))
        serving, address = running.enter_context(server(socket))
        frames = running.enter_context(_client(address))
        processes = (collecting, serving)
        settle(1.0)
        for _ in range(effort.rounds(ROUNDS)):
            slow = undisturbed(lambda: _load(processes, _SLOW_PAGES, "--think-us", _THINK_US))
            fast = undisturbed(lambda: _load(processes, _PAGES, "--rounds", _PASSES))
            fast_loads.append(fast)
            extrapolated.append(fast.at(RATE, slow))
            proportional.append(sum(fast.shares) * RATE / fast.rate)
        settle(1.0)
        lost = _lost(address)
    rate = Spread.of([load.rate for load in fast_loads])
    total = Spread.of([sum(shares) for shares in extrapolated])
    each = ", ".join(
        f"{name} {Spread.of(shares).middle:.0%}"
        for name, shares in zip(_NAMES, zip(*extrapolated, strict=True), strict=True)
    )
    yield Row(
        f"collector + server CPU at {RATE:,} faults/s, share of a core, one page connected "
        f"(extrapolated from {rate.middle:,.0f} faults/s, all that this machine does)",
        f"{total:.0%}; {each}",
        f"≤ {TARGET:.0%}",
        total.middle <= TARGET,
    )
    at_rate = Spread.of([sum(load.shares) for load in fast_loads])
    yield Row(
        f"the same as measured, at {rate:,.0f} faults/s ({len(frames)} frames received, {lost} lost)",
        f"{at_rate:.0%}; in proportion {Spread.of(proportional).middle:.0%} at {RATE:,}/s",
    )


def _load(processes: tuple[subprocess.Popen[str], ...], pages: int, *options: object) -> Load:
    """GUESTS guests in exit mode at once, from the first touch to the last."""
    faults: list[int] = []
    command = ("--mode", "exit", "--vcpus", _VCPUS, "--pages", pages, *options)
    threads = [threading.Thread(target=lambda: faults.append(faults_of(run_guest(*command)))) for _ in range(GUESTS)]
    before = [_cpu_s(process.pid) for process in processes]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    settle()  # what is still in the ring
    passed_s = time.monotonic() - started
    spent = [_cpu_s(process.pid) - was for process, was in zip(processes, before, strict=True)]
    return Load(sum(faults) / passed_s, tuple(cpu_s / passed_s for cpu_s in spent))


def _cpu_s(pid: int) -> float:
    """utime and stime, proc_pid_stat(5), of all threads."""
    fields = (Proc().text(pid, "stat") or "").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _lost(address: str) -> dict[str, int]:
    """What the loss ledger says, without zeros."""
    with urlopen(f"http://{address}/api/v1/loss", timeout=10) as answer:
        counters: dict[str, int] = json.load(answer)
    return {name: count for name, count in counters.items() if count}


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
