"""Recordings in the page: made, listed, looked at in parts, played, compared and deleted; on a made-up server."""

import re
import time
from dataclasses import replace
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Open, Serve
from tests.browser.feed import FeedServer
from tests.browser.scenario import SCENARIOS, Scenario

pytestmark = pytest.mark.needs("chromium")
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><b>run</b>"
ROWS = "#rows tr"


@pytest.fixture
def server(serve: Serve) -> FeedServer:
    return serve(replace(SCENARIOS["library"]))


def plotted(page: Page, *plots: str) -> None:
    for plot in plots:
        page.locator(f"#plot-{plot}").scroll_into_view_if_needed()
        page.wait_for_selector(f"#plot-{plot} .main-svg")


def asked(server: FeedServer, what: str) -> list[Any]:
    return [entry[what] for entry in server.feed.library.asked if what in entry]


def test_a_recording_of_a_migration_leads_to_its_report(server: FeedServer, open_page: Open) -> None:
    id, recording = next(iter(server.feed.library.recordings.items()))
    recording.migrations = 1
    page = open_page(f"{server.url}recordings.html").page
    expect(page.locator(ROWS)).to_have_count(3)
    link = page.get_by_role("link", name="Migration report")
    expect(link).to_have_count(1)
    expect(page.locator(ROWS, has=link).locator(".name > a")).to_have_text(recording.name)
    expect(link).to_have_attribute("href", f"migration.html?recording={id}")


def test_record_names_the_run_shows_it_growing_and_saves_it(server: FeedServer, open_page: Open) -> None:
    page = open_page(server.url).page
    expect(page.locator("#recordings-count")).to_have_text("3")
    page.locator("#record").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#record-name")).to_be_focused()
    page.keyboard.type("night run")
    page.locator("#record-vm").select_option("vm-1")
    page.locator("#record-name").press("Enter")
    expect(page.locator("#record-label")).to_have_text("Stop")
    expect(page.locator("#record-panel")).to_be_hidden()
    assert asked(server, "start") == [{"name": "night run", "vm": "vm-1"}]
    chip = page.locator("#record-chip")
    expect(chip).to_have_text(re.compile(r"“night run” · 0:0[1-9] · \d.* faults"))
    before = chip.inner_text()
    expect(chip).not_to_have_text(before)
    page.locator("#record").click()
    expect(chip).to_have_text(re.compile(r"^Saved “night run” · 0:0\d · .*B · open$"))
    expect(page.locator("#record-label")).to_have_text("Record")
    chip.click()
    expect(page.locator("#part-name")).to_have_text("night run")


def test_a_recording_that_cannot_start_says_why_and_stays_open(server: FeedServer, open_page: Open) -> None:
    page = open_page(server.url, errors_allowed=True).page  # Chromium itself reports the refusal
    page.locator("#record").click()
    page.locator("#record-name").fill("full")
    page.get_by_role("button", name="Start recording").click()
    expect(page.locator("#record-error")).to_have_text(
        "the disk is full Free some space, or set --recordings elsewhere."
    )
    page.keyboard.press("Escape")
    expect(page.locator("#record-panel")).to_be_hidden()
    expect(page.locator("#record")).to_be_focused()


def test_a_recording_that_fails_is_told_with_its_reason(server: FeedServer, open_page: Open) -> None:
    running = server.feed.library.add("long", state="recording", began=time.monotonic())
    page = open_page(server.url).page
    expect(page.locator("#record-label")).to_have_text("Stop")
    running.state, running.note = "failed", "The disk is full; what was written is kept."
    expect(page.locator("#record-chip")).to_have_text(f"Recording failed: {running.note}")
    page.locator("#record-chip").click()
    row = page.locator(ROWS, has_text="long")
    expect(row.locator(".state")).to_have_text("failed")
    expect(row.locator("small span")).to_have_text(running.note)


