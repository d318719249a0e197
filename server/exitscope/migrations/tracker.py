"""Which VMs migrate, or have their memory paged in: recognised from the collector's messages as they come.

A VMM that is followed over QMP says so itself; else it is recognised by what the kernel shows (recognise.py). Time is
the messages' own. The Aggregate calls before it moves its counters and after, so that a migration's figures begin with
the message that brings its first sign.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy.typing as npt

from ..peer import PeerMigration
from ..unanswered import Unanswered
from ..vms import Vm, Vms
from ..window import NS_PER_S
from . import status, words
from .course import Closing, Course
from .models import How, Kind, Role, State
from .numbers import Counted, Standing
from .pairing import pair
from .recognise import THREADS, Seen, kind_of, protects
from .replayed import Replayed
from .watch import Watch, Watches

MAX_KEPT: Final = 64
"""Migrations kept; those that ended are dropped oldest first, and no more than this are followed at once."""

IDLE_NS: Final = 5 * NS_PER_S
"""A paging-in has ended when nothing was filled and nobody waited for so long."""

AGAIN_NS: Final = 60 * NS_PER_S
"""When pages are filled again within this time of the last fill, it is the same one that goes on."""

_SETTLE_NS: Final = 300_000_000  # until totals are there that count everything: they come five times a second
_LAST_WORD_NS: Final = 2 * NS_PER_S  # a destination that has everything says so within this time
_LATE_NS: Final = 10 * NS_PER_S  # QEMU's last word may come so long after the last page


class Tracker:
    """See the module."""

    def __init__(self, vms: Vms, counted: Counted, unanswered: Unanswered) -> None:
        self._vms = vms
        self._counted = counted
        self._unanswered = unanswered
        self._watches = Watches()
        self._courses: dict[str, Course] = {}
        self._fresh = True  # no totals of this collector yet
        self._time_ns = 0
        self._replayed: Replayed | None = None

    def listed(self, wanted: Callable[[str, int | None], bool] = lambda vm, to_ns: True) -> list[dict[str, Any]]:
        """Migrations as in models.Migration, oldest first, without samples; wall_ms is 0 where it is not known.

        wanted: whether to tell one, by its VM's id and its to_ns.
        """
        if self._replayed is not None:
            return [one for one in self._replayed.listed(self._time_ns) if wanted(one["vm"], one["to_ns"])]
        return [self._told(course, samples=False) for course in self.courses() if wanted(course.vm, course.to_ns)]

    def find(self, migration_id: str) -> dict[str, Any] | None:
        """One of them, with samples."""
        if self._replayed is not None:
            return self._replayed.find(migration_id, self._time_ns)
        course = self._courses.get(migration_id)
        return None if course is None else self._told(course, samples=True)

    def away(self) -> set[str]:
        """Ids of VMs that run elsewhere by now: sources that have switched over. Their vCPUs are nobody's time."""
        over = (course for course in self._courses.values() if course.role == "source")
        return {one.vm for one in over if one.phase in status.POSTCOPY or (one.final and one.state == "completed")}

    def courses(self) -> list[Course]:
        """The same as they are followed, oldest first; none in a replay that knows its migrations."""
        return sorted(self._courses.values(), key=lambda course: course.from_ns)

    def hello(self, again: bool, known: list[dict[str, Any]] | None) -> None:
        """A collector, or the same one again; or a recording: known are its migrations."""
        self._replayed = None if known is None else Replayed(known, self._vms, self._counted)
        if again:
            return
        self._fresh = True
        self._watches.new_collector()
        for watch in self._watches:
            if watch.course is not None:
                watch.course.new_collector(self._counted, self._vms.get(watch.course.vm))

    def look_again(self) -> None:
        """What the next totals count is from before anybody looked."""
        self._fresh = True

    def vms(self, time_ns: int) -> None:
        """Discovery has spoken."""
        self._time_ns = max(time_ns, self._time_ns)
        if self._replayed is not None:
            return
        for vm in self._vms:
            watch = self._watches.of(vm)
            if watch.course is not None:
                self._see(vm, watch, watch.course, time_ns)
            watch.uffds, watch.waiting = len(vm.peer.uffds) if vm.gone_ns is None else 0, vm.total
            watch.protects = watch.protects or protects(vm.peer)
        self._watches.keep(self._vms)

    def before(self, looks: Mapping[int, Seen], time_ns: int) -> None:
        """The TOTALS that say this of the VMs, by number, will be counted next."""
        if self._replayed is not None:
            self._replayed.before(time_ns)
            return
        for number, seen in looks.items():
            vm = self._vms.named(number)
            if vm is None:
                continue
            watch = self._watches.of(vm)
            if self._fresh:
                watch.before = seen.faults if watch.course is None else 0
            else:
                self._signs(vm, watch, seen, time_ns)
            watch.take(seen, time_ns)
        self._fresh = False

    def stalled(self, most: dict[int, int]) -> None:
        """VM number -> most of its vCPUs that stood still at once in the second that is over (stalled.py)."""
        for watch in self._watches:
            vm = self._vms.get(watch.course.vm) if watch.course is not None else None
            if watch.course is not None and vm is not None and watch.course.missing_from_ns is not None:
                watch.course.peak = max(watch.course.peak, most.get(vm.number, 0))

    def after(self, time_ns: int) -> None:
        """They are counted."""
        self._time_ns = max(time_ns, self._time_ns)
        if self._replayed is not None:
            return
        for watch in self._watches:
            if watch.course is not None:
                self._look(watch, watch.course, time_ns)
            elif watch.last is not None and time_ns - (watch.last.to_ns or 0) >= AGAIN_NS:
                watch.last.forget_base()
        pair(self._courses.values())

    def faults(self, records: npt.NDArray[Any]) -> None:
        """Records FAULT_DTYPE (n,): they say when the first page was missed, and when the last one had come."""
        if self._replayed is None and len(records):
            self._watches.faults(records, self._vms)

    def migration(self, answer: PeerMigration, meta: dict[str, Any], time_ns: int) -> None:
        """What a VMM says."""
        vm = self._vms.named(answer.vm)
        if self._replayed is not None or vm is None or vm.gone_ns is not None:
            return
        watch = self._watches.of(vm)
        watch.follow, watch.reason = answer.follow, answer.reason
        if answer.follow != "followed":
            if watch.course is not None and watch.course.how == "qmp":
                watch.course.note(words.LOST, words.lost(answer.reason))
            return
        at_ns = answer.at_ns or time_ns
        course = watch.course or self._first_said(vm, watch, answer, meta, at_ns)
        if course is not None:
            if course.how == "kernel" and (answer.status in status.PHASES or answer.status in status.STATES):
                course.as_qemu_says(answer)
            course.said(answer, meta, at_ns, time_ns)
        watch.said, watch.said_ns = answer.status, at_ns

    def _signs(self, vm: Vm, watch: Watch, seen: Seen, time_ns: int) -> None:
        """What the kernel shows in these totals."""
        watch.moved = seen.fills_since(watch.seen, watch.uffds, watch.protects)
        waits = watch.waits(seen, time_ns)
        if not watch.moved and not waits:
            return
        course, sign_ns = watch.course, watch.sign_ns(seen, time_ns)
        if course is None:
            unclear = watch.protects and not watch.moved  # they may wait for the protection to be lifted
            if unclear or watch.echoes(time_ns) or vm.gone_ns is not None:
                return
            course = self._goes_on(watch, time_ns) or self._first_sign(vm, watch, seen, sign_ns)
        if course is None or course.role == "source":
            return
        course.missing(sign_ns)
        if watch.moved:
            course.moved_ns = max(watch.moved_ns(seen, time_ns), course.from_ns)
        course.waited_ns = time_ns

    def _first_sign(self, vm: Vm, watch: Watch, seen: Seen, sign_ns: int) -> Course | None:
        kind, why = kind_of(vm.peer)
        course = self._begin(vm, watch, kind, "destination", "kernel", sign_ns)
        if course is not None:
            course.begun = [why, words.signs(watch.seen, seen, watch.uffds)]
            if watch.before:
                course.begun.append(words.earlier(watch.before))
            if watch.follow not in ("followed", "absent"):
                course.begun.append(words.silent(watch.reason or watch.follow))
            course.enter("paging", sign_ns)
        return course

    def _first_said(
        self, vm: Vm, watch: Watch, answer: PeerMigration, meta: dict[str, Any], at_ns: int
    ) -> Course | None:
        """The migration that begins with this answer, if one does."""
        missed = False
        if answer.status in status.STATES:
            if watch.said in status.STATES:
                return None
            last = watch.last
            if last is not None and not last.final and at_ns - (last.to_ns or 0) < _LATE_NS:
                last.last_word(answer, meta, at_ns)
                return None
            missed = watch.said_ns > watch.over_ns
        if not missed and not status.begins(answer.status, answer.role):
            return None
        role: Role = answer.role or ("destination" if watch.uffds else "source")
        from_ns = watch.said_ns if missed else at_ns
        if answer.total_ns:  # how long it has lasted, by the source
            from_ns = max(at_ns - answer.total_ns, watch.said_ns, watch.rested_ns)
        course = self._begin(vm, watch, "precopy", role, "qmp", from_ns)
        if course is not None:
            course.begun = [words.said(answer, missed)]
            if watch.before and role == "destination":
                course.begun.append(words.earlier(watch.before))
            if from_ns < at_ns:
                course.enter("precopy", from_ns)
        return course

    def _begin(self, vm: Vm, watch: Watch, kind: Kind, role: Role, how: How, from_ns: int) -> Course | None:
        """None if too many go on."""
        while len(self._courses) >= MAX_KEPT:
            over = next((one for one in self.courses() if one.state != "active"), None)
            if over is None:
                return None
            del self._courses[over.id]
        if watch.last is not None:
            watch.last.forget_base()
        base = Standing.of(self._counted, vm)
        course = Course(vm.id, vm.name, vm.peer.uuid, kind, role, how, from_ns, base)
        while course.id in self._courses:
            course.id += "b"
        course.vcpus, course.moved_ns, course.waited_ns = len(vm.vcpus()), from_ns, from_ns
        self._courses[course.id] = watch.course = course
        return course

    def _goes_on(self, watch: Watch, time_ns: int) -> Course | None:
        last = watch.last
        if last is None or not last.idle or last.base is None or last.id not in self._courses:
            return None
        last.resume(time_ns)
        watch.course, watch.last = last, None
        return last

    def _see(self, vm: Vm, watch: Watch, course: Course, time_ns: int) -> None:
        """What discovery says of a VM whose migration goes on."""
        asked = course.how == "qmp" and watch.follow == "followed"
        if vm.gone_ns is not None:
            self._gone(vm, watch, course)
        elif watch.uffds and not vm.peer.uffds and course.role == "destination":
            if not asked and course.closing is None:
                # QEMU closes it when it has every page. Of others, and of one that has fallen silent, it is not known.
                done = course.kind == "postcopy" and course.how == "kernel"
                course.closing = Closing("completed" if done else "ended", time_ns, words.closed(watch.uffds), time_ns)
        elif course.how == "kernel":
            kind, why = kind_of(vm.peer)
            if kind == "postcopy" and (course.kind == "page-in" or why.startswith(THREADS)):  # they come later, and go
                course.kind, course.begun[0] = kind, why

    def _look(self, watch: Watch, course: Course, time_ns: int) -> None:
        vm, closing = self._vms.get(course.vm), course.closing
        if vm is None:
            return
        course.look(self._counted, vm, len(watch.seen.open_ns), watch.moved, time_ns)
        watch.moved = False
        if closing is not None:
            if time_ns - closing.seen_ns >= _SETTLE_NS:
                self._end(watch, course, self._judged(vm, course, closing), idle=False)
            return
        asked = course.how == "qmp" and watch.follow == "followed"
        if not asked and time_ns - max(course.last_sign_ns, course.waited_ns) >= IDLE_NS:
            idle = Closing("ended", course.last_sign_ns, words.idle(IDLE_NS, watch.uffds), time_ns)
            closing = self._judged(vm, course, idle)
            self._end(watch, course, closing, idle=closing is idle)

    def _judged(self, vm: Vm, course: Course, closing: Closing) -> Closing:
        """How it has ended, now that all is counted: that nobody waits is no success if nobody was answered."""
        unfilled = self._unanswered.unfilled(vm.number)
        unfinished = self._unanswered.never_ended(vm.number, vm.gone_ns is not None)
        if closing.said or course.role == "source" or not (unfilled or unfinished):
            return closing
        why = words.unfilled(unfilled) if unfilled else words.unfinished(unfinished)
        return replace(closing, state="failed", why=f"{closing.why} {why}")

    def _gone(self, vm: Vm, watch: Watch, course: Course) -> None:
        closing = course.closing
        other = self._courses.get(course.other or "") if course.phase in status.POSTCOPY else None
        if closing is None and course.role == "source" and other is not None:
            if other.state == "active" and self._time_ns - (vm.gone_ns or 0) < _LAST_WORD_NS:
                return  # it may have sent everything: the destination will say so
            state: State = "completed" if other.state == "completed" else "failed"
            closing = Closing(state, course.last_sign_ns, words.other_side(other.state), self._time_ns)
        if closing is None:
            unfinished = self._unanswered.never_ended(vm.number)
            torn = course.how == "qmp" or (course.kind == "postcopy" and watch.uffds > 0)
            state = "failed" if unfinished or (torn and course.role == "destination") else "ended"
            status_then = course.answer.get("status") if course.answer else None
            after_ns = (vm.gone_ns or 0) - course.last_sign_ns
            why = words.gone(after_ns, unfinished, watch.uffds, status_then)
            closing = Closing(state, course.last_sign_ns, why, self._time_ns)
        self._end(
            watch, course, closing if closing.state == "failed" else self._judged(vm, course, closing), idle=False
        )

    def _end(self, watch: Watch, course: Course, closing: Closing, idle: bool) -> None:
        # The last fill is the end of a destination; what QEMU says is said when it is asked.
        if course.role == "source" and course.other in self._courses:
            course.switched(self._courses[course.other].missing_from_ns)
        moved = course.role == "destination" and course.missing_from_ns is not None
        at_ns = closing.at_ns
        if moved:
            at_ns = min(max(at_ns, watch.last_ns), course.moved_ns)
        course.end(self._counted, self._vms.get(course.vm), closing.state, at_ns, closing.why, idle)
        watch.rest(course.to_ns or at_ns, self._time_ns)

    def _told(self, course: Course, samples: bool) -> dict[str, Any]:
        return course.told(self._counted, self._vms.get(course.vm), self._time_ns, samples)
