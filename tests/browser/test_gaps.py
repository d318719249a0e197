"""A VM of which not everything is known says so: no number stands where there is none."""

import re
from dataclasses import replace

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Open, Serve
from tests.browser.scenario import SCENARIOS

pytestmark = pytest.mark.needs("chromium")


def test_a_vm_that_is_not_counted_has_no_numbers(serve: Serve, open_page: Open) -> None:
    server = serve(replace(SCENARIOS["live"], gap={"not_counted": 4}))
    page = open_page(server.url + "#vm=all", height=2400).page
    row = page.locator("#vm-table tbody tr:not(.pad)", has_text="qemu-1")
    expect(row.locator("td.state")).to_have_text("not counted")
    expect(row.locator("td.state")).to_have_attribute("title", re.compile("^Its 4 vCPUs found no room"))
    expect(row.locator("td.mode-uffd")).to_have_text("–")
    assert row.locator("td.number").all_inner_texts().count("0/s") == 0
    expect(page.locator("#notice-text")).to_contain_text("running VMs together, 1 of them not counted")
    page.locator("#plot-heat").scroll_into_view_if_needed()
    page.wait_for_selector("#plot-heat .main-svg")
    assert "qemu-1: not counted" in page.evaluate("document.querySelector('#plot-heat').layout.yaxis.ticktext")
    vcpu = page.locator("#vcpu-table tbody tr:not(.pad)", has_text="qemu-1").first
    expect(vcpu.locator("td.mode-uffd")).to_have_text("–")
    page.locator("#vm").select_option("vm-1")
    expect(page.locator("#empty-title")).to_have_text("This VM is not counted")
    expect(page.locator("#empty-reason")).to_contain_text("Its 4 vCPUs found no room")
    expect(page.locator("#empty-commands code")).to_contain_text("--max-vcpus")
    expect(page.locator("#charts")).to_be_hidden()


def test_a_vm_that_is_counted_in_part_keeps_its_numbers_and_says_so(serve: Serve, open_page: Open) -> None:
    server = serve(replace(SCENARIOS["live"], gap={"not_counted": 1}))
    page = open_page(server.url + "#vm=all").page
    row = page.locator("#vm-table tbody tr:not(.pad)", has_text="qemu-1")
    expect(row.locator("td.state")).to_have_text("partly counted")
    expect(row.locator("td.mode-uffd")).to_have_text("640k")
    page.locator("#vm").select_option("vm-1")
    expect(page.locator("#notice-text")).to_have_text(re.compile("^qemu-1 is partly counted. 1 of its vCPUs found no"))


def test_a_vm_that_is_not_readable_says_so_and_is_still_counted(serve: Serve, open_page: Open) -> None:
    server = serve(replace(SCENARIOS["live"], gap={"unreadable": "its memory map is locked"}))
    page = open_page(server.url + "#vm=all").page
    row = page.locator("#vm-table tbody tr:not(.pad)", has_text="qemu-1")
    expect(row.locator("td.state")).to_have_text("not readable")
    expect(row.locator("td.mode-uffd")).to_have_text("640k")
    page.locator("#vm").select_option("vm-1")
    expect(page.locator("#notice-text")).to_have_text(re.compile("^qemu-1 is not readable.*its memory map is locked"))
    expect(page.locator("#queue-pending")).to_have_text("–")
    expect(page.locator("#handler-sentence")).to_contain_text("is not known")
    expect(page.locator("#uffd-p50")).to_contain_text("s")
