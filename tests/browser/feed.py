"""A stand-in for the server: made-up S4 messages, for developing the page and testing its states.

python -m tests.browser.feed --port 8770 --vcpus 64 --scenario lost
"""

import argparse
import asyncio
import json
import mimetypes
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import plotly
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from exitscope.security import CONTENT_SECURITY_POLICY
from tests.browser.fake_library import Library
from tests.browser.fake_migration import SOURCE, Course, alarms, threads
from tests.browser.scenario import NO_LOSS, SCENARIOS, Scenario
from tests.browser.synthetic import TICK_NS, WINDOWS_NS, Guest, Json

FRONTEND = Path(__file__).parents[2] / "frontend"
PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
mimetypes.add_type("text/javascript", ".mjs")


class Feed:
    """One scenario, served to any number of pages."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.connections = 0
        self.subscriptions: list[Json] = []
        self.library = Library(scenario)
        self._sequence = 0
        self.hung_since_ns = time.monotonic_ns() - round(scenario.hung_s * 1e9) if scenario.hung_s else 0
        self.course = Course(scenario, time.monotonic_ns() - round(scenario.migration_s * 1e9))

    def history(self, window: str, vm: str) -> Json:
        """The ticks that a page gets before its first frame."""
        now, guest = int(time.monotonic()), self._guest()
        ticks = [guest.tick(now - back) for back in range(self.scenario.history_s, 0, -1)]
        shown = None if self.scenario.empty else vm or "vm-0"
        return {
            "type": "history",
            "vm": shown,
            "window_ns": WINDOWS_NS[window],
            "tick_ns": TICK_NS,
            "ticks": ticks,
        }

    def frame(self, window: str, vm: str) -> Json:
        """The frame of this moment."""
        scenario, guest, now_ns = self.scenario, self._guest(), time.monotonic_ns()
        second, window_s = now_ns // TICK_NS, int(WINDOWS_NS[window] / 1e9)
        shown = vm or "vm-0"
        self._sequence += 1
        tick = None if scenario.empty else guest.tick(second)
        vms = [] if scenario.empty else [self._vm(index) for index in range(scenario.vms + 1)]
        return {
            "type": "frame",
            "sequence": self._sequence,
            "time_ns": now_ns,
            "wall_ms": time.time() * 1e3,
            "window_ns": WINDOWS_NS[window],
            "window_filled_ns": min(WINDOWS_NS[window], scenario.history_s * 1e9),
            "source": {
                "kind": scenario.kind,
                "state": scenario.state,
                "reason": scenario.reason,
                "age_ns": scenario.age_ns,
                "host": "kvm-host-3",
                "kernel": "6.12.43",
                "only": scenario.only,
            },
            "sampling": scenario.sampling,
            "vms": vms,
            "vm": shown if vms else None,
            "vcpus": [self._vcpu(index, shown, second, window_s) for index in range(scenario.vcpus) if vms],
            "queue": {**(tick["queue"] if tick else {"pending": 0, "total": 0}), "outstanding": 2},
            "slowest": [{"vm": "vm-0", **fault} for fault in guest.slowest(second, window_s) if vms],
            "tick": tick,
            "loss": {**NO_LOSS, **scenario.loss},
            "missing_hooks": scenario.missing_hooks,
            "migrations": [self.course.migration(now_ns)] if scenario.migration else [],
            "alarms": alarms(scenario, now_ns),
            "threads": threads(scenario) if vms else [],
            "memslots": self.course.memslots() if vms else [],
            **guest.over_window(second, window_s),
        }

    def _guest(self) -> Guest:
        self.course.scenario = self.scenario
        return Guest(self.scenario, course=self.course, hung_since_ns=self.hung_since_ns)

    async def _migration(self, request: Request) -> Response:
        now_ns = time.monotonic_ns()
        if request.path_params["id"] == SOURCE["other"]:
            return JSONResponse(self.course.migration(now_ns, role="destination", kind="postcopy", qmp=None))
        return JSONResponse(self.course.migration(now_ns) | {"samples": self.course.samples(now_ns)})

    def _vcpu(self, index: int, shown: str, second: int, window_s: int) -> Json:
        """A row of the table; of all VMs together, the first half is one VM's, the second another's."""
        each = max((self.scenario.vcpus + 1) // 2, 1) if shown == "all" else self.scenario.vcpus
        vm = self._vm(index // each) if shown == "all" else {"id": shown, "name": shown}
        row = self._guest().vcpu_row(index % each, second, window_s)
        return {"vm": vm["id"], "vm_name": vm["name"], **row}

    def _vm(self, index: int) -> Json:
        gone = index == self.scenario.vms and index > 0
        return {
            "id": f"vm-{index}",
            "name": self.scenario.name if index == 0 else f"qemu-{index}",
            "pid": 4242 + index,
            "vmm": "exitscope guest" if index == 0 else "qemu",
            "state": "gone" if gone else "running",
            "vcpus": self.scenario.vcpus,
            **(self.scenario.gap if index == 1 else {}),
            "rate_per_s": 0.0 if gone else 12_345.6 / (index + 1),
            "faults": {"uffd": 640_000, "exit": 512_000, "memory_fault": 0, "async": 0, "kernel": 91},
        }

    async def live(self, websocket: WebSocket) -> None:
        """S4: history and frames, and a new history after every change of subscription."""
        await websocket.accept()
        self.connections += 1
        query = websocket.query_params
        chosen = {"vm": query.get("vm", ""), "window": query.get("window", "10s")}
        self.subscriptions.append(dict(chosen))
        asking: asyncio.Task[Any] = asyncio.create_task(websocket.receive_json())
        fresh = True
        try:
            while True:
                if asking.done():
                    chosen |= asking.result()
                    self.subscriptions.append(dict(chosen))
                    asking, fresh = asyncio.create_task(websocket.receive_json()), True
                if not self.scenario.silent:
                    if fresh:
                        await websocket.send_text(json.dumps(self.history(chosen["window"], chosen["vm"])))
                    await websocket.send_text(json.dumps(self.frame(chosen["window"], chosen["vm"])))
                    fresh = False
                await asyncio.wait({asking}, timeout=1 / self.scenario.rate_hz)
        except (WebSocketDisconnect, RuntimeError):
            pass
        finally:
            asking.cancel()
            self.connections -= 1

    def app(self) -> Starlette:
        """The page, plotly.min.js and the WebSocket, under the policy that the real server sends."""
        return Starlette(
            routes=[
                WebSocketRoute("/api/v1/live", self.live),
                *self.library.routes(),
                Route("/api/v1/migrations/{id}", self._migration),
                Route("/{path:path}", self._file),
            ],
        )

    async def _file(self, request: Request) -> Response:
        path = FRONTEND / (request.path_params["path"] or "index.html")
        path = PLOTLY if path.name == "plotly.min.js" else path
        if not path.is_file() or not (path == PLOTLY or path.resolve().is_relative_to(FRONTEND)):
            return Response("not found", 404)
        return FileResponse(
            path, headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY, "Cache-Control": "no-cache"}
        )


class FeedServer:
    """The feed on a thread of its own; `stop` and `start` keep the port, as a restarted server would."""

    def __init__(self, scenario: Scenario, port: int = 0) -> None:
        self.feed = Feed(scenario)
        self.port = port or _free_port()
        self.url = f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Returns once the port answers. Raises RuntimeError if it does not within 10 s."""
        config = uvicorn.Config(self.feed.app(), port=self.port, log_level="error", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 10
        while not self._server.started:
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise RuntimeError(f"the feed did not start on port {self.port}")
            time.sleep(0.01)

    def stop(self) -> None:
        """Closes the port and every connection."""
        self._server.should_exit = True
        self._thread.join(timeout=10)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Serves until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8770)
    parser.add_argument("--vcpus", type=int, default=4)
    parser.add_argument("--scenario", choices=SCENARIOS, default="live")
    options = parser.parse_args()
    server = FeedServer(replace(SCENARIOS[options.scenario], vcpus=options.vcpus), options.port)
    server.start()
    print(server.url, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
