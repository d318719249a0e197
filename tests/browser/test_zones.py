"""Every clock on the page is that of the zone it names: the browser's, or UTC if the reader chose it."""

import re
import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Open, Serve
from tests.browser.fake_migration import PHASES_S
from tests.browser.scenario import SCENARIOS

pytestmark = pytest.mark.needs("chromium")
OVER_TIME = ("rate", "latency", "brownout", "heat", "flow", "gpa", "queue")
NEW_YORK, BERLIN, KOLKATA = "America/New_York", "Europe/Berlin", "Asia/Kolkata"
SLACK = timedelta(seconds=20)  # a busy machine may draw late


def offset_of(zone: str) -> str:
    """How the page names the zone now: UTC, UTC-5 with a true minus, UTC+5:30."""
    minutes = round((datetime.now(ZoneInfo(zone)).utcoffset() or timedelta()).total_seconds() / 60)
    hours, rest = divmod(abs(minutes), 60)
    return f"UTC{'−' if minutes < 0 else '+'}{hours}{f':{rest:02}' if rest else ''}" if minutes else "UTC"


def away(clock: str, zone: str, *, before: timedelta = timedelta()) -> timedelta:
    """How far a clock such as 14:03:27 on the page is outside [now - before, now] of the zone."""
    now = datetime.now(ZoneInfo(zone))
    hours, minutes, seconds = (float(part) for part in clock.split(":"))
    shown = now.replace(hour=int(hours), minute=int(minutes), second=int(seconds), microsecond=0)
    late = min((shown + timedelta(days=days) - now for days in (-1, 0, 1)), key=abs)
    return max(late, -before - late, timedelta())


def tick_labels(page: Page, plot: str) -> list[str]:
    page.locator(f"#plot-{plot}").scroll_into_view_if_needed()
    page.wait_for_selector(f"#plot-{plot} .xtick text", state="attached")  # one that touches the next is hidden
    return [text for text in page.locator(f"#plot-{plot} .xtick text").all_text_contents() if ":" in text]


@pytest.mark.parametrize("zone", [NEW_YORK, BERLIN, KOLKATA, "UTC"])
def test_charts_phases_and_tables_show_the_browsers_clock_and_name_its_zone(
    serve: Serve, open_page: Open, zone: str
) -> None:
    server = serve(SCENARIOS["migrating"])
    page = open_page(server.url, width=1920, height=2400, timezone_id=zone).page
    expect(page.locator("#zone")).to_have_text(offset_of(zone))
    span = timedelta(minutes=2)
    for plot in OVER_TIME:
        labels = tick_labels(page, plot)
        assert labels, plot
        assert max(away(label, zone, before=span) for label in labels) < SLACK, (plot, labels)
        right = page.evaluate(f"document.querySelector('#plot-{plot}').layout.xaxis.range[1]")
        assert away(str(right)[11:19], zone) < SLACK, (plot, right)
        found = page.evaluate(f"document.querySelector('#plot-{plot}').layout.annotations")
        begins = next(a["x"] for a in found if a["text"] == "postcopy" and a["xanchor"] == "left")
        wall_s = time.time() - time.monotonic() + server.feed.course.from_ns / 1e9 + PHASES_S["postcopy"][0]
        expected = datetime.fromtimestamp(wall_s, ZoneInfo(zone)).replace(tzinfo=None)
        assert abs(datetime.fromisoformat(str(begins)[:23]) - expected) < timedelta(seconds=1), plot
    slowest = page.locator("#slowest tbody tr:not(.blank) td").first.inner_text()
    assert away(slowest, zone, before=timedelta(seconds=10)) < SLACK


def test_a_cell_under_the_pointer_says_its_second(serve: Serve, open_page: Open) -> None:
    page = open_page(serve(SCENARIOS["live"]).url, width=1920, height=2400, timezone_id=KOLKATA).page
    tick_labels(page, "heat")
    box = page.locator("#plot-heat .nsewdrag").first.bounding_box()
    assert box
    readout = page.locator("#heat-readout")
    for part in (0.5, 0.55, 0.6):  # a cell may be blank
        page.mouse.move(box["x"] + box["width"] * part, box["y"] + box["height"] * 0.4)
        page.wait_for_timeout(300)
        if readout.inner_text():
            break
    clock = re.search(r"\d\d:\d\d:\d\d", readout.inner_text())
    assert clock
    assert away(clock[0], KOLKATA, before=timedelta(minutes=2)) < SLACK


def test_utc_is_chosen_at_once_for_all_pages_and_kept(serve: Serve, open_page: Open) -> None:
    server = serve(SCENARIOS["migrated"])
    page = open_page(server.url, width=1920, height=2400, timezone_id=KOLKATA).page
    tick_labels(page, "rate")
    zone = page.locator("#zone")
    expect(zone).to_have_attribute("title", re.compile(r"Asia/\w+ \(UTC\+5:30\)"))
    page.keyboard.press("Space")  # also while the display is frozen
    zone.click()
    expect(zone).to_have_text("UTC")
    page.wait_for_timeout(500)
    assert all(away(label, "UTC", before=timedelta(minutes=2)) < SLACK for label in tick_labels(page, "rate"))
    shown = page.locator("#slowest tbody tr:not(.blank) td").first
    assert away(shown.inner_text(), "UTC", before=timedelta(seconds=10)) < SLACK
    (begun,) = [recording.started_wall_ms for recording in server.feed.library.recordings.values()]
    moment = datetime.fromtimestamp(begun / 1e3, UTC)
    day = f"{moment.day} {moment:%b %Y, %H:%M:%S}"
    page.goto(f"{server.url}recordings.html")
    expect(page.locator("#rows td.when")).to_have_text(day)
    page.locator("#zone").click()
    local = moment.astimezone(ZoneInfo(KOLKATA))
    expect(page.locator("#rows td.when")).to_have_text(f"{local.day} {local:%b %Y, %H:%M:%S}")
    page.goto(f"{server.url}?recording=r0")
    expect(page.locator("#notice-text")).to_contain_text(f"{local:%H:%M:%S}\u00a0UTC+5:30")
    page.locator("#zone").click()
    expect(page.locator("#notice-text")).to_contain_text(f"{moment:%H:%M:%S}\u00a0UTC")
    expect(page.locator("#conditions")).to_contain_text(f"{moment:%H:%M:%S}\u00a0UTC")
    labels = tick_labels(page, "rate")
    assert labels
    assert all(away(label, "UTC", before=timedelta(hours=1)) < timedelta(minutes=10) for label in labels)


def test_a_picture_across_a_change_of_the_clock_does_not_fold(open_page: Open, serve: Serve) -> None:
    page = open_page(serve(SCENARIOS["empty"]).url, timezone_id=BERLIN).page
    expect(page.locator("#badge-label")).to_have_text("LIVE")
    before_ms = datetime(2026, 10, 25, 0, 59, tzinfo=UTC).timestamp() * 1e3  # 2:59 there; a minute later it is 2:00
    script = """async (wallMs) => {
      const { times } = await import('/js/charts/axes.mjs');
      return times({ clockMs: wallMs, series: { timesNs: [0, 60e9, 120e9], endNs: 120e9 } });
    }"""
    assert [text[11:16] for text in page.evaluate(script, before_ms)] == ["01:59", "02:00", "02:01"]
