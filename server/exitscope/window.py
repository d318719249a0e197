"""Sliding windows over many growing counters, with bounded memory.

`Counters` holds cumulative counts (rows x width), of which most are never counted: those that are live in pages of
a pool (pages.py), and every array below has the pool's shape. Every update is kept as a sparse delta (cells,
increments) in ticks of three sizes: each update as it came, 1 s, 15 s. A window is then one more array, its *tail*:
the counts at the window's left edge, moved on by adding the ticks that leave the window. What happened in the window
is `now - tail`. So an update costs the same whatever the number of windows, and a window that nobody asks for costs
nothing: its tail is built from the kept ticks when it is asked for.

A window's left edge is the last tick boundary at or before `now - length`: it always reaches back at least
its length, if there is that much, and at most one tick more.

Memory: itemsize * PAGE for each page in use, for each of now, the two open ticks and every window in use; and at
most MAX_CELLS sparse deltas, of 3 bytes each as a rule.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .pages import PAGE, Pages, Sheet

NS_PER_S: Final = 1_000_000_000

WINDOWS: Final[dict[str, int]] = {
    "1s": NS_PER_S,
    "5s": 5 * NS_PER_S,
    "10s": 10 * NS_PER_S,
    "30s": 30 * NS_PER_S,
    "1m": 60 * NS_PER_S,
    "5m": 300 * NS_PER_S,
    "15m": 900 * NS_PER_S,
}
"""The windows on offer: name -> length in ns."""

DEFAULT_WINDOW: Final = "10s"

TICK_NS: Final = NS_PER_S

IDLE_NS: Final = 60 * NS_PER_S
"""A window that nobody asked for during so long gives its memory back."""

_LEVELS: Final = (
    (0, NS_PER_S, 1 << 20),
    (TICK_NS, 60 * NS_PER_S, 6 << 20),
    (15 * NS_PER_S, 900 * NS_PER_S, 12 << 20),
)
"""Tick length (0: every update), longest window, sparse deltas at most, of each level.

