"""What the reader does: keyboard only, sorting, scrolling, theme, addresses, zoom."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Open, Serve
from tests.browser.scenario import Scenario

pytestmark = pytest.mark.needs("chromium")
ROWS = "#vcpu-table tbody tr:not(.pad)"


def test_everything_is_reached_by_keyboard_with_the_focus_in_sight(page: Page) -> None:
    reached, faint = [], []
    for _ in range(60):
        page.keyboard.press("Tab")
        name, width = page.evaluate(
            """() => { const e = document.activeElement;
            const drawn = e.type === 'radio' ? e.nextElementSibling : e;
            return [e.id || e.name || e.textContent, parseFloat(getComputedStyle(drawn).outlineWidth)]; }"""
        )
        reached.append(name)
        if not width:
            faint.append(name)
        if name == "addresses":
            break
    for control in (
        "vm",
        "window",
        "pause",
        "theme",
        "ledger-button",
        "stages",
        "p99",
        "vcpu-table",
        "addresses",
    ):
        assert control in reached
    assert faint == []


def test_the_skip_link_leads_past_the_header(page: Page) -> None:
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_window_pause_and_ledger_by_keyboard(page: Page) -> None:
    page.locator("#window input:checked").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#window input:checked")).to_have_value("30s")
    page.keyboard.press("Space")  # on a checked radio button Space has nothing to do but pause
    expect(page.locator("#pause")).to_have_attribute("aria-pressed", "true")
    page.locator("#pause").focus()
    page.keyboard.press("Space")
    expect(page.locator("#pause")).to_have_attribute("aria-pressed", "false")
    page.locator("#ledger-button").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#ledger-panel")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#ledger-panel")).to_be_hidden()
    assert page.evaluate("document.activeElement.id") == "ledger-button"


def column(page: Page, index: int) -> list[str]:
    return [row.locator("td").nth(index).inner_text() for row in page.locator(ROWS).all()]


def test_sorting_by_keyboard(page: Page) -> None:
    head = page.locator("#vcpu-table th", has_text="stalled")
    head.locator("button").focus()
    page.keyboard.press("Enter")
    expect(head).to_have_attribute("aria-sort", "descending")
    page.keyboard.press("Space")
    expect(head).to_have_attribute("aria-sort", "ascending")
    page.locator("#pause").click()
    stalls = [float(re.sub(r"[^\d.]", "", text)) for text in column(page, 13)]
    assert stalls == sorted(stalls)
    page.locator("#vcpu-table th button", has_text="vCPU").click()
    assert column(page, 0) == ["0", "1", "2", "3"]


def test_a_table_of_256_rows_keeps_few_in_the_document_and_scrolls_to_all(serve: Serve, open_page: Open) -> None:
    page = open_page(serve(Scenario(vcpus=256)).url).page
    expect(page.locator(ROWS).first).to_be_visible()
    assert page.locator(ROWS).count() < 40
    expect(page.locator("#vcpu-table table")).to_have_attribute("aria-rowcount", "257")
    page.locator("#vcpu-table").evaluate("(e) => e.scrollTo(0, e.scrollHeight)")
    expect(page.locator(f"{ROWS} >> nth=-1").locator("td").first).to_have_text("255")
    page.locator("#vcpu-table th button", has_text="vCPU").click()
    expect(page.locator(ROWS).first.locator("td").first).to_have_text("255")


def test_addresses_are_hidden_until_asked_for(page: Page) -> None:
    cells = page.locator("#slowest td.address")
    expect(cells.first).to_be_hidden()
    page.locator("#addresses").check()
    expect(cells.first).to_be_visible()
    expect(cells.first).to_have_text(re.compile("^0x[0-9a-f]+$"))


def test_the_theme_follows_the_system_until_chosen_and_is_remembered(base_url: str, open_page: Open) -> None:
    page = open_page(base_url, color_scheme="dark").page
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    page.locator("#theme").click()
    light = page.evaluate(background)
    assert dark != light
    page.reload()
    assert page.evaluate(background) == light
    expect(page.locator("#theme")).to_have_attribute("aria-label", "Switch to the dark theme")


def range_ms(page: Page) -> list[float]:
    return list(page.evaluate("document.querySelector('#plot-rate')._fullLayout.xaxis.range.map((t) => +new Date(t))"))


def two_draws_later(page: Page) -> None:
    drawn = "seen.draws.filter((draw) => draw.name === 'draw:rate').length"
    page.wait_for_function(f"(n) => {drawn} >= n", arg=page.evaluate(drawn) + 2)


def test_a_zoom_survives_new_data_and_a_double_click_ends_it(page: Page) -> None:
    box = page.locator("#plot-rate .nsewdrag").bounding_box()
    assert box
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.3, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.7, middle, steps=5)
    page.mouse.up()
    two_draws_later(page)
    zoomed = range_ms(page)
    assert zoomed[1] - zoomed[0] < 60_000
    two_draws_later(page)
    assert range_ms(page) == zoomed
    page.mouse.dblclick(box["x"] + box["width"] * 0.5, middle)
    two_draws_later(page)
    whole = range_ms(page)
    assert whole[1] - whole[0] == 120_000
    assert whole[1] > zoomed[1]
    two_draws_later(page)
    assert range_ms(page)[1] > whole[1]  # it follows the present again


def test_the_heat_map_reads_out_a_cell(page: Page) -> None:
    page.locator("#card-heat").scroll_into_view_if_needed()
    page.wait_for_selector("#plot-heat .heatmaplayer image")
    box = page.locator("#plot-heat .nsewdrag").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.31, box["y"] + box["height"] * 0.3)
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.3)
    expect(page.locator("#heat-readout")).to_have_text(re.compile(r"^vCPU [0-3] · \d\d:\d\d:\d\d · \d.*\s[µm]s$"))
