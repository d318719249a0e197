"""A migration on the page: its strip, its phases on every chart over time, and the sentences that answer."""

import re
import time
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Open, Serve
from tests.browser.fake_migration import PHASES_S
from tests.browser.scenario import SCENARIOS, Scenario

pytestmark = pytest.mark.needs("chromium")
OVER_TIME = ("rate", "latency", "brownout", "heat", "flow", "gpa", "queue")
HOSTILE = "<img src=x onerror=\"document.title='owned'\">"


def drawn(page: Page, plot: str, what: str) -> Any:
    """A part of the layout that a chart was drawn with."""
    page.locator(f"#plot-{plot}").scroll_into_view_if_needed()
    page.wait_for_selector(f"#plot-{plot} .main-svg")
    return page.evaluate(f"document.querySelector('#plot-{plot}').layout.{what}")


def labels(page: Page, plot: str) -> set[str]:
    return {annotation["text"] for annotation in drawn(page, plot, "annotations") or []}


def test_without_a_migration_there_is_no_strip(page: Page) -> None:
    expect(page.locator("#migrations")).to_be_hidden()
    assert labels(page, "brownout") == set()


def test_the_strip_says_kind_role_phases_and_progress(serve: Serve, open_page: Open) -> None:
    page = open_page(serve(SCENARIOS["migrating"]).url).page
    strip = page.locator("#migrations article")
    expect(strip).to_have_count(1)
    expect(strip.locator("h2")).to_have_text("Postcopy migration")
    expect(strip).to_contain_text("this VM is the destination")
    expect(strip).to_contain_text("from QEMU (QMP)")
    expect(strip.locator(".chip.blue")).to_have_text(re.compile(r"^postcopy-active · \d"))
    assert [phase.inner_text() for phase in strip.locator(".phase b").all()][1:] == ["precopy", "postcopy"]
    expect(strip.locator(".phases")).to_have_attribute("aria-label", re.compile(r"setup 400.ms.*postcopy .* so far"))
    expect(strip.locator(".facts")).to_contain_text("of 4.29\u00a0GB")
    expect(strip.locator(".facts")).to_contain_text(re.compile(r"QEMU \| exitscope"))
    expect(strip.get_by_role("link", name="Report")).to_be_hidden()


def test_how_it_is_known_opens_by_keyboard(serve: Serve, open_page: Open) -> None:
    page = open_page(serve(SCENARIOS["migrating"]).url).page
    button = page.get_by_role("button", name="How it is known")
    button.focus()
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-expanded", "true")
    detail = page.locator(".migration .detail")
    expect(detail).to_contain_text("QEMU says so over QMP")
    expect(detail.locator("tbody tr")).to_have_count(4)
    page.wait_for_timeout(600)  # several frames later it is still open, and the focus is where it was
    expect(detail).to_be_visible()
    assert page.evaluate("document.activeElement.className") == "more"


def test_inferred_and_not_followed_is_said_plainly(serve: Serve, open_page: Open) -> None:
    page = open_page(serve(SCENARIOS["busy"]).url).page
    strip = page.locator("#migrations article")
    expect(strip).to_contain_text("from the kernel: inferred")
    expect(strip.locator(".chip.amber")).to_have_text("not followed: monitor busy")
    expect(strip.locator(".chip.amber")).to_have_attribute("title", re.compile("libvirtd"))
    expect(strip).to_contain_text("vCPUs blocked")
    expect(strip).not_to_contain_text("bandwidth")


def test_what_qemu_has_not_repeated_has_its_age_and_fades(serve: Serve, open_page: Open) -> None:
    server = serve(replace(SCENARIOS["migrating"]))
    page = open_page(server.url).page
    left = page.locator(".facts > div", has=page.get_by_text("left", exact=True))
    expect(left).to_have_attribute("title", re.compile(r", as it said \d\.\d\ss ago$"))
    expect(left).not_to_have_class(re.compile("old"))
    server.feed.scenario.qmp_age_s = 4.0
    expect(left.locator("dt")).to_have_text(re.compile(r"^left · 4\.\d\ss ago$"))
    expect(left).to_have_class(re.compile("old"))
    expect(page.locator("#migrations .chip.blue")).to_have_text(
        re.compile(r"^postcopy-active, as QEMU said 4\.\d\ss ago · ")
    )
    ours = page.locator(".facts > div", has=page.get_by_text("stalled", exact=True))
    expect(ours).not_to_have_class(re.compile("old"))  # the kernel's, and of now


