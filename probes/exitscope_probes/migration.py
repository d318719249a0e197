"""Follows what each VM's monitor says of a migration, without ever waiting for one or keeping one from others."""

import logging
import selectors
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from .migrateinfo import NOTHING, UNDER_WAY, told
from .monitorsocket import Closed, MonitorSockets, Place
from .procfs import Proc
from .qmp import OFTEN, QUERIES, QmpError, Session
from .reads import NoTime, Reads, Unreadable
from .wire import Kind, Message

ANSWER_S: Final = 0.5  # from connecting to the last answer: no other client is served meanwhile
FAST_S: Final = 0.2  # between two looks while a migration is under way
SLOW_S: Final = 1.0  # while none is
MAX_OPEN: Final = 32  # monitors asked at the same time
_IDLE_PER_S: Final = 20  # looks at all VMs together that have no migration
_BACKOFF_S: Final = 30.0
_UNANSWERED_S: Final = 2.0
_REPEAT_S: Final = 10.0  # what has not changed: for a client that had no room, and for recordings that begin later
_UNDER_WAY_REPEAT_S: Final = 0.9
_WHOLE_S: Final = 0.9  # between two looks at what changes only when somebody sets it
_WATCH_S: Final = 0.05  # how late a conversation that takes too long may be ended
_RECEIVE_BYTES: Final = 64 << 10

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Vm:
    number: int
    id: str
    pid: int
    user: int
    name: str
    vmm: str
    due_s: float = 0.0
    places: list[Place] = field(default_factory=list)
    meta: dict[str, Any] | None = None  # as published last, at_ns apart
    published_s: float = 0.0
    answers: dict[str, Any] = field(default_factory=dict)  # the newest to each query
    whole_s: float = 0.0  # when all of them were asked
    failures: int = 0  # since the last answer
    busy: int = 0  # looks in a row that found another client
    poll: "_Poll | None" = None


@dataclass(slots=True)
class _Poll:
    """One conversation with a monitor."""

    connection: socket.socket
    place: Place
    started_s: float
    session: Session


@dataclass(frozen=True, slots=True)
class _Opened:
    """What came of an attempt to open a monitor."""

    places: list[Place]  # the one that was opened is first
    found: socket.socket | Closed

    def close(self) -> None:
        """Nobody waits for it any more."""
        if isinstance(self.found, socket.socket):
            self.found.close()


