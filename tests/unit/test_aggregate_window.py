"""Sliding windows against a brute-force model."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exitscope import window as window_module
from exitscope.pages import PAGE
from exitscope.window import IDLE_NS, WINDOWS, Counters

S = 1_000_000_000
ROWS, WIDTH = 3, 3 * PAGE + 5
STEP = st.tuples(
    st.integers(50, 3_000),  # ms until the next update
    st.dictionaries(st.integers(0, ROWS * WIDTH - 1), st.integers(1, 1000), max_size=4),
    st.sampled_from([None, None, None, None, None, 0, 1, 2]),  # a row that is reset before
)


class Model:
    """Remembers every increment; knows the tick boundaries only from what Counters says it covers."""

    def __init__(self, start_ns: int) -> None:
        self.events: list[tuple[int, npt.NDArray[np.int64]]] = [(start_ns, np.zeros((ROWS, WIDTH), np.int64))]

    def add(self, time_ns: int, cells: dict[int, int]) -> None:
        counts = np.zeros(ROWS * WIDTH, np.int64)
        for cell, count in cells.items():
            counts[cell] = count
        self.events.append((time_ns, counts.reshape(ROWS, WIDTH)))

    def reset(self, row: int) -> None:
        for _, counts in self.events:
            counts[row] = 0

    def since(self, edge_ns: int) -> npt.NDArray[np.int64]:
        return sum(
            (counts for time_ns, counts in self.events if time_ns > edge_ns),
            np.zeros((ROWS, WIDTH), np.int64),
        )


@settings(max_examples=150, deadline=None)
@given(st.lists(STEP, min_size=1, max_size=60), st.sampled_from(list(WINDOWS.values())), st.booleans())
def test_every_window_is_what_brute_force_counts(
    steps: list[tuple[int, dict[int, int], int | None]], length_ns: int, early: bool
) -> None:
    """Asked for from the beginning (its tail moves) or at the end (its tail is built)."""
    time_ns = 7 * S
    counters, model = Counters(ROWS, WIDTH, np.uint32, time_ns), Model(time_ns)
    for wait_ms, cells, reset in steps:
        time_ns += wait_ms * 1_000_000
        if reset is not None:
            counters.reset_row(reset)
            model.reset(reset)
        counters.add(np.array(list(cells), np.int64), np.array(list(cells.values())))
        model.add(time_ns, cells)
        counters.close(time_ns)
        if early:
            counters.since(length_ns, slice(None))
    edge_ns = time_ns - counters.filled_ns(length_ns)
    assert (counters.since(length_ns, slice(None)) == model.since(edge_ns)).all()
    assert edge_ns <= max(time_ns - length_ns, 7 * S)  # it reaches back far enough


@pytest.mark.parametrize("length_ns", WINDOWS.values())
def test_a_window_covers_at_most_one_tick_more_than_its_length(length_ns: int) -> None:
    counters = Counters(1, 1, np.int64)
    counters.start(0)
    tick_ns = S // 5 if length_ns == S else S if length_ns <= 60 * S else 15 * S
    for step in range(1, 5 * 1000):
        counters.add(np.array([0]), np.array([1]))
        counters.close(step * S // 5)
        if step % 50 == 0:
            filled_ns = counters.filled_ns(length_ns)
            assert filled_ns <= length_ns + tick_ns + S // 5
            assert filled_ns >= min(length_ns, step * S // 5)
            assert counters.since(length_ns, slice(None))[0, 0] == round(filled_ns * 5 / S)


def test_counts_may_wrap_and_differences_stay_right() -> None:
    counters = Counters(1, 1, np.uint32)
    counters.set_base(np.array([0]), np.array([2**32 - 2], np.uint32))
    counters.add(np.array([0]), np.array([5]))
    counters.close(S)
    assert counters.since(10 * S, slice(None))[0, 0] == 5


def test_a_base_is_in_no_window_even_in_one_in_use() -> None:
    counters = Counters(2, 1, np.uint32)
    counters.close(S)
    counters.since(10 * S, slice(None))
    counters.set_base(np.array([1]), np.array([77], np.uint32))
    counters.close(2 * S)
    assert counters.since(10 * S, slice(None)).tolist() == [[0], [0]]
    assert counters.since(60 * S, slice(None)).tolist() == [[0], [0]]


def _run(counters: Counters, seconds: int, each: Callable[[], None] = lambda: None) -> None:
    for step in range(1, seconds * 5 + 1):
        counters.add(np.arange(counters.now.size), np.ones(counters.now.size))
        counters.close(step * S // 5)
        each()


def test_kept_ticks_are_bounded_and_a_shortened_window_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_module, "_LEVELS", ((0, S, 100), (S, 60 * S, 100), (15 * S, 900 * S, 100)))
    counters = Counters(4, 5, np.int64, 0)
    most = 0

    def look() -> None:
        nonlocal most
        most = max(most, counters.cells_kept)

    _run(counters, 300, look)
    assert most <= 3 * 120
    filled_ns = counters.filled_ns(60 * S)
    assert filled_ns < 60 * S
    assert (counters.since(60 * S, slice(None)) == round(filled_ns * 5 / S)).all()


def test_a_window_that_nobody_asks_for_gives_its_memory_back_and_comes_back_right() -> None:
    counters = Counters(1, 2, np.int64)
    counters.since(10 * S, slice(None))
    _run(counters, IDLE_NS // S + 2)
    assert not any(level.windows for level in counters._levels)
    assert (counters.since(10 * S, slice(None)) == round(counters.filled_ns(10 * S) * 5 / S)).all()


def test_memory_follows_what_has_counted_and_is_given_back() -> None:
    counters = Counters(4096, 10_000, np.int64)
    for row in range(100):
        counters.add(row * 10_000 + np.arange(300, 310), np.arange(10) + row)
    counters.close(S)
    assert counters._pages.used <= 201 and len(counters._now) <= 256 * PAGE
    assert (counters.since(10 * S, slice(0, 100), slice(300, 310)) == np.add.outer(np.arange(100), np.arange(10))).all()
    assert counters.now[99, 305] == 104 and not counters.now[100:].any()
    for row in range(100):
        counters.reset_row(row)
        counters.add(np.array([(row + 200) * 10_000 + 7]), np.array([1]))
    counters.close(2 * S)
    assert counters._pages.used <= 201, "pages of rows that were reset are used again"
    counted = counters.since(10 * S, slice(None))
    assert counted.sum() == 100 and (counted[200:300, 7] == 1).all()


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 1 << 40)), unique_by=lambda pair: pair[0], max_size=50),
    st.booleans(),
)
def test_a_packed_tick_is_the_same_tick(pairs: list[tuple[int, int]], negative: bool) -> None:
    cells = np.array(sorted(cell for cell, _ in pairs), np.uint32)
    increments = np.array([value for _, value in pairs], np.int64) * (-1 if negative else 1)
    packed = window_module._Tick(1, 0, cells, increments).pack()
    assert packed.cells.dtype == np.uint32 and (packed.cells == cells).all() and (packed.increments == increments).all()
