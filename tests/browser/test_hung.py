"""A VM whose vCPUs all stand in a fault that does not end looks like that, not like an idle one."""

import re
from dataclasses import replace
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Open, Serve
from tests.browser.scenario import SCENARIOS

pytestmark = pytest.mark.needs("chromium")


@pytest.fixture
def hung(serve: Serve, open_page: Open) -> Page:
    return open_page(serve(SCENARIOS["hung"]).url, height=2400).page


def test_open_faults_colour_the_heat_map_and_lead_the_slowest(hung: Page) -> None:
    hung.wait_for_selector("#plot-heat .main-svg")
    newest = [row[-1] for row in hung.evaluate("document.querySelector('#plot-heat').data[0].z")]
    assert len(newest) == 4
    assert all(10 ** float(log) > 30e9 for log in newest)
    expect(hung.locator("#card-heat .note")).to_have_text("")
    rows = hung.locator("#slowest tbody tr:not(.blank)")
    expect(rows).to_have_count(4)
    expect(rows.first.locator("td.open")).to_have_text("open")
    expect(rows.first.locator("td").nth(2)).to_have_text("0")  # has stood for the longest
    expect(rows.first.locator("td").nth(4)).to_have_text(re.compile(r"^1\d\smin\s\d\d\ss$"))
    expect(hung.locator("#slowest-open")).to_have_text("4 open, first")
    expect(hung.locator("#total-open")).to_have_text(re.compile(r"^4 open · 1\d\smin\s\d\d\ss$"))


def test_nothing_that_did_not_end_reads_as_nought(hung: Page) -> None:
    expect(hung.locator("#vcpu-count")).to_have_text("4 vCPUs, 4 in a fault now")
    head = hung.locator("#vcpu-table thead th").all_inner_texts()
    row = hung.locator("#vcpu-table tbody tr:not(.pad)").first.locator("td").all_inner_texts()
    cells = dict(zip((name.split()[0] for name in head), row, strict=True))
    assert [cells[name] for name in ("p50", "p90", "p99", "max")] == ["–"] * 4
    expect(hung.locator("#uffd-p50")).to_have_text("–")
    expect(hung.locator("#uffd-rate")).to_have_text("none ended in this window")
    assert not re.search(r"(?<!\d)0\sns", hung.locator("#charts").inner_text())


def test_a_handler_is_judged_by_what_it_served(hung: Page) -> None:
    expect(hung.locator("#handler-sentence")).to_have_text(
        re.compile(
            r"^The uffd reader does not keep up: none of 4 waiting faults ended in the last 10\ss,"
            r" the oldest is 1\d\smin\s\d\d\ss old; 0 unread, uffd reader: busy 0\s%\.$"
        )
    )


def test_the_list_of_vms_says_which_one_hangs(hung: Page) -> None:
    hung.locator("#vm").select_option("all")
    expect(hung.locator("#vm-table tbody tr:not(.pad)").first.locator("td.open")).to_have_text(
        re.compile(r"^1\d\smin\s\d\d\ss$")
    )


def test_more_open_faults_than_rows_are_counted(serve: Serve, open_page: Open) -> None:
    page = open_page(serve(replace(SCENARIOS["hung"], vcpus=256)).url, height=2400).page
    expect(page.locator("#slowest-open")).to_have_text("256 open, the oldest ten first")
    expect(page.locator("#slowest tbody td.open")).to_have_count(10)


SENTENCE = "async (frame) => (await import('/js/sentences.mjs')).handlerSentence(frame).replaceAll('\\u00a0', ' ')"
READER = {"tid": 1, "name": "postcopy/fault", "role": "uffd reader", "busy": 0.2}


@pytest.mark.parametrize(
    ("served", "open_s", "queue", "busy", "sentence"),
    [
        (0, None, (0, 0), 0.0, "No userfaultfd fault ended in the last 10 s, and none waits in the queue."),
        (0, 0.2, (1, 1), 0.0, "No fault ended in the last 10 s; 1 unread of 1 waiting."),
        (0, 31, (0, 2), 0.0, "The uffd reader does not keep up: none of 2 waiting faults ended in the last 10 s, the "
         "oldest is 31.0 s old; 0 unread, uffd reader: busy 0 %."),
        (0, 31, (0, 0), 0.0, "No userfaultfd fault ended in the last 10 s, and none waits in the queue; yet a vCPU has "
         "been in a fault for 31.0 s."),
        (500, 31, (0, 2), 0.9, "The uffd reader has left a fault open for 31.0 s, though 500 faults ended in the last "
         "10 s; 0 unread of 2 waiting."),
        (500, 0.001, (1, 2), 0.2, "The uffd reader keeps up: 500 faults ended in the last 10 s, 1 unread of 2 waiting; "
         "busy 20 %."),
        (500, 0.001, (1, 2), None, "The uffd reader keeps up: 500 faults ended in the last 10 s, 1 unread of 2 "
         "waiting; how busy it is, is not known."),
        (500, 0.001, (9, 12), 0.97, "The uffd reader is busy 97 %: it is at its limit; 9 unread of 12 waiting."),
        (500, 0.001, (9, 12), 0.2, "The uffd reader is busy only 20 %, and yet 9 unread of 12 waiting: it waits for "
         "something itself."),
        (500, 0.001, (9, 12), None, "The uffd reader falls behind: 9 unread of 12 waiting; 500 faults ended in the "
         "last 10 s."),
    ],
)  # fmt: skip
def test_every_verdict_on_the_handler(
    modules: Page, served: int, open_s: float | None, queue: tuple[int, int], busy: float | None, sentence: str
) -> None:
    since = round(100e9 - open_s * 1e9) if open_s is not None else 0
    frame: dict[str, Any] = {
        "vm": "a", "vms": [], "time_ns": 100e9, "window_ns": 10e9, "window_filled_ns": 10e9,
        "modes": {"uffd": {"count": served}} if served else {}, "queue": {"pending": queue[0], "total": queue[1]},
        "threads": [READER | {"busy": busy}], "vcpus": [{"vm": "a", "vcpu": 0, "open_since_ns": since}],
    }  # fmt: skip
    assert modules.evaluate(SENTENCE, frame) == sentence


@pytest.mark.parametrize(
    ("asked_s", "filled_s", "text"),
    [(10, 10.0, "10 s"), (10, 10.85, "10.8 s"), (10, 4.2, "4.2 s"), (60, 60.9, "1 min 01 s"), (60, 60.1, "1 min")],
)
def test_the_time_that_a_window_covers_is_said(modules: Page, asked_s: int, filled_s: float, text: str) -> None:
    script = "async (frame) => (await import('/js/format.mjs')).covered(frame).replaceAll('\\u00a0', ' ')"
    assert modules.evaluate(script, {"window_ns": asked_s * 1e9, "window_filled_ns": filled_s * 1e9}) == text
