"""The page and its WebSocket: subscribes, survives the server, shares its view by link."""

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Open, Serve
from tests.browser.scenario import Scenario

pytestmark = pytest.mark.needs("chromium")


def test_recovers_by_itself_when_the_server_comes_back(serve: Serve, open_page: Open) -> None:
    server = serve(Scenario())
    page = open_page(server.url, errors_allowed=True).page  # Chromium itself reports each refused connection
    expect(page.locator("#badge-label")).to_have_text("LIVE")
    server.stop()
    expect(page.locator("#badge-label")).to_have_text("NO SERVER")
    expect(page.locator("#notice-text")).to_contain_text("below is the last that it sent")
    expect(page.locator("#charts")).to_be_visible()
    server.start()
    expect(page.locator("#badge-label")).to_have_text("LIVE", timeout=15_000)


def test_a_socket_that_only_hangs_is_given_up(serve: Serve, open_page: Open) -> None:
    server = serve(Scenario(silent=True))
    page = open_page(server.url).page
    expect(page.locator("#badge-label")).to_have_text("NO SERVER", timeout=12_000)
    server.feed.scenario.silent = False
    expect(page.locator("#badge-label")).to_have_text("LIVE", timeout=12_000)


def test_choices_are_subscribed_to_and_kept_in_the_address(serve: Serve, open_page: Open) -> None:
    server = serve(Scenario())
    page = open_page(server.url).page
    expect(page.locator("#badge-label")).to_have_text("LIVE")
    page.locator("#vm").select_option("vm-1")
    page.locator("#window label", has_text="1 min").click()
    expect(page.locator(".of-span").first).to_have_text("last 6\u00a0min")
    assert page.url.endswith("#vm=vm-1&window=1m")
    assert server.feed.subscriptions[0] == {"vm": "", "window": "10s"}
    for _ in range(50):  # the page says it before the server has heard it
        if server.feed.subscriptions[-1] == {"vm": "vm-1", "window": "1m"}:
            break
        page.wait_for_timeout(100)
    assert server.feed.subscriptions[-1] == {"vm": "vm-1", "window": "1m"}
    other = open_page(page.url).page
    expect(other.locator("#notice-text")).to_contain_text("qemu-1")
    expect(other.locator("#window input:checked")).to_have_value("1m")
    assert server.feed.subscriptions[-1] == {"vm": "vm-1", "window": "1m"}


@pytest.mark.parametrize("fragment", ["#window=2h", "#vm=%3Cb%3E&window=", "#%%%", "#vm=unseen"])
def test_a_broken_link_falls_back(base_url: str, open_page: Open, fragment: str) -> None:
    page = open_page(base_url + fragment).page
    expect(page.locator("#badge-label")).to_have_text("LIVE")
    expect(page.locator("#window input:checked")).to_have_value("10s")


def test_all_vms_together_and_from_there_to_one(page: Page) -> None:
    expect(page.locator("#vm-table")).to_be_hidden()
    page.locator("#vm").select_option("all")
    expect(page.locator("#notice-text")).to_contain_text("2 running VMs together")
    expect(page.locator("#vms-count")).to_have_text("3 seen, 1 of them gone")
    rows = page.locator("#vcpu-table tbody tr:not(.pad)")
    expect(rows).to_have_count(4)
    names = [" ".join(row.locator("td").all_inner_texts()[:2]) for row in rows.all()]
    assert names == ["0 demo-guest", "1 demo-guest", "0 qemu-1", "1 qemu-1"]
    page.locator("#vm-table .link", has_text="qemu-1").click()
    expect(page.locator("#notice-text")).to_contain_text("qemu-1 · qemu")
    expect(page.locator("#vm-table")).to_be_hidden()
    assert page.url.endswith("#vm=vm-1&window=10s")
