"""Alarms where people and programs meet them: HTTP, frames, metrics, replays, settings."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
import websockets
from starlette.testclient import TestClient

from exitscope import serve
from exitscope.alarms.finding import Limits
from exitscope.app import create_app
from exitscope.errors import UserError
from exitscope.recordings import library
from exitscope.source import Status
from exitscope.switch import Switch

from .frames import Feeder, S
from .recordings import START_NS, synthetic_records, write_recording
from .test_hub import FeederSource, with_server

MS = 1_000_000


def stalled(source: FeederSource) -> Feeder:
    """A VM one of whose vCPUs has stood still for 2 s, told to the source."""
    source.status.data_ns = time.monotonic_ns()
    feeder = Feeder(time.monotonic_ns())
    vm = feeder.add_vm(1, 2, id="one")
    for message in feeder.welcome():
        source.handle(message)
    feeder.vcpus[vm.slots[1]]["open_since_ns"] = feeder.time_ns
    source.handle(feeder.totals(2 * S))
    return feeder


def test_the_api_and_the_metrics_tell_of_them() -> None:
    source = FeederSource()
    with TestClient(create_app(source), base_url="http://127.0.0.1") as client:
        assert client.get("/api/v1/alarms").json() == {"alarms": [], "oldest_faults": []}
        feeder = stalled(source)
        got = client.get("/api/v1/alarms").json()
        (alarm,) = got["alarms"]
        assert alarm == {
            "id": f"vcpu_stalled:one:{feeder.time_ns}",
            "kind": "vcpu_stalled",
            "vm": "one",
            "vm_name": "fake",
            "vcpu": 1,
            "severity": "warning",
            "message": "vCPU 1 of fake has stood still for 2.0 s in one fault.",
            "hint": alarm["hint"],
            "since_ns": feeder.time_ns,
            "value_ns": 2 * S,
            "limit_ns": S,
            "active": True,
            "ended_ns": None,
        }
        since_ns = feeder.time_ns - 2 * S
        assert got["oldest_faults"] == [{"vm": "one", "vcpu": 1, "open_since_ns": since_ns, "age_ns": 2 * S}]
        text = client.get("/metrics").text
        assert 'exitscope_alarm{alarm="vcpu_stalled",vm="one"} 1.0' in text
        assert 'exitscope_oldest_fault_seconds{vm="one"} 2.0' in text


def test_every_page_gets_them_in_its_frames() -> None:
    async def work(url: str, source: FeederSource, feeder: Feeder) -> None:
        source.status.data_ns = time.monotonic_ns()
        feeder.vcpus[feeder.vms[1].slots[0]]["open_since_ns"] = feeder.time_ns
        source.handle(feeder.totals(2 * S))
        async with websockets.connect(f"ws://{url}/api/v1/live") as socket:
            while True:
                frame: Any = json.loads(await asyncio.wait_for(socket.recv(), 10))
                if frame["type"] == "frame":
                    break
        assert ("vcpu_stalled", 0, True) in [
            (alarm["kind"], alarm["vcpu"], alarm["active"]) for alarm in frame["alarms"]
        ]

    with_server(work)


def test_a_replay_has_the_alarms_of_its_run_and_metrics_those_of_the_source(tmp_path: Path) -> None:
    records = synthetic_records(40, seconds=40)
    records["serve_ns"][30] = 4 * S
    write_recording(tmp_path / "20260101-000000-aaaa.parquet", records)
    recordings = library.Library(tmp_path, library.Limits(), None)
    with TestClient(create_app(FeederSource(), library=recordings), base_url="http://127.0.0.1") as client:

        def at(seconds: float, expected: set[tuple[str, bool]]) -> None:
            wanted = {"id": "20260101-000000-aaaa", "at_ns": START_NS + round(seconds * S), "paused": True}
            assert client.post("/api/v1/replay", json=wanted).status_code == 200
            deadline = time.monotonic() + 20
            while True:
                alarms: list[Any] = client.get("/api/v1/alarms").json()["alarms"]
                if {(alarm["kind"], alarm["active"]) for alarm in alarms} == expected:
                    break
                assert time.monotonic() < deadline, alarms
                time.sleep(0.02)

        both = ("handler_stuck", "vcpu_stalled")
        at(33, {(kind, True) for kind in both})
        at(20, set())
        at(39, {(kind, False) for kind in both})
        at(33, {(kind, True) for kind in both})
        assert 'alarm="vcpu_stalled"' not in client.get("/metrics").text, "the source has no VM"
        client.delete("/api/v1/replay")
        assert client.get("/api/v1/alarms").json()["alarms"] == []


@pytest.mark.parametrize(
    ("given", "limits"),
    [
        ({}, Limits()),
        (
            {"alarm_stall": "300ms", "alarm_fault": "0", "alarm_handler": "2m", "alarm_vm_stall": 90},
            Limits(300 * MS, 0, 120 * S, 90),
        ),
    ],
)
def test_the_settings_reach_the_rules(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: dict[str, Any], limits: Limits
) -> None:
    seen: list[Limits] = []

    def stop(_feed: object, _hosts: object, _library: object, alarm_limits: Limits, *_: object) -> None:
        seen.append(alarm_limits)
        raise UserError("enough")

    monkeypatch.setattr(serve, "create_app", stop)
    with pytest.raises(UserError, match="enough"):
        serve.serve("127.0.0.1", 0, (), None, str(tmp_path / "none"), None, None, str(tmp_path), **given)
    assert seen == [limits]


def test_a_switch_keeps_its_limits_for_replays() -> None:
    switch = Switch(FeederSource(), Limits(stall_ns=7))
    assert switch.live_alarms.limits.stall_ns == 7
    switch._show(switch.live, Status("replay"), switch.live_alarms)
    assert switch.alarms is switch.live_alarms
