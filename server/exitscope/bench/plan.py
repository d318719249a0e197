"""What is measured, and in which order."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ..words import counted

MODES: Final = ("uffd", "exit")
DEFAULT_VCPUS: Final = (1, 2, 4, 8, 16, 32, 64)
AUTO: Final = 0
"""Handlers: as many as vCPUs, at most one per CPU."""


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """One point of the curves. handlers: threads that resolve; 0 in exit mode, where the vCPU threads do."""

    vcpus: int
    mode: str
    handlers: int

    @property
    def title(self) -> str:
        """uffd, 4 vCPUs, 2 handlers"""
        handlers = f", {counted(self.handlers, 'handler')}" if self.handlers else ""
        return f"{self.mode}, {counted(self.vcpus, 'vCPU')}{handlers}"

    @property
    def slug(self) -> str:
        """For names of files: uffd-4v-2h"""
        return f"{self.mode}-{self.vcpus}v" + (f"-{self.handlers}h" if self.handlers else "")


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one point."""

    point: Point
    repeat: int
    traced: bool

    @property
    def title(self) -> str:
        """uffd, 4 vCPUs, 2 handlers, traced"""
        return f"{self.point.title}, {'traced' if self.traced else 'untraced'}"


def points(vcpus: Sequence[int], modes: Sequence[str], handlers: Sequence[int], cpus: int) -> list[Point]:
    """Every combination once; AUTO becomes min(vcpus, cpus)."""
    found = {
        Point(count, mode, (threads or min(count, cpus)) if mode == "uffd" else 0)
        for count in vcpus
        for mode in modes
        for threads in handlers
    }
    return sorted(found)


def schedule(of: Sequence[Point], repeats: int, kinds: Sequence[bool], seed: int) -> list[Run]:
    """All runs, repeat by repeat: points in random order, and of each its traced and untraced run back to back.

    So what drifts on the machine meets all points alike, and the tool's cost is told from runs a moment apart.
    """
    order = random.Random(seed)
    runs = []
    for repeat in range(repeats):
        for point in order.sample(list(of), len(of)):
            runs += [Run(point, repeat, traced) for traced in order.sample(list(kinds), len(kinds))]
    return runs
