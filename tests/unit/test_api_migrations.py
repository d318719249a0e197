"""The API's part about migrations, live and in frames."""

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from exitscope import frame
from exitscope.app import create_app
from exitscope.source import Status

from .frames import S
from .migrating import Host
from .test_hub import FeederSource


@pytest.fixture
def host() -> Host:
    host = Host()
    vm = host.vm(1, vmm="QEMU", name="db")
    host.qmp(vm, "postcopy-active", "destination")
    host.page(vm, demand=3, background=2)
    host.totals(1)
    host.qmp(vm, "completed", "destination")
    host.totals(1)
    host.page(host.vm(2, vmm="Firecracker"), demand=7)
    host.totals(1)
    return host


@pytest.fixture
def client(host: Host) -> Iterator[TestClient]:
    source = FeederSource()
    with TestClient(create_app(source), base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        client.get("/api/v1/health")  # the source runs by now
        for message in host.messages:
            source.handle(message)
        yield client


def get(client: TestClient, path: str, status: int = 200) -> Any:
    response = client.get(path)
    assert response.status_code == status, response.text
    return response.json()


def test_all_of_them_newest_first(client: TestClient) -> None:
    listed = get(client, "/api/v1/migrations")["migrations"]
    assert [(one["kind"], one["state"], one["vm_name"]) for one in listed] == [
        ("page-in", "active", "fake"),
        ("postcopy", "completed", "db"),
    ]
    assert all(one["samples"] == [] and one["wall_ms"] > 0 for one in listed)
    assert listed[0]["faults"]["uffd"] == 7


def test_one_of_them_with_its_samples(client: TestClient) -> None:
    newest, oldest = get(client, "/api/v1/migrations")["migrations"]
    one = get(client, f"/api/v1/migrations/{oldest['id']}")
    assert [sample["status"] for sample in one["samples"]] == ["postcopy-active", "completed"]
    assert one | {"samples": []} == oldest
    assert get(client, f"/api/v1/migrations/{newest['id']}")["samples"] == []
    assert get(client, "/api/v1/migrations/none", 404)["error"]["code"] == "unknown_migration"


def test_none_is_none() -> None:
    with TestClient(create_app(FeederSource()), base_url="http://127.0.0.1") as client:
        assert get(client, "/api/v1/migrations") == {"migrations": []}


def test_a_frame_has_those_of_its_vms(host: Host) -> None:
    def shown(vm: str) -> list[dict[str, Any]]:
        aggregate = host.aggregate
        built = frame.build(aggregate, Status("live"), frame.select(aggregate, vm), 10 * S, 1, 0)
        found: list[dict[str, Any]] = built["migrations"]
        assert all("samples" not in one and one["wall_ms"] > 0 for one in found)
        return found

    assert [one["vm"] for one in shown("4001-1")] == ["4001-1"]
    assert [one["vm"] for one in shown("4002-1")] == ["4002-1"]
    assert [one["vm"] for one in shown("all")] == ["4001-1", "4002-1"]
    host.totals(901, every=10)
    assert [one["vm"] for one in shown("all")] == []
