"""The report of a migration in real Chromium: the page, served by the real app, and the file to take away."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Page, expect

from exitscope.app import create_app
from exitscope.migration_report.html import html
from exitscope.migration_report.report import report
from exitscope.query.engine import Engine
from exitscope.recordings.library import Library, Limits
from tests.browser.conftest import Open
from tests.unit.migration_recordings import destination, migrated_records, source, write_migration
from tests.unit.recordings import synthetic_records
from tests.unit.test_hub import FeederSource

pytestmark = pytest.mark.needs("chromium")
CONTRAST = (Path(__file__).parent / "contrast.js").read_text()
FOCUSED = "document.activeElement.id || document.activeElement.getAttribute('aria-labelledby')"
EVIL = "db <b>7</b>"
SIZES = {"one": 1, "four": 4, "many": 256}
PLOTS = ("phases", "still", "each", "bytes", "fills", "memory", "stages", "once", "account")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("recordings")
    for name, vcpus in SIZES.items():
        records = migrated_records(12_000 if vcpus > 4 else 1500, vcpus)
        write_migration(directory / f"{name}.parquet", records, destination(records, vm_name=EVIL), source(), id=name)
    none = synthetic_records(0)
    precopy = destination(none, kind="precopy", qmp=None, how="kernel", missing_from_ns=None, stall=[], other=None)
    write_migration(directory / "none.parquet", none, precopy, id="none")
    return directory


@pytest.fixture(scope="module")
def served(directory: Path) -> Iterator[str]:
    app = create_app(FeederSource(), library=Library(directory, Limits(), None))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="on"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join()


def address(served: str, recording: str, migration: int | None = 0) -> str:
    return f"{served}migration.html?recording={recording}" + ("" if migration is None else f"&migration={migration}")


def until(holds: Callable[[], bool]) -> None:
    """The page's policy allows no eval, which Playwright's own waiting takes."""
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def drawn(page: Page, plots: tuple[str, ...] = PLOTS) -> None:
    """All charts: each is drawn when it comes into sight."""
    for name in plots:
        page.locator(f"#plot-{name}").scroll_into_view_if_needed()
        page.wait_for_selector(f"#plot-{name} .main-svg", state="attached")


@pytest.mark.parametrize("recording", list(SIZES))
@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("width", [1280, 1920])
def test_the_page_is_legible(open_page: Open, served: str, recording: str, theme: str, width: int) -> None:
    page = open_page(address(served, recording), width=width, color_scheme=theme).page
    expect(page.locator("#sentence")).to_contain_text("took")
    drawn(page)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, "nothing scrolls sideways"
    assert page.evaluate(CONTRAST) == []
    for plot in page.locator(".plot").all():
        box, place = plot.locator(".main-svg").first.bounding_box(), plot.bounding_box()
        assert box and place and abs(box["width"] - place["width"]) <= 1
        assert (plot.get_attribute("aria-label") or "").strip()
    for name in ("each", "memory"):
        boxes = [box for one in page.locator(f"#plot-{name} .ytick text").all() if (box := one.bounding_box())]
        places = sorted(box["y"] for box in boxes)
        assert boxes and all(below - above >= 9 for above, below in pairwise(places))


def test_what_it_shows(open_page: Open, served: str) -> None:
    page = open_page(address(served, "four")).page
    expect(page.locator("#sentence")).to_contain_text(f"Postcopy of {EVIL} took")
    expect(page.locator("#mark")).to_have_text("COMPLETED")
    assert page.locator("b", has_text="7").count() == 0, "somebody else's text stays text"
    expect(page.locator("#details li").first).to_contain_text("Where the time")
    expect(page.locator("#unknown li")).not_to_have_count(0)
    expect(page.locator("#evidence li").first).to_contain_text("postcopy-active")
    expect(page.locator("#vcpus tbody tr")).to_have_count(4)
    expect(page.locator("#slowest tbody tr")).to_have_count(20)
    expect(page.locator("#slowest tbody tr").first).to_contain_text("page copier")
    expect(page.locator("#worst tbody tr")).to_have_count(5)
    expect(page.locator("#account tbody tr").last).to_contain_text("ours in full")
    expect(page.locator("#account-why li")).not_to_have_count(0)
    expect(page.locator("#requests tbody tr").last).to_contain_text("2,800")
    expect(page.locator("#stages tbody tr")).to_have_count(8)
    expect(page.locator("#figures dd").nth(1)).to_contain_text("%")
    drawn(page)
    ends = page.evaluate(
        "['still', 'each', 'bytes', 'fills', 'memory'].map((n) => document.getElementById(`plot-${n}`)"
        ".layout).map(({xaxis, margin}) => JSON.stringify([xaxis.range, margin.l, margin.r]))"
    )
    assert len(set(ends)) == 1, "one time axis"


def test_another_migration_is_chosen_and_a_link_says_which(open_page: Open, served: str) -> None:
    page = open_page(address(served, "four", None)).page
    expect(page.locator("#number option:checked")).to_contain_text("0: Postcopy")
    page.select_option("#number", "1")
    page.wait_for_url("**migration=1*")
    expect(page.locator("#sentence")).to_contain_text("seen from its source")


def test_with_the_keyboard_alone(open_page: Open, served: str) -> None:
    page = open_page(address(served, "many")).page
    expect(page.locator("#sentence")).to_contain_text("took")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(FOCUSED))
    assert {"number", "recording", "download", "json", "print", "theme", "t-slowest", "t-vcpus"} <= set(reached)
    page.locator("[aria-labelledby='t-vcpus'].scroll-y").focus()
    page.keyboard.press("End")
    until(lambda: page.evaluate("document.querySelector('.scroll-y').scrollTop") > 100)


def test_nothing_to_show_is_said(open_page: Open, served: str) -> None:
    page = open_page(address(served, "none")).page
    expect(page.locator("#sentence")).to_contain_text("no vCPU had to wait for a page")
    expect(page.locator("#plot-still + .note")).to_have_text("No vCPU stood still")
    expect(page.locator("#box-bytes")).to_be_hidden()
    expect(page.locator("#slowest tbody")).to_contain_text("No vCPU waited")


@pytest.mark.parametrize(("recording", "number", "said"), [("nope", 0, "no recording"), ("four", 9, "no migration 9")])
def test_what_is_not_there_is_said(open_page: Open, served: str, recording: str, number: int, said: str) -> None:
    page = open_page(address(served, recording, number), errors_allowed=True).page
    expect(page.locator("#empty-text")).to_contain_text(said)
    expect(page.locator("#report")).to_be_hidden()


def test_without_an_address_it_says_where_to_go(open_page: Open, served: str) -> None:
    page = open_page(f"{served}migration.html").page
    expect(page.locator("#empty-title")).to_have_text("A migration to look at")


def test_on_paper(open_page: Open, served: str) -> None:
    """Every chart is on it, also what was never on screen, and nothing is cut at the side."""
    page = open_page(address(served, "four")).page
    expect(page.locator("#sentence")).to_contain_text("took")
    page.wait_for_selector("#plot-still .main-svg")
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    for name in PLOTS:
        width = page.evaluate(f"document.querySelector('#plot-{name} .main-svg').getBoundingClientRect().width")
        assert 300 < width <= 1040, name
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="screen")
    until(lambda: page.evaluate("document.querySelector('#plot-still .main-svg').getBoundingClientRect().width") > 1100)


@pytest.fixture(scope="module")
def files(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    library = Library(directory, Limits(), None)
    with Engine(directory) as engine:
        for name in SIZES:
            made[name] = tmp_path_factory.mktemp("report") / f"{name}.html"
            made[name].write_text(html(report(engine, library.open(name), 0)))
    return made


@pytest.mark.parametrize("name", list(SIZES))
@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("width", [1280, 1920])
def test_the_file_is_legible_and_loads_nothing(
    open_page: Open, files: dict[str, Path], name: str, theme: str, width: int
) -> None:
    page = open_page(files[name].as_uri(), width=width, color_scheme=theme).page
    page.wait_for_function("document.querySelectorAll('.plot > .plot-container').length === 9")
    expect(page.locator(".banner p")).to_contain_text(f"Postcopy of {EVIL} took")
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, "nothing scrolls sideways"
    assert page.evaluate(CONTRAST) == []
    texts = page.locator(".plot .xtick text").all_text_contents()
    assert len(texts) > 20 and all(texts)
