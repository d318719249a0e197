"""The slowest faults' pages: what was wanted of each, and which of it the probes had to infer."""

import re

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.needs("chromium")
ROWS = "#slowest tbody tr:not(.blank)"


def test_what_kvm_did_not_say_is_marked_as_inferred(page: Page) -> None:
    page.locator("#addresses").check()
    uffd = page.locator(ROWS, has=page.locator("td.mode-uffd")).first.locator("td.page")
    bare = page.locator(ROWS, has=page.locator("td.mode-exit")).first.locator("td.page")
    expect(uffd).to_have_text("write, slot 1, was missing")
    expect(uffd.locator(".inferred")).to_be_hidden()
    expect(bare).to_have_text("write, slot 1, was missinginferred")
    expect(bare.locator(".inferred")).to_be_visible()
    expect(bare).to_have_attribute(
        "title", re.compile("EFAULT, which says nothing else.*: gpa, hva, access, memslot, presence$")
    )
