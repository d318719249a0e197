"""The pages about recordings: legible in both themes, within the window, still, and reached by keyboard."""

from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Open, Serve
from tests.browser.scenario import SCENARIOS, Scenario

pytestmark = pytest.mark.needs("chromium")
CONTRAST = (Path(__file__).parent / "contrast.js").read_text()
READY = {
    "recordings.html": "#rows tr >> nth=2",
    "?recording=r0": "#plot-rate .main-svg",
    "compare.html?a=r0&b=r1": "#plot-ecdf .main-svg",
}


def opened(serve: Serve, open_page: Open, path: str, scenario: Scenario, **options: object) -> Page:
    page = open_page(serve(scenario).url + path, height=2600, **options).page
    page.wait_for_selector(READY[path])
    page.wait_for_timeout(500)
    return page


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("path", READY)
def test_text_has_contrast(serve: Serve, open_page: Open, path: str, theme: str) -> None:
    scenario = replace(SCENARIOS["library"], unfair=True)
    page = opened(serve, open_page, path, scenario, color_scheme=theme, reduced_motion="reduce")
    assert page.evaluate(CONTRAST) == []
    if path == "recordings.html":
        page.locator("#record").click()
        assert page.evaluate(CONTRAST) == []
        page.keyboard.press("Escape")
        page.locator("#rows").get_by_role("button", name="Delete").first.click()
        assert page.evaluate(CONTRAST) == []


@pytest.mark.parametrize("width", [1280, 1920])
@pytest.mark.parametrize("vcpus", [1, 256])
@pytest.mark.parametrize("path", READY)
def test_no_sideways_scroll(serve: Serve, open_page: Open, path: str, width: int, vcpus: int) -> None:
    long = "a-recording-with-a-very-long-name-" * 4
    page = opened(serve, open_page, path, Scenario(vcpus=vcpus, recordings=(long, long, "short")), width=width)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    for box in page.locator(".list, .scroll-x, .figures").all():
        assert box.evaluate("(e) => e.scrollWidth <= e.clientWidth")


def test_nothing_jumps_while_the_list_is_polled_and_a_recording_runs(serve: Serve, open_page: Open) -> None:
    page = opened(serve, open_page, "recordings.html", SCENARIOS["library"])
    page.locator("#record").click()
    page.locator("#record-name").press("Enter")
    expect(page.locator("#rows tr")).to_have_count(4)
    page.evaluate("seen.shifts.length = 0")
    page.wait_for_timeout(4000)
    assert sum(page.evaluate("seen.shifts")) < 0.005


def test_nothing_jumps_in_a_replay(serve: Serve, open_page: Open) -> None:
    page = opened(serve, open_page, "recordings.html", SCENARIOS["library"])
    page.locator("#rows").get_by_role("button", name="Replay").first.click()
    page.wait_for_selector("#replay-timeline path >> nth=0", state="attached")
    page.wait_for_selector("#plot-queue .main-svg")
    page.wait_for_timeout(800)
    page.evaluate("seen.shifts.length = 0")
    page.wait_for_timeout(4000)
    assert sum(page.evaluate("seen.shifts")) < 0.005


@pytest.mark.parametrize("path", READY)
def test_every_control_is_reached_with_the_focus_in_sight(serve: Serve, open_page: Open, path: str) -> None:
    page = opened(serve, open_page, path, SCENARIOS["library"])
    reached = set()
    for _ in range(120):
        page.keyboard.press("Tab")
        label, drawn = page.evaluate(
            """() => { const e = document.activeElement;
            const hidden = e.type === 'radio' && getComputedStyle(e).opacity === '0';
            const seen = parseFloat(getComputedStyle(hidden ? e.nextElementSibling : e).outlineWidth);
            return [e === document.body ? '' : e.id || e.ariaLabel || e.name || e.textContent, seen]; }"""
        )
        if not label:
            break
        reached.add(label)
        assert drawn > 0, label
    wanted = {
        "recordings.html": {"record", "before the patch", "Replay before the patch", "Delete before the patch"},
        "?recording=r0": {"vm", "play", "range-low", "range-high", "ledger-button", "vcpu-table", "addresses"},
        "compare.html?a=r0&b=r1": {"swap", "json", "a-name", "b-name"},
    }
    assert wanted[path] <= reached
