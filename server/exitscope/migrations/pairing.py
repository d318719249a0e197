"""Which two migrations are the two sides of one, when a VM moves within this host."""

from collections.abc import Callable, Iterable
from typing import Final

from .course import Course

_APART_NS: Final = 5_000_000_000
"""One side may be over so long before the other is seen to begin: QEMU is asked once a second."""


def pair(courses: Iterable[Course]) -> None:
    """Name to each side the other, where that can be told; what is only inferred is said in the evidence."""
    courses = list(courses)
    alone = [course for course in courses if course.other is None]
    sources = [course for course in alone if course.role == "source"]
    destinations = [course for course in alone if course.role == "destination" and course.kind != "page-in"]
    if not sources or not destinations:
        return
    _match(sources, destinations, lambda a, b: a.uuid is not None and a.uuid == b.uuid)
    _match(sources, destinations, lambda a, b: a.vm_name == b.vm_name and not _strangers(a, b))
    now = [one for one in courses if one.state == "active" and one.kind != "page-in"]
    active = [[one for one in now if one.role == role] for role in ("source", "destination")]
    if [len(side) for side in active] == [1, 1]:
        (source,), (destination,) = active
        if source.other is None and destination.other is None and not _strangers(source, destination):
            _join(source, destination)
            for side in (source, destination):
                side.begun.append("The other side is inferred: no other VM of this host migrated at that time.")


def _match(sources: list[Course], destinations: list[Course], same: Callable[[Course, Course], bool]) -> None:
    for source in sources:
        fitting = [one for one in destinations if one.other is None and _overlap(source, one) and same(source, one)]
        if source.other is None and len(fitting) == 1:
            _join(source, fitting[0])


def _join(source: Course, destination: Course) -> None:
    source.other, destination.other = destination.id, source.id
    source.switched(destination.missing_from_ns)


def _overlap(a: Course, b: Course) -> bool:
    if a.vm == b.vm:
        return False
    ends = [one.to_ns if one.to_ns is not None else one.from_ns + (1 << 62) for one in (a, b)]
    return max(a.from_ns, b.from_ns) - min(ends) <= _APART_NS


def _strangers(a: Course, b: Course) -> bool:
    """Two VMs of which each has another uuid."""
    return a.uuid is not None and b.uuid is not None and a.uuid != b.uuid
