"""The page through a whole migration: two real QEMUs, the real product, the real page before, during and after it.

EXITSCOPE_SCREENSHOTS=DIRECTORY keeps what it looked like, for a person.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import Open
from tests.kernel.migration import Account, Migration, Plan
from tests.product import TIMEOUT_S, Product, products

pytestmark = pytest.mark.needs("root", "kvm", "bpf", "uffd", "vm", "chromium")

START_MS: Final = TIMEOUT_S * 1000
PLAN: Final = Plan(vcpus=4, bytes_per_s=8 << 20, memory_mib=256)  # half a minute; unthrottled once it was looked at
LOOKS: Final = ((1280, "light"), (1920, "dark"))


@pytest.fixture
def product() -> Iterator[Product]:
    with products() as start:
        yield start("run", "--auto-record")


@pytest.fixture
def pages(product: Product, open_page: Open) -> list[Page]:
    """The same page twice, narrow and wide."""
    opened = [open_page(product.url, width=width, color_scheme=scheme).page for width, scheme in LOOKS]
    for page in opened:
        expect(page.locator("#badge-label")).to_have_text("LIVE", timeout=START_MS)
    return opened


def keep(pages: list[Page], when: str) -> None:
    """A screenshot of each, if anybody wants them."""
    if directory := os.environ.get("EXITSCOPE_SCREENSHOTS"):
        for page, (width, scheme) in zip(pages, LOOKS, strict=True):
            page.screenshot(path=Path(directory) / f"migration-{when}-{width}-{scheme}.png")


def strip_of(page: Page, role: str) -> Locator:
    return page.locator("#migrations article.migration", has_text=f"this VM is the {role}")


def fact(strip: Locator, name: str) -> Locator:
    """A figure of the strip, by what it is called."""
    return strip.locator(".facts > *", has=strip.page.get_by_text(name, exact=True))


def assert_before(page: Page) -> None:
    expect(page.locator("#migrations")).to_be_hidden()
    expect(page.locator("#alarm-button")).to_contain_text("0 alarms")
    expect(page.locator("#brownout-sentence")).to_contain_text("In the last second 0 of 4 vCPUs stood still")


def assert_during(page: Page) -> None:
    for role in ("source", "destination"):
        strip = strip_of(page, role)
        expect(strip).to_contain_text("Postcopy migration")
        expect(strip).to_contain_text("from QEMU (QMP)")
        expect(strip.locator(".chip").first).to_have_text(re.compile(r"^postcopy-active · "))
        expect(strip.locator(".phases")).to_contain_text("postcopy")
    expect(fact(strip_of(page, "source"), "left")).to_contain_text("MB of 26")
    expect(fact(strip_of(page, "destination"), "stalled")).to_contain_text(re.compile(r"stalled([5-9]\d|100)\s%"))
    expect(page.locator("#brownout-sentence")).to_contain_text(re.compile(r"In the last second [2-4](\.\d)? of \d"))
    expect(page.locator("#flow-sentence")).to_contain_text(re.compile(r"In the last second \d+ on demand"))
    expect(page.locator("#alarm-button")).to_contain_text("0 alarms")
    page.locator("#plot-brownout .main-svg").first.wait_for()


def assert_after(page: Page, account: Account) -> None:
    for role in ("source", "destination"):
        chip = strip_of(page, role).locator(".chip").first
        expect(chip).to_have_text(re.compile(r"^completed after \d"), timeout=START_MS)
    destination = strip_of(page, "destination")
    placed = account.copied.total() + account.zeroed.total()
    title = fact(destination, "on demand").get_attribute("title") or ""
    counts = [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", title)]
    assert sum(counts) == placed and counts[0] >= len(account.events), title
    blocked, stood = fact(destination, "QEMU | exitscope").locator("dd").inner_text().split(" | ")
    assert 0 < float(blocked.split()[0]) <= float(stood.split()[0]), "in one unit"
    expect(page.locator("#alarm-button")).to_contain_text("0 alarms")
    expect(page.locator("#ledger-chips")).to_contain_text("0 lost")
    page.locator("#card-flow").scroll_into_view_if_needed()
    page.locator("#plot-flow .main-svg").first.wait_for()
    page.evaluate("window.scrollTo(0, 0)")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_page_through_a_whole_migration(product: Product, pages: list[Page], tmp_path: Path) -> None:
    with Migration(PLAN, tmp_path) as migration:
        product.wait_for_vm(migration.source.pid)
        for page in pages:
            assert_before(page)
        keep(pages, "before")
        migration.start()
        for page in pages:
            assert_during(page)
        assert migration.status() == "postcopy-active", "all of that was seen while it went on"
        keep(pages, "during")
        migration.unthrottle()
        account = migration.finish()
        for page in pages:
            assert_after(page, account)
        keep(pages, "after")
        for page in pages:
            report = strip_of(page, "destination").get_by_role("link", name="Report")
            expect(report).to_be_visible(timeout=START_MS)
            report.click()
            expect(page.locator("#sentence")).to_contain_text("moved", timeout=START_MS)
            page.locator("#plot-still .main-svg").first.wait_for()
        keep(pages, "report")
    for page in pages:
        page.close()  # they would report that the server has gone
    assert product.stop() == 0
