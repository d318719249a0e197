"""Numbers become text in one module: its edges, run in the browser that uses it."""

from typing import Any

import pytest
from playwright.sync_api import Page

pytestmark = pytest.mark.needs("chromium")

S = 1e9
CASES: list[tuple[str, Any, str]] = [
    ("duration", None, "–"),
    ("duration", 0, "0 ns"),
    ("duration", 999, "999 ns"),
    ("duration", 999.6, "1.00 µs"),
    ("duration", 66_400, "66.4 µs"),
    ("duration", 999_600, "1.00 ms"),
    ("duration", 1_317_000, "1.32 ms"),
    ("duration", 59.9 * S, "59.9 s"),
    ("duration", 59.99 * S, "1 min 00 s"),
    ("duration", 125 * S, "2 min 05 s"),
    ("duration", 3720 * S, "1 h 02 min"),
    ("duration", "7", "–"),
    ("age", 420_000_000, "0.4 s"),
    ("age", -5, "0.0 s"),
    ("age", 12.4 * S, "12 s"),
    ("age", 200 * S, "3 min 20 s"),
    ("count", 1_204_331, "1,204,331"),
    ("count", None, "–"),
    ("compact", 0, "0"),
    ("compact", 7, "7"),
    ("compact", 0.42, "0.42"),
    ("compact", 999.7, "1.00k"),
    ("compact", 12_345, "12.3k"),
    ("compact", 4_500_000, "4.50M"),
    ("compact", 7.2e9, "7.20G"),
    ("rate", 812, "812/s"),
    ("rate", 12_345.6, "12.3k/s"),
    ("rate", None, "–"),
    ("share", 0, "0 %"),
    ("share", 0.0004, "<0.1 %"),
    ("share", 0.004, "0.4 %"),
    ("share", 0.371, "37 %"),
    ("share", 1, "100 %"),
    ("binary", 0, "0"),
    ("binary", 256 * 1024, "256 KiB"),
    ("binary", 96 << 20, "96 MiB"),
    ("binary", 3584 << 20, "3.5 GiB"),
    ("binary", None, "–"),
    ("address", 0x7F1234567000, "0x7f1234567000"),
    ("address", "0xffff", "0xffff"),
    ("address", "<b>", "–"),
    ("address", None, "–"),
    ("span", 10 * S, "10 s"),
    ("span", 120 * S, "2 min"),
    ("span", 90 * S, "90 s"),
]


def test_every_edge(modules: Page) -> None:
    answers = modules.evaluate(
        "async (cases) => { const format = await import('/js/format.mjs');"
        " return cases.map(([name, value]) => format[name](value).replaceAll('\\u00a0', ' ')); }",
        [[name, value] for name, value, _ in CASES],
    )
    assert dict(zip(map(str, CASES), answers, strict=True)) == {str(case): case[2] for case in CASES}


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (12e3, 3e6, ["10 µs", "100 µs", "1 ms", "10 ms"]),
        (1e9, 1e9, ["1 s", "2 s", "5 s", "10 s"]),
        (0, 5, ["1 ns", "2 ns", "5 ns", "10 ns"]),
    ],
)
def test_decades_hold_the_range(modules: Page, low: float, high: float, labels: list[str]) -> None:
    script = "async ([low, high]) => (await import('/js/format.mjs')).decades(low, high).labels"
    assert [label.replace("\u00a0", " ") for label in modules.evaluate(script, [low, high])] == labels


@pytest.mark.parametrize(
    ("high", "labels"), [(4, ["0", "1", "2", "3", "4"]), (31_000, ["0", "10k", "20k", "30k", "40k"])]
)
def test_scale_has_round_steps(modules: Page, high: float, labels: list[str]) -> None:
    script = "async (high) => { const f = await import('/js/format.mjs'); return f.scale(high, f.compact); }"
    assert modules.evaluate(script, high)["labels"] == labels


@pytest.mark.parametrize(
    ("pair", "text"),
    [
        ([58.2 * S, 61.4 * S], "58.2 s | 61.4 s"),
        ([643 * S, 663 * S], "643 s | 663 s"),
        ([0, 812_000], "0 µs | 812 µs"),
        ([4 * S * 3600, 5 * S * 3600], "4 h 00 min | 5 h 00 min"),
    ],
)
def test_two_lengths_beside_each_other_have_one_unit(modules: Page, pair: list[float], text: str) -> None:
    script = "async (a) => (await import('/js/format.mjs')).durations(...a).replaceAll('\\u00a0', ' ')"
    assert modules.evaluate(script, pair) == text
