"""Who traces while a guest runs: our probes alone, the whole product, or a bpftrace script."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from exitscope_probes.hooks import Strategy
from exitscope_probes.isolated import python
from exitscope_probes.loader import load
from exitscope_probes.records import FAULT_DTYPE
from exitscope_probes.ring import RingReader
from tests.bench.bpfstats import programs_of
from tests.bench.figure import BenchError

PEER = Path(__file__).with_name("peer.bt")
PEER_PROGRAMS = 6
EXITSCOPE = tuple(python("exitscope"))
_START_S = 30
_STOP_S = 10
_DRAIN_S = 0.02
_BATCH_RECORDS = 16_384


@contextmanager
def probes(strategy: Strategy | None = None) -> Iterator[set[int]]:
    """Our probes, in this process, with their ring drained: the ids of their programs."""
    pid = os.getpid()
    before = programs_of(pid)
    ended = threading.Event()
    with load(strategy=strategy) as loaded:
        reader = RingReader(loaded.ring_fd, loaded.ring_bytes, FAULT_DTYPE)

        def drain() -> None:
            while not ended.wait(_DRAIN_S):
                while len(reader.read(_BATCH_RECORDS)) == _BATCH_RECORDS:
                    pass

        thread = threading.Thread(target=drain)
        thread.start()
        try:
            yield programs_of(pid) - before
        finally:
            ended.set()
            thread.join()


@contextmanager
def bpftrace() -> Iterator[set[int]]:
    """The peer, attached: the ids of its programs."""
    with process(["bpftrace", str(PEER)]) as peer:
        wait_for(lambda: len(programs_of(peer.pid)) >= PEER_PROGRAMS, "bpftrace", peer)
        time.sleep(0.3)  # loaded, and attached a moment later
        yield programs_of(peer.pid)


@contextmanager
def nobody() -> Iterator[None]:
    """No tracer."""
    yield


@contextmanager
def product() -> Iterator[None]:
    """The collector alone, without a client."""
    with socket_path() as socket, collector(socket):
        yield


@contextmanager
def product_shown() -> Iterator[None]:
    """Collector and server, without a browser."""
    with socket_path() as socket, collector(socket), server(socket):
        yield


UNTRACED, AGAIN, BPFTRACE = "untraced", "untraced again", "bpftrace"
OURS = ("collector", "collector and server")
COMPARED: dict[str, Callable[[], AbstractContextManager[object]]] = {
    UNTRACED: nobody,
    OURS[0]: product,
    BPFTRACE: bpftrace,
    AGAIN: nobody,
    OURS[1]: product_shown,
}


def turns(rounds: int) -> Iterator[tuple[str, AbstractContextManager[object]]]:
    """Each of COMPARED once a round: its name, and what traces while it is entered."""
    names = list(COMPARED)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:  # none is always first
            yield name, COMPARED[name]()


@contextmanager
def socket_path() -> Iterator[Path]:
    """Where the collector may listen and the server, which is another user, may look."""
    with TemporaryDirectory(prefix="exitscope-bench-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory) / "collector.sock"


@contextmanager
def collector(socket: Path) -> Iterator[subprocess.Popen[str]]:
    """The privileged process, listening."""
    with process([*EXITSCOPE, "collect", "--socket", str(socket)]) as started:
        wait_for(lambda: "listening" in said(started), "the collector", started)
        yield started


@contextmanager
def server(socket: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The unprivileged process, and the host:port where it answers."""
    with process([*EXITSCOPE, "serve", "--socket", str(socket), "--port", "0"]) as started:
        wait_for(lambda: "open http" in said(started), "the server", started)
        yield started, said(started).partition("open http://")[2].split("/")[0]


@contextmanager
def process(command: list[str], **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A child whose output is kept (see `said`); it is gone afterwards, whatever happened."""
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | environment
    )
    lines: list[tuple[float, str]] = []
    _output[started.pid] = lines

    def read() -> None:
        for line in started.stdout or ():
            lines.append((time.monotonic(), line))  # noqa: PERF401 (each at once)

    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    try:
        yield started
    finally:
        started.send_signal(signal.SIGINT)
        try:
            started.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()
        reading.join(1)
        _output.pop(started.pid, None)


_output: dict[int, list[tuple[float, str]]] = {}


def said(started: subprocess.Popen[str]) -> str:
    """What a process printed so far."""
    return "".join(line for _, line in list(_output[started.pid]))


def said_at(started: subprocess.Popen[str], words: str) -> float | None:
    """Monotonic time of the first line with these words."""
    return next((at for at, line in list(_output[started.pid]) if words in line), None)


def wait_for(condition: Callable[[], bool], who: str, started: subprocess.Popen[str]) -> None:
    """Raises BenchError, with what the process said, when it ends or takes too long."""
    deadline = time.monotonic() + _START_S
    while not condition():
        if started.poll() is not None:
            raise BenchError(f"{who} ended: {said(started).strip()[-300:]}")
        if time.monotonic() > deadline:
            raise BenchError(f"{who} was not ready within {_START_S} s: {said(started).strip()[-300:]}")
        time.sleep(0.02)
