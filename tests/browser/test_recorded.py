"""The whole life of a recording in the page, against the real server: only the collector is a stand-in."""

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Page, expect

from exitscope.app import create_app
from exitscope.recordings.library import Library, Limits
from exitscope.source import SocketSource
from exitscope_probes.records import MODE_EXIT, MODE_UFFD
from tests.browser.conftest import Open
from tests.unit.recordings import synthetic_meta, synthetic_records, write_recording

pytestmark = pytest.mark.needs("chromium")
ROWS = "#rows tr"
START_S = 30.0


@pytest.fixture
def base_url(tmp_path: Path) -> Iterator[str]:
    """A server with two finished recordings, uffd and exit mode, fed by a collector of made-up faults."""
    shelf, collector = tmp_path / "recordings", tmp_path / "collector.sock"
    shelf.mkdir(mode=0o700)
    for name, mode, serve_ns in (("uffd-run", MODE_UFFD, 300_000), ("exit-run", MODE_EXIT, 60_000)):
        records = synthetic_records(20_000, mode=mode, seconds=20, serve_ns=serve_ns)
        write_recording(shelf / f"{name}.parquet", records, synthetic_meta(records, id=name, name=name))
    command = [sys.executable, "-m", "tests.unit.fake_collector", str(collector)]
    with socket.socket() as taken, subprocess.Popen(command) as feeder:
        taken.bind(("127.0.0.1", 0))
        app = create_app(SocketSource(str(collector)), library=Library(shelf, Limits(), str(collector)))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
        thread.start()
        try:
            until(lambda: server.started and collector.exists(), "the server has started")
            yield f"http://127.0.0.1:{taken.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(timeout=20)
            feeder.terminate()
            with suppress(subprocess.TimeoutExpired):
                feeder.wait(10)


def until(condition: object, what: str) -> None:
    deadline = time.monotonic() + START_S
    assert callable(condition)
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)


def shown(page: Page, *plots: str) -> None:
    for plot in plots:
        page.locator(f"#plot-{plot}").scroll_into_view_if_needed()
        page.wait_for_selector(f"#plot-{plot} .main-svg")


def test_record_stop_list_and_delete(base_url: str, open_page: Open) -> None:
    page = open_page(base_url).page
    expect(page.locator("#badge-label")).to_have_text("LIVE")
    page.locator("#record").click()
    page.locator("#record-name").fill("from the page")
    page.locator("#record-name").press("Enter")
    expect(page.locator("#record-chip")).to_contain_text("“from the page” · 0:0")
    page.wait_for_timeout(2500)
    page.locator("#record").click()
    chip = page.locator("#record-chip")
    expect(chip).to_have_text(re.compile("^Saved “from the page” · 0:0[2-9]"))
    page.goto(f"{base_url}recordings.html")
    expect(page.locator(ROWS)).to_have_count(3)
    row = page.locator(ROWS).first
    expect(row.locator(".name > a")).to_have_text("from the page")
    expect(row.locator(".state")).to_have_text("finished")
    row.get_by_role("button", name="Delete").click()
    page.locator("#confirm-yes").click()
    expect(page.locator(ROWS)).to_have_count(2)


def test_summary_of_the_whole_and_of_a_part(base_url: str, open_page: Open) -> None:
    page = open_page(f"{base_url}?recording=uffd-run").page
    expect(page.locator("#part-name")).to_have_text("uffd-run")
    expect(page.locator("#total-count")).to_have_text("20,040 faults")  # 40 of them the kernel solved: no records
    expect(page.locator("#uffd-p50")).to_contain_text("µs")
    expect(page.locator("#vcpu-count")).to_have_text("4 vCPUs")
    expect(page.locator("#slowest tbody tr:not(.blank)")).to_have_count(10)
    expect(page.locator("#conditions")).to_contain_text("fake --vcpus 4")
    shown(page, "rate", "latency", "heat", "stall", "fills", "stages", "exits")
    page.goto("about:blank")
    page.goto(f"{base_url}?recording=uffd-run#from=5&to=10")
    expect(page.locator("#part")).to_contain_text("5.00\u00a0s")
    expect(page.locator("#total-count")).to_have_text(re.compile(r"^[45],\d{3} faults$"))


