"""Alarms on the page: always in sight, never by colour alone, and nothing moves when one comes."""

import re
from dataclasses import replace

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Open, Serve
from tests.browser.scenario import SCENARIOS, Scenario

pytestmark = pytest.mark.needs("chromium")


def test_without_one_the_line_says_what_is_open(page: Page) -> None:
    expect(page.locator("#alarm-button")).to_have_text("0 alarms")
    expect(page.locator("#alarm-quiet")).to_have_text(re.compile(r"^No alarm\. (Oldest open fault: vCPU|No fault)"))
    assert page.title() == "exitscope"


def test_active_ones_are_listed_by_word_and_counted(serve: Serve, open_page: Open) -> None:
    page = open_page(serve(SCENARIOS["alarms"]).url).page
    expect(page.locator("#alarm-button")).to_have_text("◆ 4 alarms")
    alarms = page.locator("#alarm-list .alarm")
    expect(alarms).to_have_count(3)
    expect(alarms.first).to_contain_text("critical")
    expect(alarms.first).to_contain_text("has ended; 3 faults wait for it")
    expect(alarms.nth(1)).to_contain_text("warning")
    expect(page.locator("#alarm-more")).to_have_text("+1 more")
    assert page.title() == "(4) exitscope"


def test_one_of_the_host_names_no_vm(serve: Serve, open_page: Open) -> None:
    page = open_page(serve(Scenario(alarms=5)).url + "#vm=all").page
    page.locator("#alarm-more").click()
    entry = page.locator("#alarm-panel li", has_text="Migrations are not recorded")
    expect(entry.locator("p").first).to_have_text(re.compile(r"^for \d"))
    expect(entry.locator(".remedy")).to_contain_text("--recordings")
    expect(page.locator("#vm-table tbody tr:not(.pad)").first.locator("td.alarms")).to_have_text("◆ 4 alarms")


def test_the_panel_has_hints_and_those_that_ended(serve: Serve, open_page: Open) -> None:
    page = open_page(serve(Scenario(alarms=2)).url).page
    page.locator("#alarm-button").focus()
    page.keyboard.press("Enter")
    panel = page.locator("#alarm-panel")
    expect(panel).to_contain_text("2 active, 1 ended in the last ten minutes.")
    expect(panel.locator("li").first.locator(".remedy")).to_contain_text("migrate-recover")
    expect(panel.locator("li.ended")).to_contain_text("records were lost")
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    assert page.evaluate("document.activeElement.id") == "alarm-button"


def test_one_that_comes_moves_nothing_and_is_read_out_once(serve: Serve, open_page: Open) -> None:
    server = serve(Scenario())
    page = open_page(server.url).page
    page.wait_for_selector("#plot-rate .main-svg")
    page.wait_for_timeout(1500)
    top = page.locator(".tiles").bounding_box()
    page.evaluate(
        """window.spoken = []; const said = document.querySelector('#alarm-said');
        new MutationObserver(() => spoken.push(said.textContent)).observe(said, {childList: true, subtree: true})"""
    )
    server.feed.scenario = replace(server.feed.scenario, alarms=1)
    expect(page.locator("#alarm-list .alarm")).to_have_count(1)
    page.wait_for_timeout(1500)
    assert page.locator(".tiles").bounding_box() == top
    assert len(page.evaluate("spoken")) == 1
    server.feed.scenario = replace(server.feed.scenario, alarms=0)
    expect(page.locator("#alarm-list .alarm")).to_have_count(0)
    expect(page.locator("#alarm-said")).to_have_text("No alarm any more")
    assert page.title() == "exitscope"


def test_long_ones_are_cut_and_never_widen_the_page(serve: Serve, open_page: Open) -> None:
    page = open_page(serve(Scenario(alarms=4, name="a-vm-with-a-very-long-name-" * 5)).url, width=1280).page
    expect(page.locator("#alarm-list .alarm")).to_have_count(3)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    box = page.locator("#alarm-strip").bounding_box()
    assert box
    assert box["height"] < 40
