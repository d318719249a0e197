"""Reads of strangers' processes, each with a deadline: a process can let whoever looks at it wait as long as it likes.

It keeps its mmap_lock, backs its command line with a userfaultfd or FUSE, or its monitor's path leads through such a
file system. A read in uninterruptible sleep cannot be ended: each runs in a thread, and is given up at the deadline.
Time in which that thread could have run and got no CPU is not the process's doing, and does not count.
"""

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

DEADLINE_S: Final = 0.25
SHORT_DEADLINE_S: Final = 0.05  # of a user who has a read waiting already
_LONGEST: Final = 8  # deadlines that a read may take altogether on a host without a free CPU
_LOOKS: Final = 10  # at the thread, in a deadline
MAX_STUCK: Final = 32  # each is a thread: deploy/exitscope-collector.service says TasksMax
MAX_STUCK_PER_USER: Final = 16
_MAX_SPENT_S: Final = 2.0  # by one user's processes at once
_SPENT_PER_S: Final = 0.1  # in the long run

_NO_CPU: Final = "this host had no CPU time to spare for looking at"

_T = TypeVar("_T")


class Unreadable(Exception):
    """Why a process cannot be looked at now, one short sentence."""


class NoTime(Unreadable):
    """It is this host's doing, not the process's: it says nothing about it."""


class _Job:
    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._abandoned = False
        self.finished = threading.Event()
        self.result: Any = None
        self.error: Exception | None = None
        self.ended_s = 0.0

    def run(self) -> None:
        try:
            result, error = self._function(), None
        except Exception as raised:
            result, error = None, raised
        with self._lock:
            if self._abandoned and hasattr(result, "close"):
                result.close()
            self.result, self.error, self.ended_s = result, error, time.monotonic()
            self.finished.set()

    def abandon(self) -> bool:
        """False if it has finished after all."""
        with self._lock:
            self._abandoned = not self.finished.is_set()
            return self._abandoned


class _Worker:
    def __init__(self) -> None:
        self.jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def is_runnable(self) -> bool:
        """Whether it runs, or waits for a CPU and nothing else."""
        try:
            stat = Path(f"/proc/self/task/{self._thread.native_id}/stat").read_bytes()
        except OSError:
            return False
        return stat.rpartition(b") ")[2].startswith(b"R")

    def cpu_s(self) -> float:
        """CPU time that it has had. It must not have ended."""
        return time.clock_gettime(time.pthread_getcpuclockid(self._thread.ident or 0))

    def waited_s(self) -> float:
        """Time that it has waited for a CPU and got one in the end; 0 where the kernel does not count it."""
        try:
            stat = Path(f"/proc/self/task/{self._thread.native_id}/schedstat").read_bytes()
        except OSError:
            return 0.0
        return int(stat.split()[1]) / 1e9

    def _work(self) -> None:
        while job := self.jobs.get():
            job.run()


class _Stuck(NamedTuple):
    """A read that has not come back, of a process of this real user."""

    uid: int
    job: _Job
    why: Unreadable


def _wait(worker: _Worker, job: _Job, deadline_s: float) -> float | None:
    """Wait until it has finished or the deadline is over: seconds that are the process's doing.

    None if the thread had no CPU for too long instead. What counts is the CPU time that it had, and when it is seen
    waiting for something else, the time since last seen.
    """
    look_s, counted_s, waited_s = deadline_s / _LOOKS, 0.0, worker.waited_s()
    started_s, cpu_s = time.monotonic(), worker.cpu_s()
    while counted_s < deadline_s:
        if job.finished.wait(look_s):
            return max(job.ended_s - started_s - (worker.waited_s() - waited_s), 0.0)
        if time.monotonic() >= started_s + _LONGEST * deadline_s:
            return None
        before_s, cpu_s = cpu_s, worker.cpu_s()
        counted_s += cpu_s - before_s if worker.is_runnable() else look_s
    return counted_s


class Reads:
    """Runs one read at a time for one thread. budget: whether each user's processes get a share of the time only."""

    def __init__(self, budget: bool = True) -> None:
        self._budget = budget
        self._idle: _Worker | None = None
        self._stuck: dict[int, _Stuck] = {}  # by pid
        self._spent: dict[int, tuple[float, float]] = {}  # by user id: seconds of reading, and when that was so

    def read(self, pid: int, uid: int, function: Callable[[], _T]) -> _T:
        """What the function returns, which is about process pid of user uid.

        Raises NoTime when this host had no CPU for it, and Unreadable when it takes longer than its deadline, while an
        earlier one has not returned, and when this user's processes have taken too much time; a result with a close()
        that comes later is closed. The function must change nothing: it may run on.
        """
        deadline_s = self._deadline_s(pid, uid)
        try:
            worker, self._idle = self._idle or _Worker(), None
        except RuntimeError:  # as threading says it
            raise Unreadable("no thread is to be had for looking at it") from None
        job = _Job(function)
        worker.jobs.put(job)
        took_s = _wait(worker, job, deadline_s)
        finished = job.finished.is_set() or not job.abandon()
        self._note(uid, took_s or 0.0)
        if not finished:
            worker.jobs.put(None)
            held_up = Unreadable(f"process {pid} lets whoever looks at it wait")
            why = NoTime(f"{_NO_CPU} process {pid}") if took_s is None else held_up
            self._stuck[pid] = _Stuck(uid, job, why)
            raise why
        self._idle = worker
        if job.error:
            raise job.error
        result: _T = job.result
        return result

    def _deadline_s(self, pid: int, uid: int) -> float:
        """How long a read may take. Raises Unreadable."""
        self._stuck = {pid: one for pid, one in self._stuck.items() if not one.job.finished.is_set()}
        if pid in self._stuck:
            raise self._stuck[pid].why.with_traceback(None)
        stuck = sum(one.uid == uid for one in self._stuck.values())
        if stuck >= MAX_STUCK_PER_USER or len(self._stuck) >= MAX_STUCK:
            raise Unreadable(f"{stuck} processes of user {uid} let whoever looks at them wait")
        if self._budget and self._spent_s(uid) >= _MAX_SPENT_S:
            raise Unreadable(f"looking at the processes of user {uid} takes too long: it is done in turns")
        return SHORT_DEADLINE_S if stuck else DEADLINE_S

    def _spent_s(self, uid: int) -> float:
        spent_s, at_s = self._spent.get(uid, (0.0, 0.0))
        return max(spent_s - (time.monotonic() - at_s) * _SPENT_PER_S, 0.0)

    def _note(self, uid: int, took_s: float) -> None:
        spent = {user: self._spent_s(user) for user in {*self._spent, uid}}
        spent[uid] += took_s
        now_s = time.monotonic()
        self._spent = {user: (spent_s, now_s) for user, spent_s in spent.items() if spent_s}