Enough for 256 vCPUs at 100,000 faults/s (tests/load_aggregate.py). Beyond the maximum the oldest ticks go:
the longest windows get shorter and say so (`filled_ns`), they never get wrong."""

MAX_CELLS: Final = sum(cells for _, _, cells in _LEVELS)


class _Tick:
    """What was added up to end_ns: cells (n,), uint32 indexes into the pool, and increments (n,)."""

    __slots__ = ("_first", "_gaps", "end_ns", "increments", "number", "size")

    def __init__(self, number: int, end_ns: int, cells: npt.NDArray[np.uint32], increments: npt.NDArray[Any]) -> None:
        self.number = number
        self.end_ns = end_ns
        self.size = len(cells)
        self.increments = increments
        self._first: int | None = None  # None: the gaps are the cells themselves
        self._gaps: npt.NDArray[Any] = cells

    @property
    def cells(self) -> npt.NDArray[np.uint32]:
        """(n,) uint32."""
        if self._first is None:
            return self._gaps
        cells = np.empty(self.size, np.uint32)
        cells[0] = self._first
        np.cumsum(self._gaps, out=cells[1:], dtype=np.uint32)
        cells[1:] += np.uint32(self._first)
        return cells

    def pack(self) -> "_Tick":
        """The same in less memory; cells must ascend."""
        if self.size > 1:
            gaps = np.diff(self._gaps)
            if gaps.max() < 1 << 16:
                self._first, self._gaps = int(self._gaps[0]), gaps.astype(np.uint16)
        if self.size and self.increments.min() >= 0:
            most = self.increments.max()
            small = next((kind for kind in (np.uint8, np.uint16, np.uint32) if most <= np.iinfo(kind).max), None)
            if small is not None:
                self.increments = self.increments.astype(small)
        return self


@dataclass(slots=True)
class _Window:
    tail: npt.NDArray[Any]  # of the pool's shape
    edge_ns: int
    next_number: int  # the first tick that the tail may not hold yet
    asked_ns: int


@dataclass(slots=True)
class _Level:
    """Ticks of one size, oldest first; they cover the time from start_ns."""

    tick_ns: int
    kept_ns: int
    max_cells: int
    start_ns: int
    due_ns: int
    cells: int = 0
    ticks: deque[_Tick] = field(default_factory=deque)
    windows: dict[int, _Window] = field(default_factory=dict)


class Counters:
    """rows x width counters; see the module. Counts wrap modulo their dtype, so differences stay right.

    Cell row * width + column is one of them.
    """

    def __init__(self, rows: int, width: int, dtype: npt.DTypeLike, start_ns: int = 0) -> None:
        self._pages = Pages(rows, width)
        self.width = width
        self.dtype = np.dtype(dtype)
        self.time_ns = start_ns
        size = self._pages.capacity * PAGE
        self._now: npt.NDArray[Any] = np.zeros(size, dtype)
        self._open: list[npt.NDArray[Any]] = [np.zeros(size, dtype) for _ in _LEVELS[1:]]
        self._pending: list[_Tick] = []
        self._levels = [_Level(tick, kept, cells, start_ns, start_ns + tick) for tick, kept, cells in _LEVELS]
        self._number = 0
        self._page_since = np.zeros(self._pages.capacity, np.int64)  # ticks up to this number are not this page's
        self._any_reset = 0

    @property
    def now(self) -> Sheet:
        """The counts: now[rows], now[rows, columns], now.at(cells): copies."""
        return Sheet(self._pages, self._now)

    def start(self, time_ns: int) -> None:
        """Nothing was counted before this time. Only before the first count."""
        self.time_ns = time_ns
        for level in self._levels:
            level.start_ns, level.due_ns = time_ns, time_ns + level.tick_ns

    def set_base(self, cells: npt.NDArray[np.integer[Any]], counts: npt.NDArray[Any]) -> None:
        """Counts (n,) of fresh rows' cells (n,) from before anybody looked: they belong to no window."""
        where = self._place(cells)
        self._now[where] = counts
        for window in self._windows():
            window.tail[where] = counts

    def add(self, cells: npt.NDArray[np.integer[Any]], increments: npt.NDArray[Any]) -> None:
        """Add increments (n,) to distinct cells (n,); close() says until when."""
        if len(cells) == 0:
            return
        where = self._place(cells)
        increments = increments.astype(self.dtype, copy=False)
        self._now[where] += increments
        self._open[0][where] += increments
        self._pending.append(self._tick(where, increments, 0))

    def close(self, time_ns: int) -> None:
        """Everything added so far happened until time_ns; every window now ends there."""
        self.time_ns = time_ns
        pending = self._pending or [self._tick(np.empty(0, np.uint32), np.empty(0, self.dtype), 0)]
        self._pending = []
        for tick in pending:
            tick.end_ns = time_ns
            _append(self._levels[0], tick)
        for index, level in enumerate(self._levels[1:]):
            if time_ns < level.due_ns:
                break  # a longer tick ends only where a shorter one does
            self._flush(index, level)
        for level in self._levels:
            self._expire(level)

    def tick_due(self, time_ns: int) -> bool:
        """Whether close(time_ns) will end a 1 s tick."""
        return time_ns >= self._levels[1].due_ns

    def open_tick(self) -> tuple[Sheet, int]:
        """What was counted since the last 1 s tick ended, and when that was."""
        ticks = self._levels[1].ticks
        return Sheet(self._pages, self._open[0]), ticks[-1].end_ns if ticks else self._levels[1].start_ns

    def since(
        self, length_ns: int, rows: npt.NDArray[np.integer[Any]] | slice, columns: slice = slice(None)
    ) -> npt.NDArray[Any]:
        """What these rows and columns counted in the window that ends now, (rows, columns), a copy."""
        tail = self._window(length_ns).tail
        counted: npt.NDArray[Any] = self.now[rows, columns] - Sheet(self._pages, tail)[rows, columns]
        return counted

    def filled_ns(self, length_ns: int) -> int:
        """How much time the window really covers."""
        return self.time_ns - self._window(length_ns).edge_ns

    def reset_row(self, row: int) -> None:
        """Start the row from zero in every window, as if it had never counted."""
        pages = self._pages.give_back(row)
        if not len(pages):
            return
        for array in (self._now, *self._open, *(window.tail for window in self._windows())):
            array.reshape(-1, PAGE)[pages] = 0
        self._page_since[pages] = self._any_reset = self._number

    @property
    def cells_kept(self) -> int:
        """Sparse deltas kept now, over all ticks; at most MAX_CELLS and one tick more of each size."""
        return sum(level.cells for level in self._levels)

    def _windows(self) -> Iterator[_Window]:
        for level in self._levels:
            yield from level.windows.values()

    def _place(self, cells: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.uint32]:
        """Where these cells are in the pool, which grows if it must."""
        where = self._pages.place(cells)
        if self._pages.capacity * PAGE > len(self._now):
            size = self._pages.capacity * PAGE
            self._now = _longer(self._now, size)
            self._open = [_longer(array, size) for array in self._open]
            self._page_since = _longer(self._page_since, self._pages.capacity)
            for window in self._windows():
                window.tail = _longer(window.tail, size)
        return where

    def _tick(self, cells: npt.NDArray[np.uint32], increments: npt.NDArray[Any], end_ns: int) -> _Tick:
        self._number += 1
        return _Tick(self._number, end_ns, cells, increments)

    def _flush(self, index: int, level: _Level) -> None:
        """Close the level's open tick and pass it on to the next level."""
        open_tick = self._open[index]
        used = self._pages.used * PAGE
        cells = np.flatnonzero(open_tick[:used] != 0).astype(np.uint32)  # five times as fast on booleans
        increments = open_tick[cells]
        open_tick[cells] = 0
        if index + 1 < len(self._open):
            self._open[index + 1][cells] += increments
        _append(level, self._tick(cells, increments, self.time_ns).pack())
        # Boundaries keep their rhythm whatever the updates' jitter, unless updates stayed away.
        level.due_ns = max(level.due_ns + level.tick_ns, self.time_ns + level.tick_ns // 2)

    def _expire(self, level: _Level) -> None:
        for length_ns, window in list(level.windows.items()):
            if self.time_ns - window.asked_ns > IDLE_NS:
                del level.windows[length_ns]
                continue
            for tick in level.ticks:
                if tick.end_ns > self.time_ns - length_ns:
                    break
                self._leave(window, tick)
        while level.ticks and (level.ticks[0].end_ns <= self.time_ns - level.kept_ns or level.cells > level.max_cells):
            oldest = level.ticks.popleft()
            level.cells -= oldest.size
            level.start_ns = oldest.end_ns
            for window in level.windows.values():
                self._leave(window, oldest)

    def _leave(self, window: _Window, tick: _Tick) -> None:
        if tick.number < window.next_number:
            return
        cells, increments = self._still_valid(tick)
        window.tail[cells] += increments
        window.edge_ns = tick.end_ns
        window.next_number = tick.number + 1

    def _still_valid(self, tick: _Tick) -> tuple[npt.NDArray[np.uint32], npt.NDArray[Any]]:
        """The tick without what rows counted before they were reset."""
        cells = tick.cells
        if tick.number > self._any_reset:
            return cells, tick.increments
        valid = self._page_since[cells // PAGE] < tick.number
        return cells[valid], tick.increments[valid]

    def _window(self, length_ns: int) -> _Window:
        number = next(i for i, level in enumerate(self._levels) if length_ns <= level.kept_ns)
        windows = self._levels[number].windows
        if length_ns not in windows:
            windows[length_ns] = self._build(number, length_ns)
        window = windows[length_ns]
        window.asked_ns = self.time_ns
        return window

    def _build(self, number: int, length_ns: int) -> _Window:
        """Backwards from now: less the open ticks, less the closed ones inside the window."""
        level = self._levels[number]
        used = self._pages.used * PAGE
        tail = np.zeros_like(self._now)
        tail[:used] = self._now[:used]
        for open_tick in self._open[:number]:
            tail[:used] -= open_tick[:used]
        for tick in reversed(level.ticks):
            if tick.end_ns <= self.time_ns - length_ns:
                return _Window(tail, tick.end_ns, tick.number + 1, self.time_ns)
            cells, increments = self._still_valid(tick)
            tail[cells] -= increments
        return _Window(tail, level.start_ns, 0, self.time_ns)


def _append(level: _Level, tick: _Tick) -> None:
    level.ticks.append(tick)
    level.cells += tick.size


def _longer(array: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """The same with zeros behind it: memory that nobody has touched costs nothing."""
    longer: npt.NDArray[Any] = np.zeros(size, array.dtype)
    longer[: len(array)] = array
    return longer
