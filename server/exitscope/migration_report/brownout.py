"""How many vCPUs stood still at once: an exact step function of time, out of the intervals in which each did."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Brownout:
    """Of n vCPUs in [from_ns, to_ns), in columns of tick_ns of which the last one may be cut.

    time_at_ns: (n + 1,) time in which exactly so many stood still, ns; adds up to the whole. stall_ns: (n, columns) of
    each vCPU in each column, ns. peak: (columns,) most that stood still at once. all_ns, all_from_ns: the longest
    time that all stood still together, and when it began.
    """

    from_ns: int
    to_ns: int
    tick_ns: int
    time_at_ns: Times
    stall_ns: Times
    peak: Times
    all_ns: int
    all_from_ns: int

    @property
    def lengths_ns(self) -> Times:
        """Of the columns, (columns,)."""
        lengths = np.full(len(self.peak), self.tick_ns, np.int64)
        lengths[-1] = self.to_ns - self.from_ns - (len(lengths) - 1) * self.tick_ns
        return lengths

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """Average number that stood still, of each column."""
        return np.asarray(self.stall_ns.sum(axis=0) / self.lengths_ns, np.float64)


class Sweep:
    """Goes once over intervals that come sorted by their begin, in memory that does not grow with their number.

    Intervals of one vCPU may overlap: it stands still once, however many of its pages are missing.
    """

    def __init__(self, vcpus: int, from_ns: int, to_ns: int, tick_ns: int) -> None:
        """from_ns < to_ns; what lies outside of them is cut off."""
        self._from, self._to, self._tick = from_ns, to_ns, tick_ns
        self._vcpus = vcpus
        self._columns = -(-(to_ns - from_ns) // tick_ns)
        self._covered = np.full(vcpus, from_ns, np.int64)
        # A further column takes what ends where the last one does.
        self._stall = np.zeros((vcpus, self._columns + 1), np.int64)
        self._whole = np.zeros((vcpus, self._columns + 1), np.int64)  # columns passed whole, as differences
        self._peak = np.zeros(self._columns + 1, np.int64)
        self._time_at = np.zeros(vcpus + 1, np.int64)
        self._open: tuple[Times, Times] = (np.zeros(0, np.int64), np.zeros(0, np.int64))
        self._at, self._level = from_ns, 0
        self._all_since = from_ns
        self._longest = (0, from_ns)

    def add(self, row: Times, begin_ns: Times, end_ns: Times) -> None:
        """Intervals [begin_ns, end_ns) of vCPU number `row`, (m,) each; begin_ns never before those added earlier."""
        if not len(begin_ns):
            return
        horizon_ns = int(begin_ns.max())
        row, begin_ns, end_ns = self._united(row, np.maximum(begin_ns, self._from), np.minimum(end_ns, self._to))
        self._count(row, begin_ns, end_ns)
        moments = np.concatenate((self._open[0], begin_ns, end_ns))
        changes = np.concatenate((self._open[1], np.ones(len(row), np.int64), np.full(len(row), -1, np.int64)))
        final = moments < horizon_ns  # what comes later begins at the horizon or later
        self._open = moments[~final], changes[~final]
        self._step(moments[final], changes[final])

    def close(self) -> Brownout:
        """The result; add nothing any more."""
        self._step(*self._open)
        self._segments(np.array([self._at]), np.array([self._to]), np.array([self._level]))
        self._note_all(self._to if self._level == self._vcpus else self._all_since)
        stall = (self._stall + self._whole.cumsum(axis=1) * self._tick)[:, :-1]
        return Brownout(
            self._from, self._to, self._tick, self._time_at, stall, self._peak[:-1], self._longest[0], self._longest[1]
        )

    def _united(self, row: Times, begin_ns: Times, end_ns: Times) -> tuple[Times, Times, Times]:
        """The parts that no earlier interval of the same vCPU covers."""
        order = np.lexsort((begin_ns, row))
        row, begin_ns, end_ns = row[order], begin_ns[order], end_ns[order]
        span = self._to - self._from + 1
        base = row * span - self._from  # so that moments of the next vCPU are greater than all of this one
        reached = np.maximum.accumulate(np.maximum(end_ns, self._covered[row]) + base)
        first = np.flatnonzero(np.diff(row, prepend=-1))
        before = np.concatenate(([0], reached[:-1])) - base
        before[first] = self._covered[row[first]]
        last = np.append(first[1:], len(row)) - 1
        self._covered[row[last]] = reached[last] - base[last]
        begin_ns = np.maximum(begin_ns, before)
        kept = end_ns > begin_ns
        return row[kept], begin_ns[kept], end_ns[kept]

    def _count(self, row: Times, begin_ns: Times, end_ns: Times) -> None:
        """Into the columns of each vCPU."""
        begin, end = begin_ns - self._from, end_ns - self._from
        first, last = begin // self._tick, end // self._tick
        one = first == last
        np.add.at(self._stall, (row[one], first[one]), (end - begin)[one])
        row, begin, end, first, last = (values[~one] for values in (row, begin, end, first, last))
        np.add.at(self._stall, (row, first), (first + 1) * self._tick - begin)
        np.add.at(self._stall, (row, last), end - last * self._tick)
        np.add.at(self._whole, (row, first + 1), 1)
        np.add.at(self._whole, (row, last), -1)

    def _step(self, moments: Times, changes: Times) -> None:
        """Go on to the last of the moments."""
        at, place = np.unique(moments, return_inverse=True)
        change = np.zeros(len(at), np.int64)
        np.add.at(change, place.reshape(-1), changes)
        at, change = at[change != 0], change[change != 0]
        if not len(at):
            return
        levels = self._level + np.concatenate(([0], change.cumsum()))
        begins = np.concatenate(([self._at], at[:-1]))
        self._segments(begins, at, levels[:-1])
        for index in np.flatnonzero(levels[:-1] == self._vcpus).tolist():
            self._all_since = self._all_since if index == 0 else int(begins[index])
            self._note_all(int(at[index]))
        if levels[-1] == self._vcpus:
            self._all_since = int(at[-1])
        self._at, self._level = int(at[-1]), int(levels[-1])

    def _note_all(self, until_ns: int) -> None:
        if until_ns - self._all_since > self._longest[0]:
            self._longest = until_ns - self._all_since, self._all_since

    def _segments(self, begin_ns: Times, end_ns: Times, level: Times) -> None:
        """So many stood still from begin to end."""
        np.add.at(self._time_at, level, end_ns - begin_ns)
        some = end_ns > begin_ns
        begin_ns, end_ns, level = begin_ns[some], end_ns[some], level[some]
        first, last = (begin_ns - self._from) // self._tick, (end_ns - 1 - self._from) // self._tick
        np.maximum.at(self._peak, first, level)
        for index in np.flatnonzero(last > first).tolist():  # each begin of a column is in one segment at most
            part = self._peak[first[index] : last[index] + 1]
            np.maximum(part, level[index], out=part)
