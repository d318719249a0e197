"""Every state of the source has a design: what the page says in each."""

import re
import time
from dataclasses import replace

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Open, Serve
from tests.browser.scenario import SCENARIOS, Scenario

pytestmark = pytest.mark.needs("chromium")
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><b>vm</b>"


def badge(page: Page, label: str) -> None:
    expect(page.locator("#badge-label")).to_have_text(label)


def test_live_shows_both_modes(page: Page) -> None:
    badge(page, "LIVE")
    expect(page.locator("#uffd-p50")).to_contain_text("s")
    expect(page.locator("#vcpu-table tbody tr:not(.pad)")).to_have_count(4)
    expect(page.locator("#ledger-chips")).to_have_text("0 lost")
    expect(page.locator("#empty")).to_be_hidden()


@pytest.mark.parametrize(
    ("scenario", "label", "title", "command"),
    [
        ("empty", "LIVE", "No VM yet", "exitscope demo"),
        ("waiting", "WAITING", "Waiting for the collector", "sudo exitscope collect"),
    ],
)
def test_nothing_to_chart_says_what_to_do(
    serve: Serve, open_page: Open, scenario: str, label: str, title: str, command: str
) -> None:
    page = open_page(serve(SCENARIOS[scenario]).url).page
    badge(page, label)
    expect(page.locator("#empty-title")).to_have_text(title)
    expect(page.locator("#empty-commands code").first).to_have_text(command)
    expect(page.locator("#charts")).to_be_hidden()
    if SCENARIOS[scenario].reason:
        expect(page.locator("#empty-reason")).to_have_text(str(SCENARIOS[scenario].reason))


def test_a_vm_that_comes_replaces_the_empty_page(serve: Serve, open_page: Open) -> None:
    server = serve(replace(SCENARIOS["empty"]))
    page = open_page(server.url).page
    expect(page.locator("#empty")).to_be_visible()
    server.feed.scenario.empty = False
    expect(page.locator("#plot-rate .main-svg").first).to_be_visible()
    expect(page.locator("#empty")).to_be_hidden()


def test_a_collector_of_some_vms_alone_says_so(serve: Serve, open_page: Open) -> None:
    page = open_page(serve(Scenario(only="of process 7 and its descendants")).url).page
    badge(page, "LIVE")
    expect(page.locator("#notice-text")).to_contain_text("only VMs of process 7 and its descendants")


def test_stale_dims_and_counts_up(serve: Serve, open_page: Open) -> None:
    page = open_page(serve(SCENARIOS["stale"]).url).page
    badge(page, "STALE")
    expect(page.locator("body")).to_have_class("dim")
    expect(page.locator("#notice-text")).to_have_text(str(SCENARIOS["stale"].reason))
    expect(page.locator("#badge-age")).to_have_text(re.compile(r"data 7\.\d"))


def test_frames_that_stop_coming_turn_stale_without_the_server_saying_so(serve: Serve, open_page: Open) -> None:
    server = serve(Scenario())
    page = open_page(server.url).page
    badge(page, "LIVE")
    server.feed.scenario.silent = True
    badge(page, "STALE")
    first = page.locator("#badge-age").inner_text()
    expect(page.locator("#badge-age")).not_to_have_text(first)
    server.feed.scenario.silent = False
    badge(page, "LIVE")
    expect(page.locator("body")).not_to_have_class("dim")


def test_replay_says_so_and_why(serve: Serve, open_page: Open) -> None:
    page = open_page(serve(SCENARIOS["replay"]).url).page
    badge(page, "REPLAY")
    expect(page.locator("#notice-text")).to_have_text(str(SCENARIOS["replay"].reason))


def test_a_replay_is_never_taken_for_this_host(serve: Serve, open_page: Open) -> None:
    server = serve(replace(SCENARIOS["replay"]))
    page = open_page(server.url).page
    banner = page.locator("#replay-banner")
    expect(banner).to_have_text("REPLAY: a recording made on kvm-host-3, Linux 6.12.43, not this host now.")
    expect(page.locator("#alarm-quiet")).to_have_text(re.compile("^No alarm in the replay"))
    expect(page).to_have_title("Replay · exitscope")
    page.keyboard.press("Space")  # paused, the badge says something else
    badge(page, "PAUSED")
    expect(banner).to_be_visible()
    page.keyboard.press("Space")
    server.feed.scenario.kind = "live"
    badge(page, "LIVE")
    expect(banner).to_be_hidden()
    expect(page).to_have_title("exitscope")


