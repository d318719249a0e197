"""What is lost when the server or the collector is killed (kill -9) beside a guest on a host without a free CPU."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from exitscope_probes.guest.build import binary_path
from exitscope_probes.isolated import python
from exitscope_probes.wire import HEADER_BYTES, Kind, decode_body, decode_header
from tests.bench.figure import BenchError, Effort, Row, Spread
from tests.bench.tracers import process, said, socket_path, wait_for

KILLS = 20
LOST_TARGET_S = 1.0
_BUSY = 2
_GUEST = ("--vcpus", "4", "--pages", "4000", "--rounds", "0", "--think-us", "200")
_TIMEOUT_S = 30
_ASK_S = 0.02


def rows(effort: Effort) -> Iterator[Row]:
    kills = effort.rounds(KILLS)
    lost, again, slowest = measure(kills)
    shown = Spread.of(lost)
    met = shown.highest <= LOST_TARGET_S
    yield Row(f"recording lost by {kills} kills of the server", f"{shown:.2f} s", "≤ 1 s", met, "beside 2 busy loops")
    yield Row("a killed collector counts faults again after", f"{Spread.of(again):.2f} s")
    yield Row("slowest answer, or refusal, meanwhile", f"{slowest:.2f} s")


def measure(kills: int, command: Sequence[str] = ()) -> tuple[list[float], list[float], float]:
    """Seconds lost of a recording by each kill of the server, seconds until the totals of the first collector after
    each kill have faults of the guest, and the longest that a request took. command: another exitscope's.
    """
    random.seed(1)
    with ExitStack() as stack:
        path = stack.enter_context(socket_path())
        for _ in range(_BUSY):
            stack.enter_context(process([sys.executable, "-c", "while True: pass"]))
        guest = stack.enter_context(process([str(binary_path()), *_GUEST]))
        settings = ("--port", "0", "--socket", str(path), "--recordings", str(path.parent / "recordings"))
        only = ("--only-pid-tree", str(os.getpid()))
        product = stack.enter_context(process([*(command or python("exitscope")), "run", *settings, *only]))
        wait_for(lambda: "open http" in said(product), "exitscope", product)
        url = said(product).partition("open ")[2].split()[0]
        asker = stack.enter_context(_asking(url))
        _counted_s(path, guest.pid)
        lost, again = [], []
        for _ in range(kills):
            lost.append(_kill_server(product, url, path.parent / "recordings"))
            time.sleep(random.uniform(0.5, 1.5))
            _kill(product, "collect")
            again.append(_counted_s(path, guest.pid))
        return lost, again, max(asker)


def _kill_server(product: "subprocess.Popen[str]", url: str, recordings: Path) -> float:
    """Seconds before the kill of which nothing is in the recording."""
    recording_id = _until(lambda: _post(url + "api/v1/recordings")["id"], "a recording")
    time.sleep(random.uniform(1.0, 2.5))
    killed_ns = _kill(product, "serve")
    file = recordings / f"{recording_id}.parquet"
    _until(file.exists, "the recovered recording")
    begin_ns = pq.read_table(file, columns=["begin_ns"])["begin_ns"].to_numpy()
    return float(killed_ns - begin_ns[begin_ns <= killed_ns].max()) / 1e9


def _kill(product: "subprocess.Popen[str]", command: str) -> int:
    """CLOCK_MONOTONIC of the kill of the child that runs this command."""
    pid = _until(lambda: _child(product.pid, command), f"a process that runs {command}")
    killed_ns = time.monotonic_ns()
    os.kill(pid, signal.SIGKILL)
    return killed_ns


def _child(pid: int, command: str) -> int | None:
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(OSError):
            if command.encode() in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
                return int(child)
    return None


def _counted_s(path: Path, guest: int) -> float:
    """Seconds until a collector tells of faults of this process."""
    begin = time.monotonic()
    _until(lambda: _counts(path, guest), "faults")
    return time.monotonic() - begin


def _counts(path: Path, guest: int) -> bool:
    numbers: set[int] = set()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(_TIMEOUT_S)
        client.connect(str(path))
        with client.makefile("rb") as frames:
            while head := frames.read(HEADER_BYTES):
                header = decode_header(head)
                message = decode_body(header, frames.read(header.rest_bytes))
                if message.kind is Kind.VMS:
                    numbers = {vm["vm"] for vm in message.meta["vms"] if vm["pid"] == guest}
                elif message.kind is Kind.TOTALS:
                    vcpus = message.arrays["vcpus"]
                    if any(row["vm"] in numbers and row["series"]["count"].sum() for row in vcpus):
                        return True
    return False


@contextmanager
def _asking(url: str) -> Iterator[list[float]]:
    """Asks for the VMs over and over: how long each answer, or refusal, took."""
    took: list[float] = [0.0]
    ended = threading.Event()

    def ask() -> None:
        while not ended.wait(_ASK_S):
            begin = time.monotonic()
            with (
                suppress(OSError, ValueError, HTTPException),
                urllib.request.urlopen(url + "api/v1/vms", timeout=_TIMEOUT_S) as answer,
            ):
                answer.read()
            took.append(time.monotonic() - begin)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield took
    finally:
        ended.set()
        thread.join()


def _post(url: str) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=_TIMEOUT_S) as answer:
        return json.load(answer)


def _until(ask: Callable[[], Any], what: str) -> Any:
    """The first answer; who is just being killed or started is asked again."""
    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline:
        with suppress(OSError, ValueError, HTTPException):
            if found := ask():
                return found
        time.sleep(0.01)
    raise BenchError(f"never: {what}")