def test_a_source_is_in_postcopy_as_soon_as_its_other_side_is(serve: Serve, open_page: Open) -> None:
    page = open_page(serve(replace(SCENARIOS["migrating"], migration="source", qmp_age_s=4.0)).url).page
    strip = page.locator("#migrations article")
    expect(strip.locator("h2")).to_have_text("Postcopy migration")
    expect(strip.locator(".chip.blue")).to_have_text(re.compile("^postcopy, as the other side says · "))


def test_one_that_ended_stays_with_its_report(serve: Serve, open_page: Open) -> None:
    page = open_page(serve(SCENARIOS["migrated"]).url).page
    strip = page.locator("#migrations article")
    expect(strip.locator(".chip.green")).to_have_text(re.compile(r"^completed after 44\.0\ss, .* ago$"))
    report = strip.get_by_role("link", name="Report")
    expect(report).to_have_attribute("href", "migration.html?recording=r0&migration=0")
    expect(page.locator("#brownout-sentence")).to_contain_text("in all while it migrated")


def test_phases_lie_on_one_clock_in_every_chart_over_time(serve: Serve, open_page: Open) -> None:
    server = serve(SCENARIOS["migrating"])
    page = open_page(server.url, width=1920, height=2300).page
    begins = {}
    for plot in OVER_TIME:
        assert labels(page, plot) >= {"precopy", "postcopy"}, plot
        found = drawn(page, plot, "annotations")
        begins[plot] = next(a["x"] for a in found if a["text"] == "postcopy" and a["xanchor"] == "left")
    clock_ms = time.time() * 1e3 - time.monotonic() * 1e3
    at_ms = server.feed.course.from_ns / 1e6 + PHASES_S["postcopy"][0] * 1e3 + clock_ms
    local_ms = at_ms - page.evaluate("new Date().getTimezoneOffset()") * 60_000
    drawn_ms = [datetime.fromisoformat(f"{begin[:23]}Z").timestamp() * 1e3 for begin in begins.values()]
    assert all(abs(begin_ms - local_ms) < 1000 for begin_ms in drawn_ms)


def test_charts_that_stand_above_each_other_share_one_axis(serve: Serve, open_page: Open) -> None:
    page = open_page(serve(SCENARIOS["migrating"]).url, width=1920, height=2300).page
    edges = set()
    for plot in ("brownout", "heat", "flow", "gpa"):
        drawn(page, plot, "margin")
        box = page.locator(f"#plot-{plot} .nsewdrag").first.bounding_box()
        assert box
        edges.add((round(box["x"]), round(box["x"] + box["width"])))
    assert len(edges) == 1


def test_bytes_left_are_laid_over_the_fills_from_before_the_page_was_opened(serve: Serve, open_page: Open) -> None:
    server = serve(SCENARIOS["migrating"])
    page = open_page(server.url, height=2300).page
    drawn(page, "flow", "yaxis")
    expect(page.locator("#flow-left")).to_be_visible()
    line = page.evaluate("document.querySelector('#plot-flow').data.find(({yaxis}) => yaxis === 'y2').y")
    assert line[0] == pytest.approx(4096 << 20, rel=0.01)
    assert line == sorted(line, reverse=True)


def test_demand_is_legible_beside_a_flood_of_background(serve: Serve, open_page: Open) -> None:
    page = open_page(serve(SCENARIOS["migrating"]).url, height=2300).page
    assert drawn(page, "flow", "yaxis.type") == "log"
    expect(page.locator("#flow-sentence")).to_have_text(
        re.compile(r"on demand, [\d.]+k ahead of need; so far [\d,]+ of [\d,]+ pages on demand, \d")
    )


