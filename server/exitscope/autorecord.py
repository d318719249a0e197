"""Records each migration by itself, from before its first sign until after its last fill (`--auto-record`).

What goes on already when it is noticed is not lost: a preroll keeps the seconds before.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from .errors import ApiError
from .migrations.course import Course
from .migrations.tracker import Tracker
from .recordings.library import MAX_NAME, Library
from .recordings.preroll import Preroll

log = logging.getLogger("exitscope")

MAX_S: Final = 600.0
"""A paging-in that the kernel shows may go on for ever: a recording of it ends after so long."""

MAX_PAGE_INS: Final = 2
"""Of them are recorded at once."""

AGAIN_S: Final = 600.0
"""VMs of one name that are paged in again and again are recorded once in this time; QEMU's migrations always are."""

_NOT: Final = "It is not recorded by itself"
_LOOK_S: Final = 0.1
_MEET_S: Final = 0.5  # after the first look: by then it is known whether the other side is on this host
_GRACE_S: Final = 0.5  # totals and records of the last fill, and QEMU's last word
_OTHER_S: Final = 3.0  # until the source is over, too: never if the destination has died
_MAX_KNOWN: Final = 256


@dataclass(slots=True, eq=False)
class _Own:
    """One of our recordings. over_s: when all that it is of was seen to be over."""

    id: str
    courses: list[Course]
    begun_s: float
    over_s: float | None = None
    stopping: asyncio.Task[None] | None = None


class AutoRecorder:
    """tracker: gives that of the source. `run` until cancelled."""

    def __init__(self, library: Library, tracker: Callable[[], Tracker]) -> None:
        self._library = library
        self._tracker = tracker
        self._preroll = Preroll(library.socket_path) if library.socket_path else None
        self._known: dict[str, None] = {}
        self._recorded_s: dict[str, float] = {}  # name -> when a recording of such a page-in ended
        self._own: list[_Own] = []
        self._seen_s: dict[str, float] = {}
        self._looked = False

    async def run(self) -> None:
        """Look for migrations, and record them."""
        if self._preroll is None:
            return
        waiting = asyncio.create_task(self._library.aside.run(self._preroll.run()))
        try:
            while not waiting.done():
                await self._look(self._preroll)
                await asyncio.sleep(_LOOK_S)
            await waiting
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    async def _look(self, preroll: Preroll) -> None:
        now_s = time.monotonic()
        for course in self._tracker().courses():
            if course.id in self._known:
                continue
            if course.state != "active" and not self._looked:  # it was over before we came
                self._known[course.id] = None
            elif now_s - self._seen_s.setdefault(course.id, now_s) >= _MEET_S:
                await self._meet(preroll, course)
        self._looked = True
        for own in list(self._own):
            self._watch(own)
        while len(self._known) > _MAX_KNOWN:
            del self._known[next(iter(self._known))]

    async def _meet(self, preroll: Preroll, course: Course) -> None:
        """One that is new."""
        other = next((own for own in self._own if any(course.other == one.id for one in own.courses)), None)
        already = self._library.recording(course.vm)
        if other is not None and other.stopping is None:
            self._library.include(other.id, course.vm, await self._library.aside.run(preroll.kept()))
            other.courses.append(course)
            course.recording = other.id
        elif already is not None:
            course.recording = already
        elif self._too_many(course):
            course.note(_NOT, f"{_NOT}: others like it are, or were a moment ago.")
        else:
            opening = await self._library.aside.run(preroll.take())
            what = "page-in" if course.kind == "page-in" else "migration"
            try:
                name = f"{what} of {course.vm_name}"[:MAX_NAME]
                course.recording = await self._library.start(name, course.vm, opening)
            except ApiError as error:
                log.warning("the %s of %s is not recorded: %s", what, course.vm_name, error)
                course.note(_NOT, f"{_NOT}: {error}.")
            else:
                log.info("recording the %s of %s as %s", what, course.vm_name, course.recording)
                self._own.append(_Own(course.recording, [course], time.monotonic()))
        self._known[course.id] = None
        self._seen_s.pop(course.id, None)

    def _too_many(self, course: Course) -> bool:
        """Pagings-in may be many, and may go on for ever: they leave room for others."""
        if not _is_page_in(course):
            return False
        since_s = time.monotonic() - self._recorded_s.get(course.vm_name, -AGAIN_S)
        return since_s < AGAIN_S or sum(any(map(_is_page_in, own.courses)) for own in self._own) >= MAX_PAGE_INS

    def _watch(self, own: _Own) -> None:
        """End it when it is time."""
        if own.stopping is not None:
            if own.stopping.done():
                self._own.remove(own)
            return
        now_s = time.monotonic()
        active = [course for course in own.courses if course.state == "active"]
        arriving = [course for course in own.courses if course.role == "destination"]
        if active and (not arriving or any(course in active for course in arriving)):
            own.over_s = None
            if all(map(_is_page_in, own.courses)) and now_s - own.begun_s > MAX_S:
                own.stopping = asyncio.create_task(self._stop(own, f"ended after {MAX_S:.0f} s, while it went on"))
            return
        own.over_s = own.over_s or now_s
        if now_s - own.over_s >= (_OTHER_S if active else _GRACE_S):
            own.stopping = asyncio.create_task(self._stop(own, ""))

    async def _stop(self, own: _Own, note: str) -> None:
        for course in own.courses:
            self._recorded_s[course.vm_name] = time.monotonic()
        while len(self._recorded_s) > _MAX_KNOWN:
            del self._recorded_s[next(iter(self._recorded_s))]
        try:
            await self._library.stop(own.id, note)
        except ApiError as error:  # deleted meanwhile
            log.info("the recording %s: %s", own.id, error)


def _is_page_in(course: Course) -> bool:
    return course.how == "kernel" and course.kind == "page-in"
