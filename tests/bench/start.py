"""From the start of `exitscope run` to the first live frame on a page, and what takes the time."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
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
_LOAD = """
import time
begin = time.monotonic()
from exitscope_probes.loader import load
probes = load()
print(time.monotonic() - begin)
"""

Moments = dict[str, float]
"""Seconds since the process was started."""


def rows(effort: Effort) -> Iterator[Row]:
    warm: list[Moments] = []
    cold: list[Moments] = []
    clients: list[Moments] = []
    loads: list[list[float]] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        visit = partial(_page, browser)
        _load_s()  # fills the cache of compiled probes, as the first start after installation does
        for _ in range(effort.rounds(ROUNDS)):
            warm.append(_start(visit))
            with TemporaryDirectory() as empty:
                cold.append(_start(visit, CACHE_DIRECTORY=empty))
            clients.append(_start(_client))
            with TemporaryDirectory() as empty:
                loads.append([_load_s(), _load_s(CACHE_DIRECTORY=empty)])
        browser.close()
    shown = Spread.of([moments["live"] for moments in warm])
    loaded, compiled = (Spread.of(values).middle for values in zip(*loads, strict=True))
    yield Row(
        "start of `exitscope run` to the first live frame in Chromium",
        f"{shown:.2f} s",
        f"≤ {TARGET_S:.0f} s",
        shown.middle <= TARGET_S,
        _parts(warm),
    )
    yield Row(
        "the same, the very first time, when the probes are compiled",
        f"{Spread.of([moments['live'] for moments in cold]):.2f} s",
        remark=_parts(cold),
    )
    yield Row(
        "the same, to a WebSocket client without a browser",
        f"{Spread.of([moments['live'] for moments in clients]):.2f} s",
        remark=f"loading the probes alone {loaded:.2f}, with compilation {compiled:.2f}",
    )


def _parts(measured: list[Moments]) -> str:
    return "; ".join(
        f"{what} {_middle(measured, name):.2f}"
        for what, name in (
            ("server up", "server"),
            ("any frame", "any"),
            ("collector listens", "collector"),
            ("page says LIVE", "shown"),
        )
    )


def _middle(measured: list[Moments], name: str) -> float:
    return Spread.of([moments[name] for moments in measured]).middle


def _start(visit: Callable[[str, subprocess.Popen[str], dict[str, float]], None], **environment: str) -> Moments:
    """Start the product and let `visit` note monotonic times of what it sees."""
    seen: dict[str, float] = {}
    with socket_path() as socket:
        begin = time.monotonic()
        command = [str(_INSTALLED), "run", "--port", "0", "--socket", str(socket)]
        with process(command, **environment) as started:
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


def _load_s(**environment: str) -> float:
    """Seconds that loading and attaching the probes takes in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", _LOAD],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | environment,
    )
    if done.returncode:
        raise BenchError(f"loading the probes: {done.stderr.strip()[-300:]}")
    return float(done.stdout)