def test_without_a_recording_the_list_says_how_to_make_one(serve: Serve, open_page: Open) -> None:
    page = open_page(serve(Scenario()).url + "recordings.html").page
    expect(page.locator("#empty-title")).to_have_text("No recording yet")
    expect(page.locator("#empty-commands code").first).to_have_text("exitscope record")
    page.locator("#record").click()
    page.locator("#record-name").press("Enter")
    expect(page.locator(ROWS)).to_have_count(1)
    expect(page.locator("#empty")).to_be_hidden()


def test_the_list_offers_all_formats_and_keeps_the_focus_over_updates(server: FeedServer, open_page: Open) -> None:
    page = open_page(server.url + "recordings.html").page
    expect(page.locator(ROWS)).to_have_count(3)
    first = page.locator(ROWS).first
    assert first.locator(".files a").all_inner_texts() == ["json", "csv", "parquet", "arrow", "perfetto", "recording"]
    with page.expect_download() as download:
        first.locator(".files a", has_text="csv").click()
    assert download.value.suggested_filename == "r0.csv"
    first.get_by_role("button", name="Delete").focus()
    server.feed.library.add("another")
    expect(page.locator(ROWS)).to_have_count(4, timeout=8000)
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Delete before the patch"


def test_delete_asks_first(server: FeedServer, open_page: Open) -> None:
    page = open_page(server.url + "recordings.html").page
    page.locator(ROWS).first.get_by_role("button", name="Delete").click()
    expect(page.locator("#confirm-title")).to_have_text("Delete “before the patch”?")
    expect(page.locator("#confirm-no")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#confirm")).to_be_hidden()
    assert asked(server, "delete") == []
    page.locator(ROWS).first.get_by_role("button", name="Delete").click()
    page.locator("#confirm-yes").click()
    expect(page.locator(ROWS)).to_have_count(2)
    assert asked(server, "delete") == ["r0"]
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Delete after the patch"


def test_summary_draws_every_chart_and_a_part_of_it(server: FeedServer, open_page: Open) -> None:
    page = open_page(server.url + "?recording=r0").page
    expect(page.locator("#part")).to_have_text("whole, 2:00")
    expect(page.locator("#badge-label")).to_have_text("SUMMARY")
    expect(page.locator("#wholeness")).to_contain_text("Whole")
    expect(page.locator("#conditions")).to_contain_text("qemu-system-x86_64 -machine q35")
    expect(page.locator("#slowest tbody tr:not(.blank)")).to_have_count(10)
    expect(page.locator("#vcpu-count")).to_have_text("4 vCPUs")
    expect(page.locator("#window")).to_be_hidden()
    plotted(page, "rate", "latency", "heat", "stall", "fills", "stages", "exits")
    assert page.locator("#range-timeline path").count() >= 2
    page.locator("#range-low").focus()
    for _ in range(5):
        page.keyboard.press("PageUp")
    expect(page).to_have_url(re.compile(r"from=\d+"))
    expect(page.locator("#part")).to_have_text(re.compile(r"^\d\d:\d\d:\d\d to \d\d:\d\d:\d\d, "))
    expect(page.locator(".of-span").first).to_contain_text("selected")
    assert "from_ns=" in str(page.locator("#download a").first.get_attribute("href"))
    shared = open_page(page.url).page
    expect(shared.locator("#part")).to_have_text(page.locator("#part").inner_text())
    page.locator("#whole").click()
    expect(page.locator("#part")).to_have_text("whole, 2:00")


def test_a_part_is_chosen_by_dragging(server: FeedServer, open_page: Open) -> None:
    page = open_page(server.url + "?recording=r0").page
    page.wait_for_selector("#range-timeline path")
    box = page.locator("#range-timeline").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 10, steps=4)
    page.mouse.up()
    expect(page.locator("#range-from")).to_have_text(re.compile("0:(29|30)"))
    expect(page.locator("#part")).to_contain_text("30\u00a0s")


