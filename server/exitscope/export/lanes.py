"""Tracks on which slices never overlap: what overlaps goes side by side, a lane each."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass
class _Track:
    uuids: list[int] = field(default_factory=list)
    ends_ns: list[int] = field(default_factory=list)


class Lanes:
    """Finds each slice a lane of its track that is free, or opens a new one.

    opened(track, uuid) is called for every new lane, before anything uses it.
    """

    def __init__(self, opened: Callable[[Any, int], None], first_uuid: int) -> None:
        self._opened = opened
        self._next_uuid = first_uuid
        self._tracks: dict[Hashable, _Track] = {}

    def place(
        self,
        tracks: list[Hashable],
        codes: npt.NDArray[Any],
        begin_ns: npt.NDArray[np.int64],
        end_ns: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.uint64]:
        """Lane's uuid of each slice, (n,). codes: (n,), index in tracks. In the order of begin_ns there are fewest."""
        uuids = np.zeros(len(codes), np.uint64)
        order = np.argsort(codes, kind="stable")
        edges = np.flatnonzero(np.diff(codes[order])) + 1
        for rows in np.split(order, edges) if len(order) else ():
            name = tracks[int(codes[rows[0]])]
            track = self._tracks.setdefault(name, _Track())
            begin, end = begin_ns[rows], end_ns[rows]
            if not track.uuids:
                self._open(name, track)
            if begin[0] >= track.ends_ns[0] and (begin[1:] >= end[:-1]).all():
                uuids[rows] = track.uuids[0]
                track.ends_ns[0] = int(end[-1])
            else:
                uuids[rows] = [
                    self._lane(name, track, *ends) for ends in zip(begin.tolist(), end.tolist(), strict=True)
                ]
        return uuids

    def _lane(self, name: Hashable, track: _Track, begin_ns: int, end_ns: int) -> int:
        lane = next((i for i, last_ns in enumerate(track.ends_ns) if last_ns <= begin_ns), None)
        if lane is None:
            lane = self._open(name, track)
        track.ends_ns[lane] = end_ns
        return track.uuids[lane]

    def _open(self, name: Hashable, track: _Track) -> int:
        track.uuids.append(self._next_uuid)
        track.ends_ns.append(0)
        self._next_uuid += 1
        self._opened(name, track.uuids[-1])
        return len(track.uuids) - 1