def test_without_data_nothing_is_called_well(serve: Serve, open_page: Open) -> None:
    server = serve(replace(SCENARIOS["waiting"], empty=False))
    page = open_page(server.url).page
    badge(page, "WAITING")
    chip = page.locator("#ledger-chips li")
    expect(chip).to_have_text("– lost")
    expect(chip).not_to_have_class(re.compile("green"))
    expect(page.locator("#alarm-button")).to_have_text("– alarms")
    expect(page.locator("#alarm-quiet")).to_have_text("Alarms are not known: no data come.")
    page.locator("#ledger-button").click()
    expect(page.locator("#ledger-intro")).to_have_text("Not known: no data come.")
    assert set(page.locator("#ledger-list .figure").all_inner_texts()) == {"–"}
    page.keyboard.press("Escape")
    page.locator("#alarm-button").click()
    expect(page.locator("#alarm-intro")).to_have_text("Not known: no data come.")
    page.keyboard.press("Escape")
    server.feed.scenario.loss = {"ring_full": 3}  # what was lost before is lost for sure
    expect(chip).to_have_text("3 ring full")
    server.feed.scenario = Scenario()
    badge(page, "LIVE")
    expect(chip).to_have_text("0 lost")
    expect(chip).to_have_class("chip green")
    expect(page.locator("#alarm-button")).to_have_text("0 alarms")
    server.feed.scenario.silent = True
    badge(page, "STALE")
    expect(chip).to_have_text("– lost")
    expect(page.locator("#alarm-button")).to_have_text("– alarms")


def test_losses_are_named_counted_and_explained(serve: Serve, open_page: Open) -> None:
    page = open_page(serve(SCENARIOS["lost"]).url).page
    expect(page.locator("#ledger-chips li")).to_have_text(
        [
            "1.20M ring full",
            "12 map full",
            "3 unmatched end",
            "2 hooks missing",
            "7 slow reader",
            "1 in 8 sampled",
        ]
    )
    page.locator("#ledger-button").click()
    panel = page.locator("#ledger-panel")
    expect(panel).to_contain_text("1,204,331")
    expect(panel).to_contain_text("Totals may fall short, because of: map full, hooks missing.")
    expect(panel.locator("#ledger-hooks li")).to_have_text(SCENARIOS["lost"].missing_hooks)
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()


def test_a_full_ring_alone_leaves_totals_exact_and_a_new_counter_is_shown(serve: Serve, open_page: Open) -> None:
    page = open_page(serve(Scenario(loss={"ring_full": 5, "brand_new": 2})).url).page
    expect(page.locator("#ledger-chips li")).to_have_text(["5 ring full", "2 brand new"])
    server_text = page.locator("#ledger-intro")
    expect(server_text).to_have_text("Totals may fall short, because of: brand new.")


def test_an_idle_vm_says_that_nothing_faults(serve: Serve, open_page: Open) -> None:
    page = open_page(serve(SCENARIOS["idle"]).url).page
    expect(page.locator("#uffd-rate")).to_have_text("no faults in this window")
    expect(page.locator("#card-heat .note")).to_have_text("No fault in this time")
    expect(page.locator("#slowest-note")).to_have_text("No fault record in this window")


def test_paused_freezes_the_numbers_while_the_stream_goes_on(page: Page) -> None:
    page.keyboard.press("Space")
    badge(page, "PAUSED")
    rows = page.locator("#vcpu-table tbody")
    frozen = rows.inner_text()
    time.sleep(1.5)
    assert rows.inner_text() == frozen
    expect(page.locator("#notice-text")).to_contain_text("behind; the stream goes on")
    page.keyboard.press("Space")
    badge(page, "LIVE")
    expect(rows).not_to_have_text(frozen)


def test_names_of_vms_and_hooks_are_text(serve: Serve, open_page: Open) -> None:
    page = open_page(serve(Scenario(name=HOSTILE, missing_hooks=[HOSTILE], reason=HOSTILE, kind="replay")).url).page
    expect(page.locator("#notice-text")).to_have_text(HOSTILE)
    assert HOSTILE in page.locator("#vm option").all_inner_texts()[0]
    page.locator("#ledger-button").click()
    expect(page.locator("#ledger-hooks li")).to_have_text([HOSTILE])
    page.locator("#vm").select_option("all")
    expect(page.locator("#vm-table tbody tr:not(.pad) td").first).to_have_text(HOSTILE)
    assert page.locator("img, #vm b").count() == 0
    assert page.title() == "Replay · exitscope"


def test_a_vm_that_ended_is_marked(page: Page) -> None:
    assert page.locator("#vm option").last.inner_text().endswith("· gone")
    page.locator("#vm").select_option("vm-2")
    expect(page.locator("#notice-text")).to_contain_text("This VM has ended")
