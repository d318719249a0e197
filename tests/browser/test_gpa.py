"""Guest memory on one axis: bins of one size, memslots, what nobody asks for left out."""

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Open, Serve
from tests.browser.scenario import Scenario

pytestmark = pytest.mark.needs("chromium")
MIB = 1 << 20


def memory(modules: Page, columns: Any, memslots: Any = ()) -> Any:
    """memoryOf() of columns of (bin size, cells), and the ticks of its axis."""
    told = [[{"bin_bytes": size, "cells": cells} for size, cells in column] for column in columns]
    script = """async ([columns, slots]) => { const m = await import('/js/gpa.mjs');
        const memory = m.memoryOf(columns, slots); return memory && {...memory, ticks: m.ticksOf(memory, 6)}; }"""
    return modules.evaluate(script, [told, list(memslots)])


def test_no_cell_is_no_memory(modules: Page) -> None:
    assert memory(modules, [[], [(MIB, [])]]) is None


def test_columns_of_different_bins_come_to_the_largest(modules: Page) -> None:
    found = memory(modules, [[(MIB, [[0, 1], [3, 2]])], [(2 * MIB, [[1, 5]])]])
    assert found["binBytes"] == 2 * MIB
    assert found["rows"] == [[1, None], [2, 5]]
    assert found["most"] == 5


def test_faults_are_neither_lost_nor_counted_twice(modules: Page) -> None:
    cells = [[n * 37 % 4096, n % 7 + 1] for n in range(500)]
    found = memory(modules, [[(MIB, cells)]])
    assert sum(row[0] or 0 for row in found["rows"]) == sum(faults for _, faults in cells)
    assert len(found["rows"]) <= 160


def test_a_hole_between_slots_is_cut_out(modules: Page) -> None:
    slots = [
        {"vm": "a", "memslot": 0, "from_gpa": 0, "to_gpa": 4 * MIB},
        {"vm": "a", "memslot": 1, "from_gpa": 4096 * MIB, "to_gpa": 4098 * MIB},
    ]
    found = memory(modules, [[(MIB, [[1, 1], [4097, 1]])]], slots)
    assert len(found["rows"]) == 4 + 1 + 2
    assert [(s["row"], s["from"], s["to"]) for s in found["stretches"]] == [(0, 0, 3), (5, 4096, 4097)]
    assert found["ticks"][0] == {"row": -0.5, "gpa": 0}
    assert {"row": 4.5, "gpa": 4096 * MIB} in found["ticks"]


def test_bins_are_never_as_fine_as_pages(modules: Page) -> None:
    found = memory(modules, [[(4096, [[0, 1], [1, 1], [100, 1]])]])
    assert found["binBytes"] == 256 * 1024
    assert found["rows"] == [[2], [1]]


@pytest.mark.parametrize("bins", [1, 256])
def test_the_map_is_legible(serve: Serve, open_page: Open, bins: int) -> None:
    page = open_page(serve(Scenario(gpa_bins=bins)).url, height=2300).page
    page.wait_for_selector("#plot-gpa .heatmaplayer image")
    box = page.locator("#plot-gpa .nsewdrag").bounding_box()
    assert box
    assert box["height"] > 140
    expect(page.locator("#gpa-bin")).to_have_text("16\u00a0MiB" if bins == 1 else "32\u00a0MiB")
    page.mouse.move(box["x"] + box["width"] * 0.98, box["y"] + box["height"] * 0.4)
    moved = page.evaluate("document.querySelector('#plot-gpa').layout.yaxis.ticktext")
    assert all(text == "0" or text.endswith("iB") for text in moved)


def test_exact_addresses_are_nowhere_until_asked_for(page: Page) -> None:
    assert page.locator("#slowest td.address").first.is_hidden()
    assert "0x" not in page.locator("#main").inner_text()
