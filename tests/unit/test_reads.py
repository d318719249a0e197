"""Reads that may never come back: files of the right kind, no kernel tricks."""

import hashlib
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from exitscope_probes.reads import DEADLINE_S, MAX_STUCK_PER_USER, NoTime, Reads, Unreadable


class Fifo:
    """Who opens it waits."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path

    def read(self) -> str:
        return self.path.read_text()

    def release(self) -> None:
        self.path.write_text("released")


@pytest.fixture
def fifos(tmp_path: Path) -> Iterator[list[Fifo]]:
    fifos = [Fifo(tmp_path / str(number)) for number in range(MAX_STUCK_PER_USER)]
    yield fifos
    for fifo in fifos:
        with os.fdopen(os.open(fifo.path, os.O_RDWR | os.O_NONBLOCK), "w") as file:  # who waits comes back
            file.write("the end")
            time.sleep(0.01)


def test_results_and_errors_come_back() -> None:
    reads = Reads()
    assert reads.read(1, 0, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        reads.read(1, 0, lambda: 1 // 0)
    assert reads.read(1, 0, lambda: 8) == 8


def test_a_read_that_waits_is_given_up_and_the_process_is_read_again_later(fifos: list[Fifo]) -> None:
    reads = Reads()
    with pytest.raises(Unreadable, match="process 1 lets whoever looks at it wait"):
        reads.read(1, 1000, fifos[0].read)
    with pytest.raises(Unreadable):
        reads.read(1, 1000, lambda: "not tried while the other waits")
    assert reads.read(2, 1000, lambda: "another process") == "another process"
    fifos[0].release()
    deadline = time.monotonic() + 20
    while True:
        try:
            assert reads.read(1, 1000, lambda: "again") == "again"
            return
        except Unreadable:
            assert time.monotonic() < deadline


def _burn() -> None:
    while True:
        pass


def _works_on(cpu: int, rounds: int) -> int:
    """Computes for some milliseconds without the GIL, on a CPU where everything else goes first."""
    os.sched_setaffinity(0, {cpu})  # of this thread
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
    hashlib.pbkdf2_hmac("sha256", b"", b"", rounds)
    return rounds


def test_a_host_without_a_free_cpu_is_no_process_that_lets_us_wait() -> None:
    cpu = max(os.sched_getaffinity(0))
    busy = multiprocessing.get_context("fork").Process(target=_burn, daemon=True)
    rounds, took_s = 1000, 0.0
    while took_s < 0.01:  # of CPU: far less than the deadline
        rounds, before_s = 2 * rounds, time.thread_time()
        hashlib.pbkdf2_hmac("sha256", b"", b"", rounds)
        took_s = time.thread_time() - before_s
    busy.start()
    os.sched_setaffinity(busy.pid or 0, {cpu})
    try:
        waited_s = 0.0
        while waited_s < DEADLINE_S:  # until it had to wait for the CPU
            reads, before_s = Reads(), time.monotonic()
            try:
                assert reads.read(1, 1000, partial(_works_on, cpu, rounds)) == rounds
            except NoTime as why:  # hardly any CPU at all: then it is said so
                assert str(why) == "this host had no CPU time to spare for looking at process 1"
            waited_s = time.monotonic() - before_s - took_s
        assert reads._spent_s(1000) < DEADLINE_S, "the user's processes pay for what they took, not for the wait"
    finally:
        busy.kill()
        busy.join()


def test_a_process_that_keeps_us_computing_lets_us_wait() -> None:
    ended = threading.Event()

    def computes() -> None:
        while not ended.is_set():
            hashlib.pbkdf2_hmac("sha256", b"", b"", 10_000)

    try:
        with pytest.raises(Unreadable, match=r"process 1 lets whoever looks at it wait|no CPU time"):
            Reads().read(1, 1000, computes)
    finally:
        ended.set()


def test_one_user_cannot_take_all_threads(fifos: list[Fifo]) -> None:
    reads = Reads()
    for pid, fifo in enumerate(fifos):
        with pytest.raises(Unreadable):
            reads.read(pid, 1000, fifo.read)
    with pytest.raises(Unreadable, match=f"{MAX_STUCK_PER_USER} processes of user 1000"):
        reads.read(999, 1000, lambda: "no thread for it")
    assert reads.read(1999, 1001, lambda: "another user") == "another user"


def test_one_user_cannot_take_all_the_time() -> None:
    reads = Reads()
    with pytest.raises(Unreadable, match="processes of user 1000 takes too long"):
        for pid in range(100):  # each just within the deadline
            reads.read(pid, 1000, partial(time.sleep, 0.1))
    assert reads.read(1999, 1001, lambda: "another user") == "another user"
    assert Reads(budget=False)._spent_s(1000) == 0


def test_what_comes_too_late_is_closed(fifos: list[Fifo]) -> None:
    class Late:
        closed = False

        def __init__(self) -> None:
            fifos[0].read()

        def close(self) -> None:
            Late.closed = True

    with pytest.raises(Unreadable):
        Reads().read(1, 1000, Late)
    fifos[0].release()
    deadline = time.monotonic() + 20
    while not Late.closed:
        assert time.monotonic() < deadline
        time.sleep(0.01)