def test_a_recording_that_is_not_there_says_so(server: FeedServer, open_page: Open) -> None:
    page = open_page(server.url + "?recording=gone", errors_allowed=True).page
    expect(page.locator("#empty-title")).to_have_text("This recording cannot be shown")
    expect(page.locator("#empty-reason")).to_contain_text("no recording 'gone'")
    page.get_by_role("link", name="All recordings").click()
    expect(page.locator(ROWS)).to_have_count(3)


def test_replay_plays_pauses_seeks_and_goes_back_to_live(server: FeedServer, open_page: Open) -> None:
    page = open_page(server.url + "recordings.html").page
    page.locator(ROWS).nth(1).get_by_role("button", name="Replay").click()
    expect(page.locator("#replay-bar")).to_be_visible()
    expect(page.locator("#badge-label")).to_have_text("REPLAY")
    expect(page.locator("#notice-text")).to_have_text(
        re.compile("^A replay of “after the patch” of .*: not this host now.$")
    )
    expect(page.locator("#replay-at")).not_to_have_text("0:00")
    expect(page.locator("#replay-timeline path").nth(1)).to_be_attached()
    page.keyboard.press("Space")
    expect(page.locator("#replay-play")).to_have_attribute("aria-label", "Play")
    expect(page.locator("#notice-text")).to_contain_text("paused")
    expect(page.locator("#badge-label")).to_have_text("REPLAY")
    seek = page.locator("#replay-seek")
    seek.focus()
    page.keyboard.press("Home")
    page.keyboard.press("PageUp")
    expect(page.locator("#replay-at")).to_have_text("0:12")
    expect(seek).to_have_attribute("aria-valuetext", re.compile(r"^0:12 of 2:00, \d\d:\d\d:\d\d$"))
    page.locator("#replay-speed label", has_text="16×").click()
    page.locator("#replay-play").click()
    expect(page.locator("#replay-at")).not_to_have_text("0:12")
    replays = asked(server, "replay")
    assert {"id": "r1", "paused": True} in replays
    assert {"id": "r1", "speed": 16} in replays
    assert any(abs(entry.get("at_ns", 0) - 1_012_000_000_000) < 1e9 for entry in replays)
    page.locator("#replay-back").click()
    expect(page.locator("#replay-bar")).to_be_hidden()
    expect(page.locator("#badge-label")).to_have_text("LIVE")
    expect(page.locator("#pause")).to_be_visible()


def test_a_replay_hides_no_alarm_of_this_host(server: FeedServer, open_page: Open) -> None:
    page = open_page(server.url + "recordings.html").page
    page.locator(ROWS).nth(1).get_by_role("button", name="Replay").click()
    expect(page.locator("#replay-banner")).to_be_visible()
    expect(page.locator("#replay-alarms")).to_have_text("")
    server.feed.scenario.host_alarms = 2
    expect(page.locator("#replay-alarms")).to_have_text("◆ 2 alarms on this host now")


def test_a_replay_that_fails_says_why(server: FeedServer, open_page: Open) -> None:
    page = open_page(server.url + "recordings.html").page
    page.locator(ROWS).nth(1).get_by_role("button", name="Replay").click()
    expect(page.locator("#replay-bar")).to_be_visible()
    server.feed.library.fail("the replay of after the patch ended: the recording is damaged")
    expect(page.locator("#notice-error")).to_have_text("the replay of after the patch ended: the recording is damaged")
    expect(page.locator("#replay-bar")).to_be_hidden()
    expect(page.locator("#badge-label")).to_have_text("LIVE")


def test_a_replay_that_ended_plays_again_from_the_beginning(server: FeedServer, open_page: Open) -> None:
    page = open_page(server.url + "recordings.html").page
    page.locator(ROWS).first.get_by_role("button", name="Replay").click()
    expect(page.locator("#replay-bar")).to_be_visible()
    page.locator("#replay-seek").focus()
    page.keyboard.press("End")
    expect(page.locator("#replay-play")).to_have_attribute("aria-label", "Play")
    expect(page.locator("#replay-at")).to_have_text("2:00")
    page.locator("#replay-play").click()
    expect(page.locator("#replay-at")).to_have_text(re.compile("0:0"))


