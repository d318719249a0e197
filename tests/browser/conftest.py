"""Real Chromium: made-up states come from the feed, real ones from whatever server `base_url` names."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.browser.feed import FeedServer
from tests.browser.scenario import Scenario

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
expect.set_options(timeout=20_000)  # a loaded machine may take its time
# Observers must stand before the page's first script runs.
OBSERVERS = """
window.seen = {draws: [], shifts: []};
const watch = (type, take) => new PerformanceObserver((list) => list.getEntries().forEach(take))
  .observe({type, buffered: true});
watch('measure', ({name, startTime, duration}) => seen.draws.push({name, at: startTime, ms: duration}));
watch('layout-shift', ({value, hadRecentInput}) => { if (!hadRecentInput) seen.shifts.push(value); });
"""


@dataclass
class Visit:
    """An open page and what it did that it should not have."""

    page: Page
    errors: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)  # requests to another host


Serve = Callable[[Scenario], FeedServer]
Open = Callable[..., Visit]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts feeds; each gets its own port."""
    servers: list[FeedServer] = []

    def start(scenario: Scenario) -> FeedServer:
        server = FeedServer(scenario)
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def base_url(serve: Serve) -> str:
    """Address of a server with a live VM of four vCPUs; a module may override it with a real one."""
    return serve(Scenario()).url


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Opens pages. Afterwards: no error on the console, none thrown, no request to another host."""
    contexts: list[BrowserContext] = []
    visits: list[tuple[Visit, bool]] = []

    def visit(
        url: str,
        *,
        width: int = 1280,
        height: int = 900,
        errors_allowed: bool = False,
        without: str = "",
        **options: Any,
    ) -> Visit:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        context.add_init_script(OBSERVERS)
        seen = Visit(context.new_page())
        host = urlsplit(url).netloc
        seen.page.on("console", lambda message: seen.errors.append(message.text) if message.type == "error" else None)
        seen.page.on("pageerror", lambda error: seen.errors.append(str(error)))
        seen.page.on(
            "request",
            lambda request: (
                seen.strangers.append(request.url)
                if urlsplit(request.url).netloc != host and not request.url.startswith(("data:", "blob:"))
                else None
            ),
        )
        if without:
            seen.page.route(without, lambda route: route.abort())
        visits.append((seen, errors_allowed))
        seen.page.goto(url)
        return seen

    yield visit
    for context in contexts:
        context.close()
    for seen, errors_allowed in visits:
        assert seen.strangers == []
        assert errors_allowed or seen.errors == []


@pytest.fixture(scope="session")
def modules(browser: Browser) -> Iterator[Page]:
    """A page that only imports modules: pure ones are tested in the browser that runs them."""
    server = FeedServer(Scenario())
    server.start()
    context = browser.new_context()
    blank = context.new_page()
    blank.goto(server.url + "icon.svg")
    yield blank
    context.close()
    server.stop()


@pytest.fixture
def page(base_url: str, open_page: Open) -> Page:
    """The page with live numbers on it."""
    opened = open_page(base_url).page
    opened.wait_for_selector("#plot-rate .main-svg")
    return opened
