"""The API of recordings: start, stop, list, look at one, delete."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from exitscope.app import create_app
from exitscope.recordings.library import MAX_RUNNING, Library, Limits
from exitscope.recordings.shelf import find
from exitscope.source import SocketSource

from .recording_processes import S, fake_collector, until


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "c.sock"
    with fake_collector(path):
        yield path


@pytest.fixture
def client(tmp_path: Path, collector: Path) -> Iterator[TestClient]:
    library = Library(tmp_path / "recordings", Limits(1 << 30, 3600 * S), str(collector))
    with TestClient(
        create_app(SocketSource(str(collector)), (), library),
        base_url="http://127.0.0.1",
        raise_server_exceptions=False,
    ) as client:
        until(lambda: client.get("/api/v1/vms").json()["vms"], "a VM")
        yield client


def test_start_list_stop_look_at_and_delete(client: TestClient, tmp_path: Path) -> None:
    assert client.get("/api/v1/recordings").json() == {
        "recordings": [], "deleted": [],
        "limits": {"max_bytes": 1 << 30, "max_age_ns": 3600 * S, "used_bytes": 0,
                   "directory": str(tmp_path / "recordings")},
    }  # fmt: skip
    recording_id = client.post("/api/v1/recordings", json={"name": "mine"}).json()["id"]
    time.sleep(0.7)
    (listed,) = client.get("/api/v1/recordings").json()["recordings"]
    assert (listed["id"], listed["name"], listed["state"]) == (recording_id, "mine", "recording")
    assert listed["records"] > 0 and listed["bytes"] > 0
    assert client.get(f"/api/v1/recordings/{recording_id}").json()["state"] == "recording"
    stopped = client.post(f"/api/v1/recordings/{recording_id}/stop").json()
    assert (stopped["state"], stopped["vms"], stopped["note"]) == ("finished", ["fake"], "")
    assert stopped["records"] > 300 and stopped["duration_ns"] > S // 3
    assert client.post(f"/api/v1/recordings/{recording_id}/stop").json() == stopped, "again changes nothing"
    meta = client.get(f"/api/v1/recordings/{recording_id}").json()
    assert meta["records"] == stopped["records"]
    assert meta["vms"][0]["id"] == "fake-1" and meta["cpu_model"] and meta["complete"]
    directory = tmp_path / "recordings"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}
    assert client.delete(f"/api/v1/recordings/{recording_id}").status_code == 204
    assert [path.name for path in directory.iterdir()] == [".shelf"]
    assert client.get(f"/api/v1/recordings/{recording_id}").status_code == 404


def test_one_vm_alone(client: TestClient) -> None:
    recording_id = client.post("/api/v1/recordings", json={"vm": "fake-1"}).json()["id"]
    time.sleep(0.3)
    assert client.post(f"/api/v1/recordings/{recording_id}/stop").json()["records"] > 100


def test_several_at_once_up_to_a_bound(client: TestClient) -> None:
    ids = [client.post("/api/v1/recordings").json()["id"] for _ in range(MAX_RUNNING)]
    assert len(set(ids)) == MAX_RUNNING
    answer = client.post("/api/v1/recordings")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "too_many_recordings")
    assert client.delete(f"/api/v1/recordings/{ids[0]}").status_code == 204, "also one that runs"
    assert len(client.get("/api/v1/recordings").json()["recordings"]) == MAX_RUNNING - 1
    for recording_id in ids[1:]:
        assert client.post(f"/api/v1/recordings/{recording_id}/stop").json()["state"] == "finished"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/api/v1/recordings/nosuch", None, 404, "unknown_recording"),
        ("GET", "/api/v1/recordings/..%2f..%2fetc%2fpasswd", None, 404, None),
        ("GET", "/api/v1/recordings/a.parquet", None, 404, "unknown_recording"),
        ("POST", "/api/v1/recordings/nosuch/stop", None, 404, "unknown_recording"),
        ("DELETE", "/api/v1/recordings/nosuch", None, 404, "unknown_recording"),
        ("DELETE", "/api/v1/recordings/..", None, 405, None),
        ("POST", "/api/v1/recordings", {"vm": "nosuch"}, 422, "unknown_vm"),
        ("POST", "/api/v1/recordings", {"name": "x" * 200}, 422, "invalid_parameter"),
        ("POST", "/api/v1/recordings", {"nmae": "x"}, 422, "invalid_parameter"),
        ("POST", "/api/v1/recordings", [], 422, "invalid_parameter"),
    ],
)
def test_what_is_wrong_is_said(client: TestClient, method: str, path: str, body: Any, status: int, code: Any) -> None:
    answer = client.request(method, path, json=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert {"code", "message", "hint"} <= error.keys()
    assert code is None or error["code"] == code


def test_another_site_cannot_start_or_delete(client: TestClient) -> None:
    for headers in ({"origin": "http://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
        assert client.post("/api/v1/recordings", headers=headers).status_code == 403
        assert client.delete("/api/v1/recordings/x", headers=headers).status_code == 403
    assert client.get("/api/v1/recordings", headers={"origin": "http://evil.example"}).status_code == 200
    same = {"origin": "http://127.0.0.1", "sec-fetch-site": "same-origin"}
    assert client.delete("/api/v1/recordings/x", headers=same).status_code == 404


def test_without_a_collector_nothing_is_recorded_and_nothing_left(tmp_path: Path) -> None:
    library = Library(tmp_path / "recordings", Limits(), str(tmp_path / "no.sock"))
    with TestClient(
        create_app(SocketSource(str(tmp_path / "no.sock")), (), library), base_url="http://127.0.0.1"
    ) as on:
        answer = on.post("/api/v1/recordings")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "no_collector")
        assert on.get("/api/v1/recordings").json()["recordings"] == []
    assert [path.name for path in (tmp_path / "recordings").iterdir()] == [".shelf"]


def test_the_server_ends_in_order_with_a_recording_running(tmp_path: Path, collector: Path) -> None:
    directory = tmp_path / "recordings"
    library = Library(directory, Limits(), str(collector))
    with TestClient(create_app(SocketSource(str(collector)), (), library), base_url="http://127.0.0.1") as client:
        recording_id = client.post("/api/v1/recordings").json()["id"]
        time.sleep(0.3)
    meta = find(str(directory / f"{recording_id}.spool")).meta
    assert (meta.state, meta.lost_ns, meta.note) == ("finished", 0, "ended with the server")
    assert meta.records > 100
