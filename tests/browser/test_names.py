"""Names come from strangers: whatever is in them stands on the page as text, and steers nothing beside it."""

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Open, Serve
from tests.browser.scenario import Scenario

pytestmark = pytest.mark.needs("chromium")
MARKUP = "<img src=x onerror=\"document.title='owned'\">&lt;b>"
STEERING = "\x1b[31m\x07\r\n\u202egnihton si siht\u2066\u200b\ufeff"
NAME = MARKUP + STEERING

# Every text and attribute of the document that a person may read.
READ = """() => {
  const found = [document.title];
  for (const element of document.querySelectorAll('body *')) {
    for (const name of ['title', 'aria-label', 'aria-valuetext', 'value', 'placeholder']) {
      found.push(element.getAttribute(name) ?? '');
    }
    for (const node of element.childNodes) if (node.nodeType === Node.TEXT_NODE) found.push(node.data);
  }
  return found.join('\\n');
}"""
INVISIBLE = {*"\x1b\x07\r\u202e\u2066\u200b\ufeff"}


def assert_plain(page: Page) -> None:
    assert page.locator("img").count() == 0
    assert page.title() != "owned"
    assert not INVISIBLE & set(page.evaluate(READ))


def test_names_steer_nothing_on_the_live_page(serve: Serve, open_page: Open) -> None:
    scenario = Scenario(name=NAME, migration="qmp", alarms=3, missing_hooks=[NAME], gap={"unreadable": NAME})
    page = open_page(serve(scenario).url + "#vm=all", height=2400).page
    name = page.locator("#vm-table tbody tr:not(.pad) button").first
    expect(name).to_contain_text(f"{MARKUP}\ufffd[31m")
    expect(name).to_contain_text("gnihton si siht")
    for plot in ("rate", "heat", "brownout"):
        page.locator(f"#plot-{plot}").scroll_into_view_if_needed()
        page.wait_for_selector(f"#plot-{plot} .main-svg")
    page.locator("#ledger-button").click()
    expect(page.locator("#ledger-hooks li")).to_contain_text("gnihton")
    assert_plain(page)


def test_names_steer_nothing_in_recordings(serve: Serve, open_page: Open) -> None:
    server = serve(Scenario(name=NAME, recordings=(NAME, "other")))
    page = open_page(server.url + "recordings.html").page
    expect(page.locator("#rows .name a").first).to_contain_text("gnihton")
    assert_plain(page)
    for address in ("?recording=r0", "compare.html?a=r0&b=r1"):
        page.goto(server.url + address)
        expect(page.locator("#part-name, #a-name").first).to_contain_text("gnihton")
        assert_plain(page)


def test_joiners_and_other_scripts_are_kept(modules: Page) -> None:
    script = "async (text) => (await import('/js/foreign.mjs')).parse(JSON.stringify({[text]: [text]}))"
    for text in ("Käse 👩\u200d💻 نص می\u200cخواهم", "\\u202e stays what it is", 'a "quoted" \\ name'):
        assert modules.evaluate(script, text) == {text: [text]}
    assert modules.evaluate(script, "a\u202eb\x00c\td") == {"a\ufffdb\ufffdc\td": ["a\ufffdb\ufffdc\td"]}