def test_downloads_are_files(base_url: str, open_page: Open) -> None:
    page = open_page(f"{base_url}recordings.html").page
    row = page.locator(ROWS, has_text="exit-run")
    for kind in ("json", "csv", "parquet", "arrow", "perfetto"):
        with page.expect_download() as download:
            row.locator(".files a", has_text=kind).click()
        assert Path(download.value.path()).stat().st_size > 1000
        assert "exit-run" in download.value.suggested_filename


def test_replay_with_seek_and_back(base_url: str, open_page: Open) -> None:
    page = open_page(f"{base_url}recordings.html").page
    page.locator(ROWS, has_text="uffd-run").get_by_role("button", name="Replay").click()
    expect(page.locator("#replay-bar")).to_be_visible()
    page.keyboard.press("Space")
    expect(page.locator("#replay-play")).to_have_attribute("aria-label", "Play")
    expect(page.locator("#badge-label")).to_have_text("REPLAY")
    expect(page.locator("#notice-text")).to_have_text(
        re.compile(r"^A replay of “uffd-run” of 1 Jan 2026, \d\d:00:00\sUTC\S*, paused: not this host now\.$")
    )
    page.locator("#replay-seek").focus()
    page.keyboard.press("Home")
    for _ in range(5):
        page.keyboard.press("PageUp")
    expect(page.locator("#replay-at")).to_have_text("10.0\u00a0s")
    expect(page.locator("#uffd-p50")).to_contain_text("µs")  # the ten seconds before are there, though never played
    expect(page.locator("#plot-rate .main-svg").first).to_be_visible()
    # When it was recorded, not now; a text without a zone is the browser's clock.
    moment = "Date.parse(document.querySelector('#plot-rate').data?.[0]?.x?.at(-1)?.slice(0, 23))"
    until(lambda: abs(page.evaluate(f"{moment} - Date.UTC(2026, 0, 1, 0, 0, 10)")) < 5000, "the recording's clock")
    page.wait_for_timeout(2500)
    expect(page.locator("#badge-label")).to_have_text("REPLAY")  # and not STALE
    page.locator("#replay-speed label", has_text="16×").click()
    page.locator("#replay-play").click()
    expect(page.locator("#replay-at")).to_have_text("20.0\u00a0s")
    expect(page.locator("#replay-play")).to_have_attribute("aria-label", "Play")  # it rests at the end
    gaps = """(() => { const { y } = document.querySelector('#plot-rate').data[0];
      const first = y.findIndex((rate) => rate !== null);
      return y.slice(first).filter((rate) => rate === null).length + (y.length - first < 15 ? 100 : 0); })()"""
    until(lambda: page.evaluate(gaps) == 0, "no second of it is missing, as fast as it went")
    page.locator("#replay-back").click()
    expect(page.locator("#badge-label")).to_have_text("LIVE")
    expect(page.locator("#replay-bar")).to_be_hidden()


def test_compare_finds_the_difference(base_url: str, open_page: Open) -> None:
    page = open_page(f"{base_url}recordings.html").page
    page.get_by_role("radio", name="uffd-run as A").check()
    page.get_by_role("radio", name="exit-run as B").check()
    page.locator("#pair-go").click()
    expect(page.locator("#verdict-mark")).to_have_text("B IS FASTER")
    expect(page.locator("#figures tbody tr").first).to_contain_text("p50")
    expect(page.locator("#conditions-count")).to_contain_text("of")
    shown(page, "ratio", "vcpus", "ecdf", "stages")
    page.goto(f"{base_url}compare.html?a=uffd-run&b=uffd-run")
    expect(page.locator("#verdict-mark")).to_have_text("NO DIFFERENCE")
