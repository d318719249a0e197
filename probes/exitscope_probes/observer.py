"""The collector's handle on its observer: a process that looks at strangers' processes, and may be held up by them."""

import logging
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

from . import observing
from .channel import Channel
from .discovery import Rows
from .libc import die_with_parent
from .notes import Notes
from .only import ALL, Only
from .vmids import VmIds

ANSWER_NS: Final = 15_000_000_000
"""An observer that does not answer for so long is started again; reads.py bounds what one user's processes take."""
_RESTART_NS: Final = 1_000_000_000
_MAX_LEFT: Final = 8  # observers that were killed and do not end: reads in uninterruptible sleep

_log = logging.getLogger(__name__)


class Listener(Protocol):
    """Who is told what the observer finds."""

    def found_vms(self, vms: list[dict[str, Any]]) -> None:
        """The answer to `ask`."""

    def found_migration(self, meta: dict[str, Any], time_ns: int) -> None:
        """What a VM's monitor says, as in wire.Kind.MIGRATION."""

    def found_seed(self, tid: int, vcpu_fd: int) -> None:
        """A thread that was inside KVM_RUN before the hooks were there."""


class Observer:
    """Starts the process, and starts it again when it ends or hangs. qmp, follow: see migration.Follower."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        listener: Listener,
        qmp: Sequence[str] = (),
        follow: bool = True,
        only: Only = ALL,
    ) -> None:
        self._seed: Only | None = only
        self._selector = selector
        self._listener = listener
        self._qmp, self._follow = list(qmp), follow
        self._channel: Channel | None = None
        self._pid = 0
        self._left: set[int] = set()
        self._started_ns = 0
        self._asked_ns: int | None = None
        self._ids: dict[int, str] = {}
        self._given = VmIds()
        self._forgotten: set[int] = set()
        self._notes = Notes()
        self._start()

    @property
    def asked(self) -> bool:
        """Whether an answer is awaited."""
        return self._asked_ns is not None

    def ask(self, rows: Rows, readers: list[tuple[int, int]]) -> bool:
        """Ask who these are; False if the answer before has not come yet. readers: see upkeep.Probes.readers."""
        if self._channel is None or self._asked_ns is not None or self._channel.unsent:
            return False
        now_ns = self._asked_ns = time.monotonic_ns()
        rows_of = {"vms": rows.vms, "vcpus": rows.vcpus, "ended": sorted(rows.ended)}
        told = {"handlers": self._notes.handlers(), "readers": readers, "forgotten": list(self._forgotten)}
        self._send({"rows": rows_of, "now_ns": now_ns, **told})
        self._forgotten.clear()
        return True

    def note(self, records: Any) -> None:
        """Take from records FAULT_DTYPE (n,) who served them, and where guest memory lies."""
        self._notes.see(records)
        self._tell_addresses()

    def forget(self, numbers: Iterable[int]) -> None:
        """These VMs are gone and their slots are free."""
        for number in numbers:
            self._forgotten.add(number)
            self._ids.pop(number, None)
            self._notes.forget(number)

    def check(self) -> None:
        """Start it again if it has ended or hangs."""
        now_ns = time.monotonic_ns()
        if self._channel and self._asked_ns is not None and now_ns - self._asked_ns > ANSWER_NS:
            _log.warning("looking at the VMs' processes takes longer than %d s: starting anew", ANSWER_NS // 10**9)
            self._end()
        self._reap()
        if self._channel is None and now_ns - self._started_ns >= _RESTART_NS and len(self._left) < _MAX_LEFT:
            self._start()

    def close(self) -> None:
        """End it."""
        self._end()
        self._reap()

    def _start(self) -> None:
        self._started_ns = time.monotonic_ns()
        self._asked_ns = None
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:  # no descriptor to be had now
            _log.warning("cannot look at the VMs' processes: %s", error.strerror)
            return
        ids = {"ids": dict(self._ids), "given": self._given}
        settings = {"qmp": self._qmp, "follow": self._follow, "seed": self._seed} | ids
        self._notes.tell_again()
        try:
            self._pid = _fork(theirs, lambda: observing.serve(Channel(theirs), **settings))
        except OSError as error:  # no process or memory to be had now
            _log.warning("cannot look at the VMs' processes: %s", error.strerror)
            ours.close()
            return
        finally:
            theirs.close()
        self._channel = Channel(ours)
        self._selector.register(self._channel, selectors.EVENT_READ, self._receive)
        self._seed = None

    def _tell_addresses(self) -> None:
        """At once, not with the next question: the VM may live for a moment only."""
        if self._channel and not self._channel.unsent and (addresses := self._notes.addresses(self._ids)):
            self._send({"addresses": addresses})

    def _send(self, message: dict[str, Any]) -> None:
        assert self._channel
        try:
            self._channel.send(message)
        except OSError:
            self._end()
            return
        self._want_writes()

    def _want_writes(self) -> None:
        if self._channel:
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._channel.unsent else 0)
            self._selector.modify(self._channel, wanted, self._receive)

    def _receive(self, _mask: int) -> None:
        channel = self._channel
        if channel is None:
            return
        try:
            channel.flush()
            messages = channel.receive()
        except (OSError, EOFError):
            _log.warning("the process that looks at the VMs' processes has ended: starting another")
            self._end()
            return
        self._want_writes()
        for message in messages:
            if "vms" in message:
                self._asked_ns = None
                ids = {vm["vm"]: vm["id"] for vm in message["vms"]}
                for number in ids.keys() - self._ids.keys():
                    self._given.note(ids[number])
                self._ids = ids
                self._tell_addresses()
                self._listener.found_vms(message["vms"])
            elif "migration" in message:
                self._listener.found_migration(message["migration"], message["time_ns"])
            else:
                self._listener.found_seed(*message["seed"])

    def _end(self) -> None:
        if self._channel:
            self._selector.unregister(self._channel)
            self._channel.socket.close()
            self._channel = None
            self._left.add(self._pid)
            os.kill(self._pid, signal.SIGKILL)
        self._asked_ns = None

    def _reap(self) -> None:
        for pid in list(self._left):
            try:
                ended, _ = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                ended = pid
            if ended:
                self._left.discard(pid)


def _fork(keep: socket.socket, run: Callable[[], None]) -> int:
    """A process that holds nothing of ours but this socket and the standard streams, and ends with us."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        die_with_parent(signal.SIGKILL)
        if os.getppid() == parent:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)  # it ends when the collector does
            os.closerange(3, keep.fileno())
            os.closerange(keep.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
            if os.getpriority(os.PRIO_PROCESS, 0) < 0:
                os.setpriority(os.PRIO_PROCESS, 0, 0)
            run()
            status = 0
    except BaseException:
        traceback.print_exc(file=sys.stderr)
    finally:
        os._exit(status)