def test_two_are_chosen_and_compared(server: FeedServer, open_page: Open) -> None:
    page = open_page(server.url + "recordings.html").page
    go = page.locator("#pair-go")
    expect(go).to_be_disabled()
    page.get_by_role("radio", name="before the patch as A").check()
    page.get_by_role("radio", name="before the patch as B").check()
    expect(go).to_have_text("Choose two different ones")
    page.get_by_role("radio", name="after the patch as A").check()
    page.locator("#pair-swap").click()
    expect(page.locator("#pair-b")).to_have_text("after the patch")
    go.click()
    expect(page.locator("#verdict-mark")).to_have_text("B IS FASTER")
    expect(page.locator("#verdict-sentence")).to_contain_text("2.6× as fast")
    expect(page.locator("#a-name")).to_have_text("before the patch")
    assert page.locator("#figures tbody th").all_inner_texts() == ["p50", "p90", "p99", "mean", "max", "rate"]
    expect(page.locator("#figures tbody tr").first).to_contain_text("0.37× to 0.41×")
    expect(page.locator("#conditions-table tbody tr")).to_have_count(1)
    expect(page.locator("#stages tbody tr")).to_have_count(5)
    expect(page.locator("#counts")).to_contain_text("EFAULT")
    plotted(page, "ratio", "vcpus", "ecdf", "stages")
    page.locator("#vcpus-p99").check(force=True)
    expect(page.locator("#plot-vcpus")).to_have_attribute("aria-label", re.compile("^p99 of 4 vCPUs"))
    page.locator("#swap").click()
    expect(page.locator("#a-name")).to_have_text("after the patch")


def test_an_unfair_comparison_is_refused_until_forced_and_then_marked(serve: Serve, open_page: Open) -> None:
    server = serve(replace(SCENARIOS["library"], unfair=True))
    page = open_page(server.url + "compare.html?a=r0&b=r1").page
    expect(page.locator("#verdict-mark")).to_have_text("NO WINNER: UNFAIR CONDITIONS")
    expect(page.locator("#conditions-table tr.unfair")).to_contain_text("vCPUs")
    expect(page.locator("#conditions-count")).to_contain_text("1 of them makes the comparison unfair")
    page.locator("#force").click()
    expect(page.locator("#verdict-mark")).to_have_text("FORCED, CONDITIONS ARE UNFAIR · B IS FASTER")
    expect(page.locator("#force")).to_be_hidden()


def test_a_comparison_of_nothing_says_so(server: FeedServer, open_page: Open) -> None:
    page = open_page(server.url + "compare.html?a=r0").page
    expect(page.locator("#empty-text")).to_have_text("A comparison needs an A and a B.")
    page = open_page(server.url + "compare.html?a=r0&b=none", errors_allowed=True).page
    expect(page.locator("#empty-text")).to_contain_text("no such recording")


def test_names_are_text_everywhere(serve: Serve, open_page: Open) -> None:
    server = serve(Scenario(recordings=(HOSTILE, "other")))
    page = open_page(server.url + "recordings.html").page
    expect(page.locator(f"{ROWS} .name a").first).to_have_text(HOSTILE)
    page.locator(ROWS).first.get_by_role("button", name="Delete").click()
    expect(page.locator("#confirm-title")).to_contain_text(HOSTILE)
    for path, place in (("?recording=r0", "#part-name"), ("compare.html?a=r0&b=r1", "#a-name")):
        page = open_page(server.url + path).page
        expect(page.locator(place)).to_have_text(HOSTILE)
        assert page.locator("main img, header img").count() == 0
        assert page.title().startswith(HOSTILE)
