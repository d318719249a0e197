"""The pure modules between the WebSocket and the charts: state, series, status."""

from typing import Any

import pytest
from playwright.sync_api import Page

pytestmark = pytest.mark.needs("chromium")


def run(modules: Page, script: str, argument: Any = None) -> Any:
    """Evaluates a function body that sees the modules as `m` and the argument as `a`."""
    names = "['state', 'series', 'status']"
    loaded = f"await Promise.all({names}.map((name) => import(`/js/${{name}}.mjs`)))"
    return modules.evaluate(f"async (a) => {{ const m = Object.assign({{}}, ...{loaded}); {script} }}", argument)


def tick(second: float, **modes: Any) -> dict[str, Any]:
    return {
        "time_ns": second * 1e9,
        "modes": modes,
        "heat": [second, None],
        "queue": {"pending": 1, "total": 2},
    }


def uffd(p99: float, rate: float = 10) -> dict[str, float]:
    return {"rate_per_s": rate, "p50": 1, "p90": 2, "p99": p99, "max": p99}


TICKS_AFTER = "return a.reduce((s, e) => m.reduce(s, e, 0), m.INITIAL).ticks.map((t) => t.time_ns / 1e9);"


def frame(second: float, vm: str = "a") -> dict[str, Any]:
    return {
        "type": "frame",
        "vm": vm,
        "time_ns": second * 1e9,
        "wall_ms": 5e12,
        "tick": tick(second),
        "source": {},
    }


def test_ticks_follow_the_history_and_repeat_none(modules: Page) -> None:
    events = [
        {"type": "history", "vm": "a", "ticks": [tick(1), tick(2)]},
        frame(2),
        frame(3),
        frame(3),
        frame(4),
    ]
    assert run(modules, TICKS_AFTER, events) == [1, 2, 3, 4]


def test_ticks_are_bounded(modules: Page) -> None:
    script = (
        "let s = m.INITIAL; for (let i = 1; i <= 1000; i += 1) s = m.reduce(s, {...a, time_ns: i * 1e9, tick:"
        " {...a.tick, time_ns: i * 1e9}}, 0); return [s.ticks.length, s.ticks[0].time_ns / 1e9];"
    )
    assert run(modules, script, frame(1)) == [900, 101]


def test_another_vm_and_a_replay_that_begins_again_drop_the_past(modules: Page) -> None:
    history = {"type": "history", "vm": "a", "ticks": [tick(1), tick(2)]}
    assert run(modules, TICKS_AFTER, [history, frame(3, vm="b")]) == [3]
    assert run(modules, TICKS_AFTER, [history, frame(1)]) == [1]


def test_unknown_messages_change_nothing(modules: Page) -> None:
    assert run(modules, "return m.reduce(m.INITIAL, {type: 'novelty'}, 0) === m.INITIAL;")


def test_a_gap_stays_a_gap(modules: Page) -> None:
    ticks = [tick(1, uffd=uffd(5)), tick(2, uffd=uffd(6)), tick(5, uffd=uffd(7)), tick(6)]
    series = run(modules, "return m.seriesOf(a, 6e9);", ticks)
    assert series["modes"]["uffd"]["p99"] == [5, 6, None, None, 7, None]
    assert series["modes"]["uffd"]["rate"] == [10, 10, None, None, 10, 0]
    assert series["heat"] == [[1, 2, None, None, 5, 6], [None] * 6]
    assert list(series["modes"]) == ["uffd"]


def test_wide_columns_hold_the_worst_second(modules: Page) -> None:
    ticks = [tick(second, uffd=uffd(second * 100)) for second in range(1, 901)]
    series = run(modules, "return m.seriesOf(a, 900e9);", ticks)
    assert len(series["timesNs"]) == 300
    assert series["columnNs"] == 3e9
    assert series["modes"]["uffd"]["p99"][-2] == pytest.approx(89_900, abs=300)
    assert max(value for value in series["modes"]["uffd"]["p99"] if value) == 90_000


