"""The whole product as its user meets it: `exitscope demo` and real guests, real probes, the real page."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from exitscope_probes.guest.build import binary_path
from tests.browser.conftest import Open
from tests.product import TIMEOUT_S, Product, products

pytestmark = pytest.mark.needs("root", "kvm", "bpf", "uffd", "chromium")

START_MS = TIMEOUT_S * 1000


@pytest.fixture
def run_product() -> Iterator[Callable[[str], Product]]:
    with products() as start:
        yield start


def _until(page: Page, condition: str) -> None:
    """Waits for a JavaScript condition; Playwright's own wait wants eval, which the page's policy forbids."""
    deadline = time.monotonic() + START_MS / 1000
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(100)


def test_the_demo_shows_both_modes_live(run_product: Callable[[str], Product], open_page: Open) -> None:
    product = run_product("demo")
    page = open_page(product.url).page
    expect(page.locator("#badge-label")).to_have_text("LIVE", timeout=START_MS)
    for mode in ("uffd", "exit"):
        expect(page.locator(f"#{mode}-p50")).to_contain_text("s", timeout=START_MS)  # µs or ms
    expect(page.locator("#ledger-chips")).to_contain_text("0 lost")
    page.locator("#card-heat").scroll_into_view_if_needed()  # only what is in sight is drawn
    page.wait_for_selector("#plot-heat .main-svg", timeout=START_MS)
    assert page.locator("#vcpu-table tbody tr:not(.pad)").count() >= 8  # four vCPUs of each guest that stays
    faults = [vm["faults"] for vm in product.get("api/v1/vms")["vms"] if vm["state"] == "running"]
    assert max(fault["uffd"] for fault in faults) > 0
    assert max(fault["exit"] for fault in faults) > 0
    assert not any(product.get("api/v1/loss").values())
    page.close()  # it would report that the server has gone
    assert product.stop() == 0


def test_either_process_killed_alone_comes_back(run_product: Callable[[str], Product], open_page: Open) -> None:
    product = run_product("demo")
    page = open_page(product.url, errors_allowed=True).page  # Chromium reports each refused connection
    badge = page.locator("#badge-label")
    expect(badge).to_have_text("LIVE", timeout=START_MS)
    page.evaluate("window.sameDocument = true")
    for command in ("collect", "serve"):
        killed = product.child(command)
        assert killed
        os.kill(killed, signal.SIGKILL)
        while product.child(command) in (killed, None):
            page.wait_for_timeout(100)
        expect(badge).to_have_text("LIVE", timeout=START_MS)
        page.evaluate("seen.draws.length = 0")
        _until(page, "seen.draws.some(({name}) => name === 'draw:rate')")
        expect(page.locator("#uffd-p50")).to_contain_text("s", timeout=START_MS)
    assert page.evaluate("window.sameDocument")


def test_a_guest_whose_handler_resolves_nothing_looks_hung(
    run_product: Callable[..., Product], open_page: Open
) -> None:
    product = run_product("run", all_vms=True)  # its vCPUs enter the guest only once: the probes must be there by then
    product.until("api/v1/health", lambda health: health["source"]["state"] == "connected", "a collector")
    command = [str(binary_path()), "--vcpus", "2", "--pages", "64", "--mode", "uffd", "--hold-fault", "--name", "held"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as guest:
        try:
            page = open_page(f"{product.url}#vm={product.wait_for_vm(guest.pid)}", height=2400).page
            expect(page.locator("#badge-label")).to_have_text("LIVE", timeout=START_MS)
            expect(page.locator("#vcpu-count")).to_have_text("2 vCPUs, 2 in a fault now", timeout=START_MS)
            expect(page.locator("#slowest tbody td.open")).to_have_count(2, timeout=START_MS)
            expect(page.locator("#handler-sentence")).to_contain_text("does not keep up: none of 2", timeout=START_MS)
            page.wait_for_selector("#plot-heat .main-svg", timeout=START_MS)
            newest = "document.querySelector('#plot-heat').data[0].z.map((row) => row.at(-1))"
            _until(page, f"{newest}.every((log) => log > 9)")  # each vCPU is in a fault of more than a second
            assert page.locator("#uffd-p50").inner_text() == "–"
        finally:
            guest.kill()


@pytest.mark.parametrize("width", [1280, 1920])
def test_a_guest_of_256_vcpus_is_readable(run_product: Callable[[str], Product], open_page: Open, width: int) -> None:
    product = run_product("run")
    command = [str(binary_path()), "--vcpus", "256", "--pages", "4096", "--mode", "uffd", "--handlers", "2"]
    options = ["--rounds", "0", "--think-us", "100000", "--name", "big"]
    with subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL) as guest:
        try:
            vm = product.wait_for_vm(guest.pid)
            page = open_page(f"{product.url}#vm={vm}", width=width).page
            expect(page.locator("#badge-label")).to_have_text("LIVE", timeout=START_MS)
            page.locator("#card-heat").scroll_into_view_if_needed()
            page.wait_for_selector("#plot-heat .main-svg", timeout=START_MS)
            expect(page.locator("#vcpu-count")).to_contain_text("256 vCPUs", timeout=START_MS)
            _until(page, "document.querySelector('#plot-heat').data[0].z.length === 256")
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        finally:
            guest.terminate()
    expect(page.locator("#notice")).to_contain_text("has ended", timeout=START_MS)


def test_a_run_is_recorded_looked_at_played_and_its_guests_compared(
    run_product: Callable[[str], Product], open_page: Open
) -> None:
    product = run_product("demo")
    page = open_page(product.url).page
    for mode in ("uffd", "exit"):
        expect(page.locator(f"#{mode}-p50")).to_contain_text("s", timeout=START_MS)
    page.locator("#record").click()
    page.locator("#record-name").fill("both guests")
    page.locator("#record-name").press("Enter")
    expect(page.locator("#record-label")).to_have_text("Stop", timeout=START_MS)
    page.wait_for_timeout(12_000)
    page.locator("#record").click()
    expect(page.locator("#record-chip")).to_contain_text("Saved “both guests”", timeout=START_MS)
    page.locator("#record-chip").click()
    expect(page.locator("#part-name")).to_have_text("both guests", timeout=START_MS)
    for mode in ("uffd", "exit"):
        expect(page.locator(f"#{mode}-p50")).to_contain_text("s", timeout=START_MS)
    expect(page.locator("#wholeness")).to_contain_text("Whole")
    expect(page.locator("#slowest tbody tr:not(.blank)")).to_have_count(10)
    page.locator("#play").click()
    expect(page.locator("#badge-label")).to_have_text("REPLAY", timeout=START_MS)
    expect(page.locator("#uffd-p50")).to_contain_text("s", timeout=START_MS)
    page.locator("#replay-back").click()
    expect(page.locator("#badge-label")).to_have_text("LIVE", timeout=START_MS)
    (recording,) = product.get("api/v1/recordings")["recordings"]
    vms = {vm["name"]: vm["id"] for vm in product.get(f"api/v1/recordings/{recording['id']}")["vms"]}
    pair = f"a={recording['id']}&b={recording['id']}&vm_a={vms['demo-uffd']}&vm_b={vms['demo-exit']}"
    page.goto(f"{product.url}compare.html?{pair}")
    expect(page.locator("#a-what")).to_contain_text("uffd mode · 4 vCPUs", timeout=START_MS)
    expect(page.locator("#b-what")).to_contain_text("exit mode · 4 vCPUs")
    expect(page.locator("#a-vm option:checked")).to_have_text("demo-uffd")
    expect(page.locator("#figures tbody tr").first).to_contain_text("p50")
    page.goto(f"{product.url}recordings.html")
    page.locator("#rows").get_by_role("button", name="Delete").click()
    page.locator("#confirm-yes").click()
    expect(page.locator("#empty-title")).to_have_text("No recording yet", timeout=START_MS)
    page.close()
    assert product.stop() == 0
