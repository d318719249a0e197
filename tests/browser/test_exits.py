"""The exits panel: returns of KVM_RUN to userspace, and hardware exits where the host shows them."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Open, Serve
from tests.browser.scenario import Scenario

pytestmark = pytest.mark.needs("chromium")
WORDS = {
    "counted": ["to userspace", "hardware · count · mean time until the guest ran again"],
    "silent": ["to userspace", "Hardware exits: none, this KVM never reports any"],
    "unattached": ["to userspace", "Hardware exits are not traced here"],
}


def panel(page: Page) -> None:
    page.locator("#plot-exits").scroll_into_view_if_needed()
    page.wait_for_selector("#plot-exits .main-svg")


@pytest.mark.parametrize("state", WORDS)
def test_the_panel_says_what_this_host_shows(serve: Serve, open_page: Open, state: str) -> None:
    page = open_page(serve(Scenario(hardware=state)).url).page
    panel(page)
    expect(page.locator("#plot-exits .annotation-text")).to_have_text(WORDS[state])
    labels = page.locator("#plot-exits .yaxislayer-above text").or_(page.locator("#plot-exits .ytick text"))
    expect(labels.filter(has_text="IO").first).to_be_visible()
    expect(page.locator("#plot-exits .y2tick text")).to_have_count(6 if state == "counted" else 0)


@pytest.mark.parametrize(("vcpus", "scheme", "width"), [(1, "dark", 1280), (256, "light", 1600)])
def test_every_reason_and_time_is_inside_the_panel(
    serve: Serve, open_page: Open, vcpus: int, scheme: str, width: int
) -> None:
    page = open_page(serve(Scenario(hardware="counted", vcpus=vcpus)).url, width=width, color_scheme=scheme).page
    panel(page)
    expect(page.locator("#plot-exits .y2tick text").first).to_have_text("EPT_VIOLATION")
    expect(page.locator("#plot-exits .bartext").filter(has_text="96.0").first).to_be_visible()
    outside = page.evaluate(
        """() => {
            const box = document.querySelector('[aria-labelledby=t-exits]').getBoundingClientRect();
            return [...document.querySelectorAll('#plot-exits text')].filter((text) => {
                const at = text.getBoundingClientRect();
                const wide = at.left < box.left || at.right > box.right;
                return at.width && (wide || at.top < box.top || at.bottom > box.bottom);
            }).map((text) => text.textContent);
        }"""
    )
    assert outside == []
    expect(page.locator("#plot-exits")).to_have_attribute("aria-label", re.compile("Hardware exits: EPT_VIOLATION"))
