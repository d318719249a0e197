"""No part of the server is dead in a process that lives: what ends is started again, and /health says why."""

import asyncio
import time
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from exitscope.app import create_app
from exitscope.hub import Hub
from exitscope.recordings.library import Library, Limits
from exitscope.source import Handler, Status
from exitscope.works import Works
from exitscope_probes.wire import WireError

from .frames import Feeder


class FailingSource:
    """Says something, and ends with an error; the third time it stays."""

    def __init__(self) -> None:
        self.status = Status("live", "connecting")
        self.runs = 0

    async def run(self, handle: Handler) -> None:
        self.runs += 1
        feeder = Feeder()
        feeder.add_vm(1, 2, id=f"run{self.runs}")
        for message in feeder.welcome():
            handle(message)
        self.status.connected, self.status.data_ns = True, time.monotonic_ns()
        if self.runs < 3:
            raise OverflowError("int too big to convert")
        await asyncio.Event().wait()


def until(client: TestClient, path: str, condition: Any) -> Any:
    deadline = time.monotonic() + 20
    while not condition(found := client.get(path).json()):
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found


def test_a_source_that_ends_is_started_again_and_health_says_why() -> None:
    with TestClient(create_app(FailingSource()), base_url="http://127.0.0.1") as client:
        seen = until(client, "/api/v1/health", lambda health: health["failures"])
        assert seen["status"] == "degraded"
        health = until(client, "/api/v1/health", lambda health: health["failures"][0]["times"] == 2)
        failure = health["failures"][0]
        assert failure["part"] == "the source" and failure["reason"] == "OverflowError: int too big to convert"
        until(client, "/api/v1/vms", lambda answer: [vm["id"] for vm in answer["vms"]][-1:] == ["run3"])
        health = client.get("/api/v1/health").json()
        assert health["status"] == "degraded", "it ended within the last minute"
        assert health["source"]["state"] == "connected"


def test_a_stream_that_ends_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    publish, received = Hub.publish, list[str]()
    failed: list[float] = []

    def broken(self: Hub, now: float) -> None:
        if len(failed) < 2:
            failed.append(now)
            raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")
        publish(self, now)

    monkeypatch.setattr(Hub, "publish", broken)
    source = FailingSource()
    source.runs = 2
    with TestClient(create_app(source), base_url="http://127.0.0.1") as client:
        until(client, "/api/v1/health", lambda health: health["failures"] and health["failures"][0]["times"] == 2)
        with (
            suppress(CancelledError),  # the test client's own, when it closes
            client.websocket_connect("/api/v1/live", headers={"host": "127.0.0.1"}) as page,
        ):
            received.append(page.receive_json()["type"])
    assert received[0] in ("frame", "history")


def test_what_returns_has_ended_too() -> None:
    works, runs = Works(), list[int]()

    async def part() -> None:
        runs.append(len(runs))
        if len(runs) == 2:
            raise WireError("garbage")
        if len(runs) == 3:
            await asyncio.Event().wait()

    async def watch() -> list[str]:
        task = asyncio.create_task(works.keep("it", part))
        reasons: list[str] = []
        while len(runs) < 3:
            reasons += [one.reason for one in works.failures.values() if one.reason not in reasons]
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return reasons

    assert works.well
    assert asyncio.run(asyncio.wait_for(watch(), 30)) == ["it returned", "garbage"]
    assert works.failures["it"].times == 2 and not works.well


def test_a_part_that_swallows_a_cancellation_does_not_keep_the_server_from_ending(tmp_path: Path) -> None:
    """As Python 3.11's wait_for does when what it waits for comes in the same moment."""

    class Deaf:
        def __init__(self) -> None:
            self.status = Status("live")

        async def run(self, handle: Handler) -> None:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)
            await asyncio.sleep(3600)

    with TestClient(create_app(Deaf(), (), Library(tmp_path, Limits(), None)), base_url="http://127.0.0.1") as client:
        assert client.get("/api/v1/health").status_code == 200