def test_brownout_and_fills_are_averaged_over_wide_columns_and_missing_where_no_tick_says(modules: Page) -> None:
    told = {"stalled": {"mean": 1.0, "peak": 2, "vcpus": 4}, "fills": {"demand": 30, "background": 600}}
    more = {"stalled": {"mean": 3.0, "peak": 4, "vcpus": 4}, "fills": {"demand": 90, "background": 0}}
    ticks = [tick(1) | told, tick(2) | more, tick(3)]
    script = "const {stalled, fills} = m.seriesOf(a, 3e9); return {stalled, fills};"
    series = run(modules, script, ticks)
    assert series["stalled"] == {"mean": [1, 3, None], "peak": [2, 4, None], "vcpus": [4, 4, None]}
    assert series["fills"] == {"demand": [30, 90, None], "background": [600, 0, None]}
    wide = run(modules, "const {stalled, fills} = m.seriesOf(a, 900e9); return {stalled, fills};", ticks)
    means = [value for value in wide["stalled"]["mean"] if value is not None]
    assert sum(means) / len(means) == pytest.approx(2, abs=1)
    assert max(value for value in wide["stalled"]["peak"] if value) == 4
    summed = run(modules, "return m.seriesOfColumns(a, 10e6).fills;", ticks[:2])
    assert summed == {"demand": [3000, 9000], "background": [60_000, 0]}  # per second, of columns of 10 ms
    assert (
        run(modules, "const {stalled, fills} = m.seriesOf(a, 3e9); return [stalled, fills];", [tick(1)]) == [None] * 2
    )


def test_columns_already_drawn_do_not_change(modules: Page) -> None:
    script = (
        "const at = (n) => { const s = m.seriesOf(a.slice(0, n), 900e9);"
        " return Object.fromEntries(s.timesNs.map((t, i) => [t, s.modes.uffd.p99[i]])); };"
        "const [x, y] = [at(880), at(883)];"
        "return Object.keys(x).filter((t) => t in y && x[t] !== null && x[t] !== y[t]).length;"
    )
    assert run(modules, script, [tick(second, uffd=uffd(second)) for second in range(1, 901)]) <= 1


@pytest.mark.parametrize(
    ("source", "connection", "received_ms", "kind"),
    [
        ({"kind": "live", "state": "connected", "age_ns": 0}, "open", 10_000, "live"),
        ({"kind": "live", "state": "connected", "age_ns": 0}, "open", 7_900, "stale"),
        ({"kind": "live", "state": "connected", "age_ns": 2.5e9}, "open", 10_000, "stale"),
        ({"kind": "live", "state": "stale", "age_ns": 0}, "open", 10_000, "stale"),
        ({"kind": "replay", "state": "connected", "age_ns": 0}, "open", 10_000, "replay"),
        ({"kind": "live", "state": "waiting", "age_ns": 0}, "open", 10_000, "waiting"),
        ({"kind": "none", "state": "connected", "age_ns": 0}, "open", 10_000, "waiting"),
        ({"kind": "live", "state": "connected", "age_ns": 0}, "lost", 10_000, "offline"),
    ],
)
def test_status(modules: Page, source: dict[str, Any], connection: str, received_ms: float, kind: str) -> None:
    state = {"frame": {"source": source}, "receivedMs": received_ms, "connection": connection}
    assert run(modules, "return m.statusOf({...m.INITIAL, ...a}, 10_000, null).kind;", state) == kind
    paused = run(modules, "return m.statusOf({...m.INITIAL, ...a}, 10_000, 4_000);", state)
    assert paused["kind"] == "paused"
    assert "6.0\u00a0s behind" in paused["sentence"]


@pytest.mark.parametrize(
    ("window_s", "held_s", "span_s"),
    [
        (10, 0, 30),
        (10, 25, 30),
        (10, 31, 60),
        (10, 900, 120),
        (30, 900, 180),
        (60, 5, 60),
        (900, 5, 900),
        (900, 900, 900),
    ],
)
def test_the_span_shown_is_filled_as_soon_as_can_be(modules: Page, window_s: int, held_s: int, span_s: int) -> None:
    ticks = [tick(second) for second in range(held_s)]
    assert run(modules, "return m.spanOf(a[0] * 1e9, a[1]) / 1e9;", [window_s, ticks]) == span_s
