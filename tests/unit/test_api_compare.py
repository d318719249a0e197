"""GET /api/v1/compare."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from exitscope import api_compare, api_errors
from exitscope.compare.models import Comparison
from exitscope.errors import ApiError
from exitscope.recordings.file import RecordingFile
from exitscope_probes.records import MODE_EXIT
from tests.unit.recordings import VM, synthetic_records, write_recording


class Shelf:
    """Knows two recordings, and one that still runs."""

    def __init__(self, directory: Path) -> None:
        self.files = {
            "a": write_recording(directory / "a.parquet", synthetic_records(3000)),
            "b": write_recording(directory / "b.parquet", synthetic_records(3000, mode=MODE_EXIT, serve_ns=90_000)),
            "other": write_recording(directory / "c.parquet", synthetic_records(3000), kernel="6.12.0"),
        }

    def open(self, recording_id: str) -> RecordingFile:
        if recording_id == "running":
            raise ApiError(409, "not_finished", "it runs", "Stop it first.")
        if recording_id not in self.files:
            raise ApiError(404, "unknown_recording", "no such recording", "", "id")
        return self.files[recording_id]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    app = FastAPI()
    app.state.library = Shelf(tmp_path_factory.mktemp("recordings"))
    api_errors.install(app)
    app.include_router(api_compare.router)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def test_the_verdict(client: TestClient) -> None:
    response = client.get("/api/v1/compare?a=a&b=b")
    assert response.status_code == 200
    found = Comparison.model_validate(response.json())
    assert found.verdict.outcome == "b_faster"
    assert response.json() == client.get("/api/v1/compare?a=a&b=b").json(), "the same seed, the same figures"


def test_unfair_unless_forced(client: TestClient) -> None:
    def verdict(query: str) -> tuple[str, bool]:
        found = client.get(f"/api/v1/compare?a=b&b=other{query}").json()["verdict"]
        return found["outcome"], found["forced"]

    assert verdict("") == verdict("&force=false") == ("refused", False)
    assert verdict("&force=true") == ("a_faster", True)


def test_the_allowance_for_drift_is_the_callers(client: TestClient) -> None:
    def width(query: str) -> float:
        ratio = client.get(f"/api/v1/compare?a=a&b=b{query}").json()["latency_ns"]["p50"]["ratio"]
        return float(ratio["high"] / ratio["low"])

    assert width("&drift=0") < width("&drift=0.05") < width("")


def test_one_vm(client: TestClient) -> None:
    assert client.get(f"/api/v1/compare?a=a&b=b&vm_a={VM}").json()["a"]["vm"] == VM
    response = client.get("/api/v1/compare?a=a&b=b&vm_a=nobody")
    assert (response.status_code, response.json()["error"]["code"]) == (422, "not_comparable")


def test_a_report_to_take_away(client: TestClient) -> None:
    response = client.get("/api/v1/compare?a=a&b=b&format=html")
    assert response.headers["content-type"].startswith("text/html")
    assert response.headers["content-disposition"].startswith("attachment")
    assert "Two recordings compared" in response.text


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("a=a", 422, "invalid_parameter"),
        ("a=a&b=", 422, "invalid_parameter"),
        ("a=a&b=b&drift=2", 422, "invalid_parameter"),
        ("a=a&b=b&drift=nan", 422, "invalid_parameter"),
        ("a=a&b=b&format=pdf", 422, "invalid_parameter"),
        ("a=a&b=nobody", 404, "unknown_recording"),
        ("a=running&b=a", 409, "not_finished"),
    ],
)
def test_errors_have_the_one_shape(client: TestClient, query: str, status: int, code: str) -> None:
    response = client.get(f"/api/v1/compare?{query}")
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
