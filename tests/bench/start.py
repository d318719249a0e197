"""From the start of `exitscope run` to the first live frame on a page, and what takes the time."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.bench.figure import BenchError, Effort, Row, Spread
from tests.bench.tracers import process, said, said_at, socket_path
from tests.browser.conftest import ARGUMENTS, CHROMIUM

ROUNDS = 5
TARGET_S = 3.0
_TIMEOUT_S = 30
_INSTALLED = Path(sys.executable).with_name("exitscope")
_POLL_MS = 5
_PARTS = """
import time
marks = [time.monotonic()]
from bcc import BPF
marks.append(time.monotonic())
from exitscope_probes import loader
compiled = loader._compile
def timed(*arguments):
    begin = time.monotonic()
    try:
        return compiled(*arguments)
    finally:
        marks.append(time.monotonic() - begin)
loader._compile = timed
begin = time.monotonic()
probes = loader.load()
end = time.monotonic()
print(marks[1] - marks[0], marks[2], end - begin - marks[2])
"""

Moments = dict[str, float]
"""Seconds since the process was started."""


def rows(effort: Effort) -> Iterator[Row]:
    pages: list[Moments] = []
    clients: list[Moments] = []
    parts: list[list[float]] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for _ in range(effort.rounds(ROUNDS)):
            pages.append(_start(lambda url, started, seen: _page(browser, url, started, seen)))
            clients.append(_start(_client))
            parts.append(_load_parts())
        browser.close()
    shown = Spread.of([moments["live"] for moments in pages])
    imported, compiled, attached = (Spread.of(values).middle for values in zip(*parts, strict=True))
    yield Row(
        "start of `exitscope run` to the first live frame in Chromium",
        f"{shown:.2f} s",
        f"≤ {TARGET_S:.0f} s",
        shown.middle <= TARGET_S,
        "; ".join(
            f"{what} {_middle(pages, name):.2f}"
            for what, name in (
                ("server up", "server"),
                ("any frame", "any"),
                ("collector listens", "collector"),
                ("page says LIVE", "shown"),
            )
        ),
    )
    yield Row(
        "the same, to a WebSocket client without a browser",
        f"{Spread.of([moments['live'] for moments in clients]):.2f} s",
        remark=f"collector alone: import bcc {imported:.2f}, compile {compiled:.2f}, load and attach {attached:.2f}",
    )


def _middle(measured: list[Moments], name: str) -> float:
    return Spread.of([moments[name] for moments in measured]).middle


def _start(visit: Callable[[str, subprocess.Popen[str], dict[str, float]], None]) -> Moments:
    """Start the product and let `visit` note monotonic times of what it sees."""
    seen: dict[str, float] = {}
    with socket_path() as socket:
        begin = time.monotonic()
        with process([str(_INSTALLED), "run", "--port", "0", "--socket", str(socket)]) as started:
            while "open http" not in said(started):
                _check(begin, started)
                time.sleep(_POLL_MS / 1e3)
            url = said(started).partition("open ")[2].split()[0]
            visit(url, started, seen)
            for name, words in (("server", "open http"), ("collector", "listening on")):
                seen[name] = said_at(started, words) or seen["live"]
    return {name: at - begin for name, at in seen.items()}


def _check(begin: float, started: subprocess.Popen[str]) -> None:
    if started.poll() is not None or time.monotonic() - begin > _TIMEOUT_S:
        raise BenchError(f"no frame within {_TIMEOUT_S} s: {said(started).strip()[-300:]}")


def _note(text: str | bytes, seen: dict[str, float]) -> None:
    """Note the first frame, and the first that shows live data."""
    message: dict[str, Any] = json.loads(text)
    if message["type"] == "frame":
        seen.setdefault("any", time.monotonic())
        if message["source"]["kind"] == "live" and message["source"]["state"] == "connected":
            seen.setdefault("live", time.monotonic())


def _page(browser: Browser, url: str, started: subprocess.Popen[str], seen: dict[str, float]) -> None:
    begin = time.monotonic()
    page = browser.new_page()
    try:
        page.on("websocket", lambda stream: stream.on("framereceived", lambda text: _note(text, seen)))
        page.goto(url)
        while "shown" not in seen or "live" not in seen:
            _check(begin, started)
            if page.text_content("#badge-label") == "LIVE":
                seen.setdefault("shown", time.monotonic())
            page.wait_for_timeout(_POLL_MS)
    finally:
        page.close()


def _client(url: str, started: subprocess.Popen[str], seen: dict[str, float]) -> None:
    begin = time.monotonic()
    try:
        with connect(url.replace("http", "ws") + "api/v1/live", max_size=None) as stream:
            while "live" not in seen:
                _check(begin, started)
                _note(stream.recv(timeout=_TIMEOUT_S), seen)
    except (ConnectionClosed, TimeoutError, OSError) as error:
        raise BenchError(f"WebSocket: {error}") from None


def _load_parts() -> list[float]:
    """Seconds of import bcc, compile, load and attach, in a fresh process."""
    done = subprocess.run([sys.executable, "-c", _PARTS], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise BenchError(f"loading the probes: {done.stderr.strip()[-300:]}")
    return [float(value) for value in done.stdout.split()]
