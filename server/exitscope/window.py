"""Sliding windows over many growing counters, with bounded memory.

`Counters` holds one dense array of cumulative counts (rows x width). Every update is kept as a sparse delta
(cells, increments) in ticks of three sizes: each update as it came, 1 s, 15 s. A window is then one more
array, its *tail*: the counts at the window's left edge, moved on by adding the ticks that leave the window.
What happened in the window is `now - tail`. So an update costs the same whatever the number of windows, and
a window that nobody asks for costs nothing: its tail is built from the kept ticks when it is asked for.

A window's left edge is the last tick boundary at or before `now - length`: it always reaches back at least
its length, if there is that much, and at most one tick more.

Memory: rows * width * itemsize for each of now, the two open ticks and every window in use (only rows that
were ever used count: the rest is untouched zero pages), and at most MAX_CELLS sparse deltas.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

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


@dataclass(frozen=True, slots=True)
class _Tick:
    """What was added up to end_ns. cells: (n,) uint32 indexes into the flat counters; increments: (n,)."""

    number: int
    end_ns: int
    cells: npt.NDArray[np.uint32]
    increments: npt.NDArray[Any]


@dataclass(slots=True)
class _Window:
    tail: npt.NDArray[Any]  # flat
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
    """rows x width counters; see the module. Counts wrap modulo their dtype, so differences stay right."""

    def __init__(self, rows: int, width: int, dtype: npt.DTypeLike, start_ns: int = 0) -> None:
        self.width = width
        self.now: npt.NDArray[Any] = np.zeros((rows, width), dtype)
        self.time_ns = start_ns
        self._flat = self.now.reshape(-1)
        self._open: list[npt.NDArray[Any]] = [np.zeros(rows * width, dtype) for _ in _LEVELS[1:]]
        self._pending: list[_Tick] = []
        self._levels = [_Level(tick, kept, cells, start_ns, start_ns + tick) for tick, kept, cells in _LEVELS]
        self._number = 0
        self._row_since = np.zeros(rows, np.int64)  # ticks up to this number are not this row's
        self._any_reset = 0
        self._used = 0  # flat cells in rows used so far

    def start(self, time_ns: int) -> None:
        """Nothing was counted before this time. Only before the first count."""
        self.time_ns = time_ns
        for level in self._levels:
            level.start_ns, level.due_ns = time_ns, time_ns + level.tick_ns

    def set_base(self, cells: npt.NDArray[np.integer[Any]], counts: npt.NDArray[Any]) -> None:
        """Counts (n,) of fresh rows' cells (n,) from before anybody looked: they belong to no window."""
        self._flat[cells] = counts
        for level in self._levels:
            for window in level.windows.values():
                window.tail[cells] = counts
        self._use(cells)

    def add(self, cells: npt.NDArray[np.integer[Any]], increments: npt.NDArray[Any]) -> None:
        """Add increments (n,) to distinct cells (n,) of the flattened counters; close() says until when."""
        if len(cells) == 0:
            return
        where = cells.astype(np.uint32, copy=False)
        increments = increments.astype(self.now.dtype, copy=False)
        self._flat[where] += increments
        self._open[0][where] += increments
        self._use(where)
        self._pending.append(self._tick(where, increments, 0))

    def close(self, time_ns: int) -> None:
        """Everything added so far happened until time_ns; every window now ends there."""
        self.time_ns = time_ns
        pending = self._pending or [self._tick(np.empty(0, np.uint32), np.empty(0, self.now.dtype), 0)]
        self._pending = []
        for tick in pending:
            _append(self._levels[0], _Tick(tick.number, time_ns, tick.cells, tick.increments))
        for index, level in enumerate(self._levels[1:]):
            if time_ns < level.due_ns:
                break  # a longer tick ends only where a shorter one does
            self._flush(index, level)
        for level in self._levels:
            self._expire(level)

    def tick_due(self, time_ns: int) -> bool:
        """Whether close(time_ns) will end a 1 s tick."""
        return time_ns >= self._levels[1].due_ns

    def open_tick(self) -> tuple[npt.NDArray[Any], int]:
        """What was counted since the last 1 s tick ended (rows, width), and when that was."""
        ticks = self._levels[1].ticks
        return self._open[0].reshape(self.now.shape), ticks[-1].end_ns if ticks else self._levels[1].start_ns

    def since(
        self, length_ns: int, rows: npt.NDArray[np.integer[Any]] | slice, columns: slice = slice(None)
    ) -> npt.NDArray[Any]:
        """What these rows and columns counted in the window that ends now, (rows, columns), a copy."""
        tail = self._window(length_ns).tail.reshape(self.now.shape)
        counted: npt.NDArray[Any] = self.now[rows, columns] - tail[rows, columns]
        return counted

    def filled_ns(self, length_ns: int) -> int:
        """How much time the window really covers."""
        return self.time_ns - self._window(length_ns).edge_ns

    def reset_row(self, row: int) -> None:
        """Start the row from zero in every window, as if it had never counted."""
        cells = slice(row * self.width, (row + 1) * self.width)
        tails = [window.tail for level in self._levels for window in level.windows.values()]
        for array in (self._flat, *self._open, *tails):
            array[cells] = 0
        self._row_since[row] = self._any_reset = self._number

    @property
    def cells_kept(self) -> int:
        """Sparse deltas kept now, over all ticks; at most MAX_CELLS and one tick more of each size."""
        return sum(level.cells for level in self._levels)

    def _use(self, cells: npt.NDArray[np.integer[Any]]) -> None:
        if len(cells):
            self._used = max(self._used, (int(cells.max()) // self.width + 1) * self.width)

    def _tick(self, cells: npt.NDArray[np.uint32], increments: npt.NDArray[Any], end_ns: int) -> _Tick:
        self._number += 1
        return _Tick(self._number, end_ns, cells, increments)

    def _flush(self, index: int, level: _Level) -> None:
        """Close the level's open tick and pass it on to the next level."""
        open_tick = self._open[index]
        cells = np.flatnonzero(open_tick[: self._used] != 0).astype(np.uint32)  # five times as fast on booleans
        increments = open_tick[cells]
        open_tick[cells] = 0
        if index + 1 < len(self._open):
            self._open[index + 1][cells] += increments
        _append(level, self._tick(cells, increments, self.time_ns))
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
            level.cells -= len(oldest.cells)
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
        if tick.number > self._any_reset:
            return tick.cells, tick.increments
        valid = self._row_since[tick.cells // self.width] < tick.number
        return tick.cells[valid], tick.increments[valid]

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
        tail = np.zeros_like(self._flat)
        tail[: self._used] = self._flat[: self._used]
        for open_tick in self._open[:number]:
            tail[: self._used] -= open_tick[: self._used]
        for tick in reversed(level.ticks):
            if tick.end_ns <= self.time_ns - length_ns:
                return _Window(tail, tick.end_ns, tick.number + 1, self.time_ns)
            cells, increments = self._still_valid(tick)
            tail[cells] -= increments
        return _Window(tail, level.start_ns, 0, self.time_ns)


def _append(level: _Level, tick: _Tick) -> None:
    level.ticks.append(tick)
    level.cells += len(tick.cells)