def test_the_sentences_say_what_stands_still_and_whether_the_handler_keeps_up(serve: Serve, open_page: Open) -> None:
    server = serve(SCENARIOS["migrating"])
    page = open_page(server.url).page
    expect(page.locator("#brownout-sentence")).to_have_text(
        re.compile(r"^In the last second [\d.]+ of 4 vCPUs stood still; so far \d+.% of their time\.$")
    )
    expect(page.locator("#stall-so-far")).to_have_text(re.compile(r"^so far \d"))
    expect(page.locator("#handler-sentence")).to_have_text(
        re.compile(r"^The uffd reader keeps up: [\d,]+ faults .*; busy 12.%\.$")
    )
    expect(page.locator("#stages-sentence")).to_contain_text("handler and network (inferred)")
    server.feed.scenario = replace(server.feed.scenario, reader_busy=0.97)
    expect(page.locator("#handler-sentence")).to_contain_text("it is at its limit")
    server.feed.scenario = replace(server.feed.scenario, reader_busy=None)
    expect(page.locator("#handler-sentence")).to_contain_text("is not known")


def test_threads_are_named_by_role_with_their_share(page: Page) -> None:
    rows = page.locator("#threads tbody tr")
    assert [row.locator("td").first.inner_text() for row in rows.all()] == [
        "uffd reader",
        "page copier",
        "vhost",
        "main",
    ]
    expect(rows.first).to_contain_text("postcopy/fault")
    expect(rows.first).to_contain_text("12,345")


def test_the_slowest_faults_say_who_served_them(page: Page) -> None:
    served = page.locator("#slowest tbody tr:not(.blank) td.handler")
    expect(served.first).to_have_text("uffd reader · postcopy/fault")
    expect(served.first).to_have_attribute("title", re.compile("thread 4290"))


def test_what_a_vm_does_not_have_leaves_no_empty_box(serve: Serve, open_page: Open) -> None:
    page = open_page(serve(SCENARIOS["exits"]).url).page
    expect(page.locator("#exit-p50")).to_contain_text("s")
    expect(page.locator("#card-handler")).to_be_hidden()
    expect(page.locator("#card-brownout")).to_be_visible()
    expect(page.locator("#migrations")).to_be_hidden()


def test_the_list_of_vms_marks_the_one_that_migrates(serve: Serve, open_page: Open) -> None:
    page = open_page(serve(replace(SCENARIOS["migrating"], alarms=1)).url + "#vm=all").page
    expect(page.locator("#migrations h2")).to_have_text("Postcopy migration of demo-guest")
    row = page.locator("#vm-table tbody tr:not(.pad)").first
    expect(row.locator("td.migrating")).to_have_text(re.compile(r"^postcopy, destination · "))
    expect(row.locator("td.alarms")).to_have_text("◆ 1 alarm")


def test_a_recording_shows_its_migration_in_the_same_charts(serve: Serve, open_page: Open) -> None:
    page = open_page(serve(SCENARIOS["migrated"]).url + "?recording=r0", height=2300).page
    expect(page.locator("#migrations .chip.green")).to_have_text(re.compile(r"^completed after 44\.0\ss$"))
    for plot in ("brownout", "stall", "flow", "gpa"):
        assert "postcopy" in labels(page, plot)
    expect(page.locator("#brownout-sentence")).to_contain_text("stood still")
    expect(page.get_by_role("link", name="Report")).to_have_attribute("href", re.compile("migration=0$"))


def test_names_from_elsewhere_are_text(serve: Serve, open_page: Open) -> None:
    page = open_page(serve(Scenario(name=HOSTILE, migration="qmp", alarms=2)).url + "#vm=all", height=2300).page
    expect(page.locator("#migrations h2")).to_contain_text(HOSTILE)
    expect(page.locator("#alarm-list")).to_contain_text(HOSTILE)
    drawn(page, "brownout", "annotations")
    assert page.locator("#main img, .top img").count() == 0
    assert page.title() == "(2) exitscope"