class Follower:
    """Keeps a MIGRATION message for each VM of `see`, and hands it to `publish` when there is something to say.

    given: see MonitorSockets; enabled False: no monitor is ever looked for.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        publish: Callable[[Message], None],
        given: Sequence[str] = (),
        enabled: bool = True,
        proc: Proc | None = None,
        reads: Reads | None = None,
    ) -> None:
        self._reads = reads or Reads()
        self._selector = selector
        self._publish = publish
        self._enabled = enabled
        self._proc = proc or Proc()
        self._sockets = MonitorSockets(self._proc, given)
        self._vms: dict[int, _Vm] = {}

    def see(self, vms: Sequence[Mapping[str, Any]]) -> None:
        """The VMs there are, as in wire.Kind.VMS; those that are gone are followed no longer."""
        running = {vm["vm"]: vm for vm in vms if vm["state"] == "running"}
        for number in self._vms.keys() - running.keys():
            self._hang_up(self._vms[number])
            self._sockets.forget(self._vms.pop(number).pid)
        for number in running.keys() - self._vms.keys():
            vm = running[number]
            self._vms[number] = _Vm(number, vm["id"], vm["pid"], vm.get("user", -1), vm["name"], vm["vmm"])

    def newest(self) -> list[Message]:
        """What was published last of each VM."""
        return [_message(vm.meta) for vm in self._vms.values() if vm.meta]

    def run(self) -> float:
        """Ask those that are due, hang up on those that take too long; returns in how many seconds to call again."""
        now_s = time.monotonic()
        open_ = 0
        for vm in self._vms.values():
            if vm.poll and now_s - vm.poll.started_s >= ANSWER_S:
                self._unanswered(vm, vm.poll)
            open_ += vm.poll is not None
        for vm in sorted(self._vms.values(), key=lambda vm: vm.due_s):
            if vm.due_s > now_s or open_ >= MAX_OPEN:
                break
            if not vm.poll:
                self._look(vm, now_s)
                open_ += vm.poll is not None
        if open_:
            return _WATCH_S
        return max(min((vm.due_s for vm in self._vms.values()), default=now_s + SLOW_S) - now_s, 0.01)

    def close(self) -> None:
        """Hang up everywhere."""
        for vm in self._vms.values():
            self._hang_up(vm)

    def _look(self, vm: _Vm, now_s: float) -> None:
        """Begin a conversation, or say why there is none."""
        vm.due_s = now_s + _REPEAT_S
        if not self._enabled:
            self._tell(vm, Closed("absent", "the collector was told not to look for monitors (--no-qmp)"))
            return
        try:
            opened = self._reads.read(vm.pid, vm.user, partial(self._open, vm))
        except NoTime:  # nothing is known of the monitor by that: what was said last stands
            vm.due_s = now_s + SLOW_S
            return
        except Unreadable as why:
            self._failed(vm, Closed("refused", str(why)))
            return
        vm.places = opened.places
        if isinstance(opened.found, Closed):
            self._failed(vm, opened.found)
            return
        whole = not vm.answers or vm.failures > 0 or now_s - vm.whole_s >= _WHOLE_S
        vm.whole_s = now_s if whole else vm.whole_s
        vm.poll = _Poll(opened.found, opened.places[0], now_s, Session(QUERIES if whole else OFTEN))
        self._selector.register(opened.found, selectors.EVENT_READ, lambda _mask: self._receive(vm))

    def _open(self, vm: _Vm) -> _Opened:
        """Find the VM's monitors and open one, in a thread of its own: paths may lead where it takes for ever."""
        places = vm.places
        if not places or vm.failures:
            places, reason = self._sockets.places(vm.pid, vm.vmm)
            if not places:
                return _Opened([], Closed("absent", reason))
        closed: list[Closed] = []
        for place in places:
            found = self._sockets.connect(vm.pid, place)
            if isinstance(found, socket.socket):
                return _Opened(sorted(places, key=lambda one: one is not place), found)
            closed.append(found)
        return _Opened(places, next((one for one in closed if one.follow == "busy"), closed[0]))

    def _receive(self, vm: _Vm) -> None:
        poll = vm.poll
        if poll is None:
            return
        try:
            data = poll.connection.recv(_RECEIVE_BYTES)
            if not data:
                self._failed(vm, Closed("absent", f"{poll.place.shown} was closed before the answers came", poll.place))
                return
            questions = poll.session.receive(data)
            if questions and poll.connection.send(questions) != len(questions):
                raise QmpError("it takes no questions")
        except BlockingIOError:
            return
        except OSError as error:
            self._failed(vm, Closed("absent", f"{poll.place.shown}: {error.strerror or error}", poll.place))
        except QmpError as error:
            if not vm.failures:
                _log.warning("VM %s: what answers on %s is no QMP monitor: %s", vm.id, poll.place.shown, error)
            self._failed(
                vm, Closed("refused", f"what answers on {poll.place.shown} is no QMP monitor: {error}", poll.place)
            )
        else:
            if poll.session.done:
                self._answered(vm, poll)

    def _answered(self, vm: _Vm, poll: _Poll) -> None:
        self._hang_up(vm)
        vm.answers |= poll.session.answers
        vm.failures = vm.busy = 0
        vm.places.sort(key=lambda place: place != poll.place)  # first the one that answers
        values = told(vm.answers)
        under_way = values["status"] in UNDER_WAY
        vm.due_s = poll.started_s + (FAST_S if under_way else max(SLOW_S, len(self._vms) / _IDLE_PER_S))
        self._tell(vm, Closed("followed", "", poll.place), values)

    def _unanswered(self, vm: _Vm, poll: _Poll) -> None:
        reason = f"no answer on {poll.place.shown} in {ANSWER_S} s"
        if not poll.session.greeted:
            reason += ": another client may hold it, or QEMU's main loop stands still"
        self._failed(vm, Closed("busy", reason, poll.place))
        vm.due_s = time.monotonic() + min(FAST_S * 2**vm.failures, _UNANSWERED_S if vm.answers else _BACKOFF_S)

    def _failed(self, vm: _Vm, why: Closed) -> None:
        """Say so, and look again after a while: soon after another client was seen, later the more often it failed."""
        unanswered = vm.poll is not None
        self._hang_up(vm)
        now_s = time.monotonic()
        if why.follow == "busy" and not unanswered:
            vm.busy += 1
            vm.due_s = now_s + (FAST_S if vm.busy == 1 else SLOW_S)
            if vm.busy == 1 and vm.meta and vm.meta["follow"] == "followed":
                return  # a client that comes and goes, as we do
        else:
            vm.busy = 0
            vm.failures += 1
            vm.due_s = now_s + min(SLOW_S * 2 ** min(vm.failures - 1, 10), _REPEAT_S if vm.places else _BACKOFF_S)
        if self._proc.start_ticks(vm.pid) is None:
            return  # it is ending, as VMS will say
        lost = vm.answers and (unanswered or why.follow == "absent")
        self._tell(vm, Closed("lost", why.reason, why.place) if lost else why)

    def _tell(self, vm: _Vm, why: Closed, values: Mapping[str, Any] | None = None) -> None:
        """Publish, if it is news or has not been said for a while; without values the last ones stand."""
        now_s, now_ns = time.monotonic(), time.monotonic_ns()
        before = vm.meta or {"at_ns": now_ns} | NOTHING
        meta = {"vm": vm.number, "id": vm.id, "follow": why.follow, "reason": why.reason or None}
        meta["socket"] = why.place.shown if why.place else None
        meta["at_ns"] = before["at_ns"] if values is None and vm.answers else now_ns
        meta |= {name: before[name] for name in NOTHING} if values is None else values
        repeat_s = _UNDER_WAY_REPEAT_S if meta["status"] in UNDER_WAY and values is not None else _REPEAT_S
        same = vm.meta is not None and vm.meta | {"at_ns": 0} == meta | {"at_ns": 0}
        vm.meta = meta
        if not same or now_s - vm.published_s >= repeat_s:
            vm.published_s = now_s
            self._publish(_message(meta))

    def _hang_up(self, vm: _Vm) -> None:
        if vm.poll:
            self._selector.unregister(vm.poll.connection)
            vm.poll.connection.close()
            vm.poll = None


def _message(meta: dict[str, Any]) -> Message:
    return Message(Kind.MIGRATION, time.monotonic_ns(), meta)
