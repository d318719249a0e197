"""Made-up recordings for the feed: the REST API of recordings, replay and summary, in memory."""

import random
import time
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.browser.fake_compare import compare
from tests.browser.fake_migration import Course
from tests.browser.scenario import NO_LOSS, Scenario
from tests.browser.synthetic import MODES, Guest, Json

BEGAN_NS = 1_000_000_000_000
FORMATS = ("json", "csv", "parquet", "arrow", "perfetto", "recording")


@dataclass
class FakeRecording:
    """One recording; what is in it follows from the scenario and the seconds alone."""

    id: str
    name: str
    length_s: float = 120.0
    state: str = "finished"
    started_wall_ms: float = 0.0
    began: float = 0.0
    note: str = ""
    vms: int = 1
    migrations: int = 0

    def row(self) -> Json:
        """As GET /recordings lists it."""
        length = time.monotonic() - self.began if self.state == "recording" else self.length_s
        return {
            "id": self.id,
            "name": self.name,
            "state": self.state,
            "started_wall_ms": self.started_wall_ms,
            "duration_ns": round(length * 1e9),
            "records": round(length * 41_234),
            "bytes": round(length * 41_234 * 11.3),
            "vms": [f"demo-guest-{index}" for index in range(self.vms)],
            "note": self.note,
            "migrations": self.migrations,
        }


