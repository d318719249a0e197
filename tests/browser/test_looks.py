"""Legible in both themes, still while live, and cheap enough: measured, not believed."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Open, Serve
from tests.browser.scenario import SCENARIOS, Scenario

pytestmark = pytest.mark.needs("chromium")
CONTRAST = (Path(__file__).parent / "contrast.js").read_text()


def settled(page: Page) -> None:
    for plot in ("rate", "latency", "brownout", "heat"):
        page.wait_for_selector(f"#plot-{plot} .main-svg")
    page.wait_for_timeout(800)


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_text_has_contrast_in_every_state(serve: Serve, open_page: Open, theme: str) -> None:
    server = serve(SCENARIOS["async"])
    page = open_page(server.url, height=2400, color_scheme=theme, reduced_motion="reduce").page
    settled(page)
    page.locator("#ledger-button").click()
    for name, label in (
        ("async", "LIVE"),
        ("lost", "LIVE"),
        ("stale", "STALE"),
        ("replay", "REPLAY"),
        ("alarms", "LIVE"),
        ("migrating", "LIVE"),
        ("busy", "LIVE"),
        ("waiting", "WAITING"),
        ("empty", "LIVE"),
    ):
        server.feed.scenario = SCENARIOS[name]
        expect(page.locator("#badge-label")).to_have_text(label)
        page.wait_for_timeout(700)
        assert page.evaluate(CONTRAST) == [], name


@pytest.mark.parametrize("width", [1280, 1920])
@pytest.mark.parametrize("vcpus", [1, 256])
def test_no_sideways_scroll(serve: Serve, open_page: Open, width: int, vcpus: int) -> None:
    scenario = Scenario(
        vcpus=vcpus, asynchronous=True, name="a-vm-with-a-very-long-name-" * 5, loss={"ring_full": 10**12}
    )
    page = open_page(serve(scenario).url + "#vm=all", width=width).page
    settled(page)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.locator("#vcpu-table").evaluate("(e) => e.scrollWidth <= e.clientWidth")


@pytest.mark.parametrize("vcpus", [4, 256])
@pytest.mark.parametrize("migration", ["", "qmp"])
def test_nothing_jumps_while_live(serve: Serve, open_page: Open, vcpus: int, migration: str) -> None:
    scenario = Scenario(vcpus=vcpus, asynchronous=True, migration=migration, alarms=2 if migration else 0)
    page = open_page(serve(scenario).url, width=1920, height=2300).page
    settled(page)
    page.evaluate("seen.shifts.length = 0")
    page.wait_for_timeout(4000)
    assert sum(page.evaluate("seen.shifts")) < 0.005


def test_frame_cost_with_256_vcpus(
    serve: Serve, open_page: Open, record_property: Callable[[str, object], None]
) -> None:
    """Reports the costs; what fails is drawing too often, never a slow machine."""
    page = open_page(serve(Scenario(vcpus=256)).url, width=1920, height=2300).page
    settled(page)
    page.evaluate("seen.draws.length = 0")
    page.wait_for_timeout(6000)
    draws = page.evaluate("seen.draws")
    costs = {name: [d["ms"] for d in draws if d["name"] == name] for name in sorted({d["name"] for d in draws})}
    table = {name: {"n": len(ms), "median_ms": median(ms), "max_ms": max(ms)} for name, ms in costs.items()}
    record_property("frame_cost", table)
    print(json.dumps(table))
    assert {"show", "draw:heat", "draw:latency", "draw:stages"} <= set(costs)
    assert len(costs["draw:heat"]) <= 8  # once a tick, not once a frame
    assert len(costs["draw:stages"]) <= 15
    starts = sorted((d["at"], d["at"] + d["ms"]) for d in draws if d["name"].startswith("draw:"))
    assert all(one[1] <= other[0] for one, other in pairwise(starts))  # never two in one go


def test_only_what_is_in_sight_is_drawn(base_url: str, open_page: Open) -> None:
    page = open_page(base_url, height=500).page
    page.wait_for_selector("#plot-rate .main-svg")
    page.wait_for_timeout(2000)
    drawn = {d["name"] for d in page.evaluate("seen.draws")}
    assert "draw:stages" not in drawn
    page.locator("#plot-stages").scroll_into_view_if_needed()
    page.wait_for_selector("#plot-stages .main-svg")


def test_the_first_numbers_do_not_wait_for_the_charts(base_url: str, open_page: Open) -> None:
    page = open_page(base_url, without="**/plotly.min.js", errors_allowed=True).page
    expect(page.locator("#uffd-p50")).to_contain_text("s")
    expect(page.locator("#notice-error")).to_contain_text("plotly.min.js did not load")


def test_heat_map_rows_stay_tall_enough(serve: Serve, open_page: Open) -> None:
    for vcpus, least_px in ((1, 20), (64, 5), (256, 2)):
        page = open_page(serve(Scenario(vcpus=vcpus)).url, height=1200).page
        settled(page)
        height = page.locator("#plot-heat .nsewdrag").bounding_box()
        assert height
        assert height["height"] / vcpus >= least_px