@dataclass
class Library:
    """All recordings of one feed, and what is replayed of them."""

    scenario: Scenario
    recordings: dict[str, FakeRecording] = field(default_factory=dict)
    playing: Json | None = None
    replay_error: str | None = None
    asked: list[Json] = field(default_factory=list)  # every POST and DELETE, for tests
    _numbers: Any = field(default_factory=count)

    def __post_init__(self) -> None:
        for name in self.scenario.recordings:
            self.add(name)

    def add(self, name: str, **more: Any) -> FakeRecording:
        """Another recording."""
        number = next(self._numbers)
        made = FakeRecording(f"r{number}", name, started_wall_ms=time.time() * 1e3 - 3.6e6 * (number + 1), **more)
        self.recordings[made.id] = made
        return made

    def fail(self, reason: str) -> None:
        """The replay ends by itself."""
        self.playing, self.replay_error, self.scenario.kind = None, reason, "live"

    def routes(self) -> list[Route]:
        """Of the API under /api/v1."""
        at, base = "/api/v1/recordings/{id}", "/api/v1/recordings"
        return [
            Route(base, self._list, methods=["GET"]),
            Route(base, self._start, methods=["POST"]),
            Route(at, self._one, methods=["GET"]),
            Route(at, self._delete, methods=["DELETE"]),
            Route(f"{at}/stop", self._stop, methods=["POST"]),
            Route(f"{at}/summary", self._summary, methods=["GET"]),
            Route(f"{at}/faults", self._faults, methods=["GET"]),
            Route("/api/v1/replay", self._replay, methods=["GET", "POST", "DELETE"]),
            Route("/api/v1/vms", self._vms, methods=["GET"]),
            Route("/api/v1/compare", self._compare, methods=["GET"]),
        ]

    async def _list(self, _request: Request) -> Response:
        return JSONResponse({"recordings": [one.row() for one in self.recordings.values()]})

    async def _start(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append({"start": body})
        if body.get("name") == "full":
            return error(507, "the disk is full", "Free some space, or set --recordings elsewhere.")
        made = self.add(body.get("name") or "demo-guest", state="recording", began=time.monotonic())
        made.started_wall_ms = time.time() * 1e3
        return JSONResponse({"id": made.id}, 201)

    async def _stop(self, request: Request) -> Response:
        one = self._found(request)
        if one is None:
            return unknown(request)
        one.length_s, one.state = time.monotonic() - one.began, "finished"
        return JSONResponse(one.row())

    async def _delete(self, request: Request) -> Response:
        self.asked.append({"delete": request.path_params["id"]})
        return Response(status_code=204) if self.recordings.pop(request.path_params["id"], None) else unknown(request)

    async def _one(self, request: Request) -> Response:
        one = self._found(request)
        if one is None:
            return unknown(request)
        vms = [self._vm(index) for index in range(one.vms)]
        return JSONResponse(
            {
                "id": one.id,
                "name": one.name,
                "state": one.state,
                "started_ns": BEGAN_NS,
                "ended_ns": BEGAN_NS + round(one.length_s * 1e9),
                "started_wall_ms": one.started_wall_ms,
                "host": "kvm-host-3",
                "kernel": "6.12.43",
                "cpus": 64,
                "cpu_model": "AMD EPYC 7B13 64-Core Processor",
                "sampling": "none",
                "hooks": [{"hook": "uffd", "title": "userfaultfd wait", "status": "attached"}],
                "vms": vms,
                "loss": NO_LOSS,
                "lost_ns": 0,
                "records": one.row()["records"],
                "complete": True,
                "note": one.note,
                "migrations": [
                    course.migration(ended, recording=one.id) | {"samples": course.samples(ended)}
                    for course, ended in [(self._course(), BEGAN_NS + round(one.length_s * 1e9))]
                    if self.scenario.migration
                ],
            }
        )

    def _vm(self, index: int) -> Json:
        return {
            "id": f"vm-{index}",
            "pid": 4242 + index,
            "name": f"demo-guest-{index}",
            "vmm": "qemu",
            "command": "qemu-system-x86_64 -machine q35,accel=kvm -smp 4 -m 4096 -object memory-backend-memfd,id=ram0",
            "vcpus": [{"vcpu": n, "tid": 4300 + n, "name": f"CPU {n}/KVM"} for n in range(self.scenario.vcpus)],
            "handlers": [{"tid": 4290, "name": "postcopy/fault", "fills": 12_000}],
            "uffd_features": ["MISSING_SHMEM", "MINOR_SHMEM", "THREAD_ID"],
            "backing": "memfd",
        }

    async def _summary(self, request: Request) -> Response:
        one = self._found(request)
        if one is None:
            return unknown(request)
        query = request.query_params
        whole = (BEGAN_NS, BEGAN_NS + round(one.length_s * 1e9))
        begin, end = int(query.get("from_ns", whole[0])), int(query.get("to_ns", whole[1]))
        vm = query.get("vm") or None
        length = end - begin
        tick_ns = next(step for step in (10**7, 10**8, 10**9, 2 * 10**9, 5 * 10**9) if length / step <= 300)
        guest, second = Guest(self.scenario), begin // 10**9
        rows = [
            {"vm": f"vm-{index}", "vm_name": f"demo-guest-{index}", **guest.vcpu_row(n, second + index, 10)}
            for index in range(one.vms)
            if vm in (None, f"vm-{index}")
            for n in range(self.scenario.vcpus)
        ]
        ticks = [self._tick(begin + tick_ns * (i + 0.5), rows, tick_ns) for i in range(round(length / tick_ns))]
        over = guest.over_window(second, max(round(length / 1e9), 1))
        return JSONResponse(
            {
                "id": one.id,
                "name": one.name,
                "started_ns": whole[0],
                "started_wall_ms": one.started_wall_ms,
                "from_ns": begin,
                "to_ns": end,
                "window_ns": length,
                "vm": vm,
                "vms": [
                    {**self._vm(n), "vcpus": self.scenario.vcpus, "state": "gone", "faults": dict.fromkeys(MODES, 7)}
                    for n in range(one.vms)
                ],
                "vcpus": rows,
                "tick_ns": tick_ns,
                "ticks": ticks,
                "slowest": [{"vm": "vm-0", **fault} for fault in guest.slowest(second, 1)],
                "loss": NO_LOSS,
                "memslots": self._course().memslots(),
                "source": "kernel totals" if length == whole[1] - whole[0] else "records",
                **over,
            }
        )

    def _course(self) -> Course:
        return Course(self.scenario, BEGAN_NS + 20 * 10**9)

    def _tick(self, middle_ns: float, rows: list[Json], tick_ns: int) -> Json:
        tick = Guest(self.scenario).tick(round(middle_ns / 1e9))
        chance = random.Random(middle_ns)
        stall = [
            None if tick["heat"][row["vcpu"]] is None else min(1, max(0, chance.gauss(0.4 + row["vcpu"] % 3 / 8, 0.2)))
            for row in rows
        ]
        heat = [tick["heat"][row["vcpu"]] for row in rows]
        told = self._course().tick(round(middle_ns), tick_ns)
        several = {**told["stalled"], "vcpus": len(rows)}
        told |= {"stall": stall, "stalled": several}
        return {"time_ns": round(middle_ns), "modes": tick["modes"], "heat": heat, **told}

    async def _faults(self, request: Request) -> Response:
        asked = request.query_params.get("format", "json")
        if self._found(request) is None or asked not in FORMATS:
            return unknown(request)
        name = f"{request.path_params['id']}.{asked}"
        return Response(b"[]", headers={"content-disposition": f'attachment; filename="{name}"'})

    async def _replay(self, request: Request) -> Response:
        if request.method == "DELETE":
            self.asked.append({"replay": None})
            self.playing, self.scenario.kind = None, "live"
            return Response(status_code=204)
        if request.method == "POST":
            body = await request.json()
            self.asked.append({"replay": body})
            one = self.recordings.get(body["id"])
            if one is None:
                return error(404, f"no recording {body['id']!r}", "")
            if self.playing is None or self.playing["id"] != one.id:
                self.playing = {"id": one.id, "from_ns": BEGAN_NS, "speed": 1.0, "paused": False}
                self.playing |= {"to_ns": BEGAN_NS + round(one.length_s * 1e9), "at_ns": BEGAN_NS}
                self.playing["_at"] = time.monotonic()
            self._advance(self.playing)
            self.playing |= {name: body[name] for name in ("at_ns", "speed", "paused") if name in body}
            self.scenario.kind = "replay"
        if self.playing is None:
            return JSONResponse({"id": None, "error": self.replay_error})
        self._advance(self.playing)
        answer = {name: value for name, value in self.playing.items() if name != "_at"}
        return JSONResponse(answer | {"host_alarms": self.scenario.host_alarms})

    @staticmethod
    def _advance(playing: Json) -> None:
        now = time.monotonic()
        if not playing["paused"]:
            gone_ns = round((now - playing["_at"]) * 1e9 * playing["speed"])
            playing["at_ns"] = min(playing["at_ns"] + gone_ns, playing["to_ns"])
            playing["paused"] = playing["at_ns"] >= playing["to_ns"]
        playing["_at"] = now

    async def _vms(self, _request: Request) -> Response:
        return JSONResponse({"vms": [{"id": "vm-0", "name": self.scenario.name, "state": "running"}]})

    async def _compare(self, request: Request) -> Response:
        pair = [self.recordings.get(request.query_params.get(name, "")) for name in "ab"]
        if pair[0] is None or pair[1] is None:
            return error(404, "no such recording", "See the list of recordings.")
        force = request.query_params.get("force", "") in ("1", "true")
        return JSONResponse(compare(self.scenario, pair[0].row(), pair[1].row(), force))

    def _found(self, request: Request) -> FakeRecording | None:
        return self.recordings.get(request.path_params["id"])


def unknown(request: Request) -> Response:
    """404 for a recording that is not there."""
    return error(404, f"no recording {request.path_params['id']!r}", "It may have been deleted: see the list.")


def error(status: int, message: str, hint: str) -> Response:
    """The one error shape."""
    return JSONResponse({"error": {"code": "made_up", "message": message, "hint": hint}}, status)
