"""The HTTP API as DESIGN.md fixes it, one error shape, an OpenAPI page that means something."""

import re
import socket
from collections.abc import Iterator
from html import unescape
from typing import Any

import pytest
from starlette.testclient import TestClient

from exitscope.app import create_app
from exitscope.static import Page
from exitscope.window import WINDOWS
from exitscope_probes.profiles import PROFILES, described
from exitscope_probes.records import MODE_EXIT, MODES

from .frames import Feeder, S
from .test_hub import FeederSource

MS = 1_000_000
LATENCY = {"count", "sum", "p50", "p90", "p99", "max"}


@pytest.fixture
def feeder() -> Feeder:
    feeder = Feeder()
    feeder.add_vm(1, 2, id="one")
    return feeder


@pytest.fixture
def source() -> FeederSource:
    return FeederSource()


@pytest.fixture
def client(feeder: Feeder, source: FeederSource) -> Iterator[TestClient]:
    app = create_app(source)
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        client.get("/api/v1/health")  # the source runs by now
        for message in feeder.welcome():
            source.handle(message)
        yield client


def get(client: TestClient, path: str) -> Any:
    response = client.get(path)
    assert response.status_code == 200, response.text
    return response.json()


def test_vms(client: TestClient, feeder: Feeder, source: FeederSource) -> None:
    feeder.fault(feeder.vms[1], 0, 1 * MS, 5)
    source.handle(feeder.totals())
    assert get(client, "/api/v1/vms") == {
        "vms": [{"id": "one", "pid": 4001, "name": "fake", "vmm": "test", "state": "running", "vcpus": 2,
                     "not_counted": 0,
                 "faults": {"uffd": 5, "exit": 0, "memory_fault": 0, "async": 0, "kernel": 0},
                 "uuid": None, "domain": None, "user": None, "unreadable": None, "threads": []}]
    }  # fmt: skip
    feeder.vms[1].state = "gone"
    source.handle(feeder.vms_message())
    assert get(client, "/api/v1/vms")["vms"][0]["state"] == "gone"


def test_vcpus(client: TestClient, feeder: Feeder, source: FeederSource) -> None:
    vm = feeder.vms[1]
    feeder.fault(vm, 0, 10 * MS, 5)
    feeder.fault(vm, 0, 9 * MS, 5, series=7)  # uffd serve
    feeder.fault(vm, 1, 20 * MS, 3, MODE_EXIT)
    feeder.exit(vm, 1, "EFAULT", 3)
    source.handle(feeder.totals(S))
    answer = get(client, "/api/v1/vms/one/vcpus?window=10s")
    assert answer["window_ns"] == 10 * S
    first, second = answer["vcpus"]
    assert (first["vcpu"], first["tid"]) == (0, 9000)
    assert first["faults"] == dict.fromkeys(MODES, 0) | {"uffd": 5}
    assert set(first["latency_ns"]) == LATENCY
    assert first["latency_ns"]["sum"] == 50 * MS
    assert first["latency_ns"]["max"] == 10 * MS
    assert first["stages_ns"]["serve"]["count"] == 5
    assert set(first["stages_ns"]) == {"raise", "notify", "serve", "fill", "wake", "reenter"}
    assert set(first["stages_ns"]["raise"]) == LATENCY
    assert first["stall"] == pytest.approx(0.05)
    assert second["exits"] == {"EFAULT": 3}
    assert second["faults"]["exit"] == 3
    assert len(get(client, "/api/v1/vms/all/vcpus")["vcpus"]) == 2


def test_totals_and_exits_of_a_vcpu_last_longer_than_the_window(
    client: TestClient, feeder: Feeder, source: FeederSource
) -> None:
    vm = feeder.vms[1]
    feeder.fault(vm, 0, 10 * MS, 5)
    feeder.exit(vm, 0, "KVM_EXIT_IO", 4)
    source.handle(feeder.totals())
    assert get(client, "/api/v1/exits?window=1s")["exits"] == {"KVM_EXIT_IO": 4}
    for _ in range(10):
        source.handle(feeder.totals())
    first = get(client, "/api/v1/vms/one/vcpus?window=1s")["vcpus"][0]
    assert (first["faults"]["uffd"], first["latency_ns"]["count"]) == (5, 0)
    assert first["exits"] == {"KVM_EXIT_IO": 4}
    assert get(client, "/api/v1/exits?vm=one&window=1s")["exits"] == {}
    assert get(client, "/api/v1/exits?vm=one&window=1m")["exits"] == {"KVM_EXIT_IO": 4}


def test_hardware_exits(client: TestClient, feeder: Feeder, source: FeederSource) -> None:
    answer = get(client, "/api/v1/exits")
    assert (answer["hardware"], answer["hardware_state"]) == ({}, "unattached")
    feeder.hooks.append({"hook": "hardware_exits", "status": "attached"})
    source.handle(feeder.hello())
    assert get(client, "/api/v1/exits")["hardware_state"] == "silent"
    vm = feeder.vms[1]
    feeder.hardware_exit(vm, 1, 0x100, 4 * MS, 3)  # SVM's 0x400
    feeder.hardware_exit(vm, 0, 0x7B, 1 * MS)
    source.handle(feeder.totals())
    answer = get(client, "/api/v1/exits?vm=one&window=1s")
    assert answer["hardware_state"] == "counted"
    assert answer["hardware"] == {
        "npf": {"count": 3, "sum_ns": 12 * MS, "max_ns": 4 * MS},
        "io": {"count": 1, "sum_ns": 1 * MS, "max_ns": 1 * MS},
    }
    assert list(answer["hardware"]) == ["npf", "io"]
    vcpus = get(client, "/api/v1/vms/one/vcpus?window=1s")["vcpus"]
    assert [vcpu["hardware_exits"] for vcpu in vcpus] == [{"io": 1}, {"npf": 3}]
    assert 'exitscope_hardware_exits_total{reason="npf",vm="one"} 3.0' in client.get("/metrics").text
    assert 'exitscope_hardware_exit_seconds_total{reason="npf",vm="one"} 0.012' in client.get("/metrics").text


@pytest.mark.parametrize("window", WINDOWS)
def test_every_window_on_offer_is_answered(client: TestClient, window: str) -> None:
    assert get(client, f"/api/v1/vms/one/vcpus?window={window}")["window_ns"] == WINDOWS[window]
    assert get(client, f"/api/v1/exits?window={window}")["window_ns"] == WINDOWS[window]


def test_loss_health_and_capabilities(client: TestClient, feeder: Feeder, source: FeederSource) -> None:
    feeder.loss["ring_full"] = 7
    source.handle(feeder.totals())
    loss = get(client, "/api/v1/loss")
    assert loss["ring_full"] == 7
    assert {
        "ring_full",
        "map_full",
        "unmatched_begin",
        "unmatched_end",
        "hook_missing",
        "slow_client",
    } <= loss.keys()
    health = get(client, "/api/v1/health")
    assert (health["status"], health["source"]["kind"]) == (
        "degraded",
        "live",
    )  # the feeder's clock stands still
    found = get(client, "/api/v1/capabilities")
    assert found["summary"] == "1 of 2 hooks attached"
    assert found["capabilities"][0]["passed_over"] == [{"attachment": "fentry:x", "reason": "EPERM"}]
    assert found["missing"] == ["guest fault: no guest addresses"]
    assert found["windows"] == list(WINDOWS)
    assert found["profile"] is None


def test_the_kernels_profile(client: TestClient, feeder: Feeder, source: FeederSource) -> None:
    told = described(PROFILES[0])
    source.handle(feeder.hello(capabilities={"hooks": [], "profile": told}))
    assert get(client, "/api/v1/capabilities")["profile"] == told
    source.handle(feeder.hello(capabilities={"hooks": [], "profile": {"name": 7}}))
    assert get(client, "/api/v1/capabilities")["profile"] is None


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "parameter"),
    [
        ("GET", "/api/v1/vms/nosuch/vcpus", 404, "unknown_vm", "vm"),
        ("GET", "/api/v1/exits?vm=nosuch", 422, "unknown_vm", "vm"),
        ("GET", "/api/v1/exits?window=7s", 422, "invalid_parameter", "window"),
        ("GET", "/api/v1/exits?window=", 422, "invalid_parameter", "window"),
        ("GET", "/api/v1/vms/one/vcpus?window=1e9s", 422, "invalid_parameter", "window"),
        ("GET", f"/api/v1/vms/{'x' * 300}/vcpus", 422, "invalid_parameter", "vm"),
        ("GET", "/api/v1/nosuch", 404, "not_found", None),
        ("GET", "/nosuch.html", 404, "not_found", None),
        ("GET", "/..%2f..%2fetc/passwd", 404, "not_found", None),
        ("POST", "/api/v1/vms", 405, "method_not_allowed", None),
        ("PUT", "/index.html", 405, "method_not_allowed", None),
    ],
)
def test_every_error_has_the_one_shape(
    client: TestClient, method: str, path: str, status: int, code: str, parameter: str | None
) -> None:
    response = client.request(method, path)
    assert response.status_code == status
    body = response.json()
    assert set(body) == {"error"}
    assert {"code", "message", "hint"} <= set(body["error"])
    assert body["error"]["code"] == code
    assert body["error"].get("parameter") == parameter
    assert "\n" not in body["error"]["message"]
    if parameter:
        assert parameter in body["error"]["message"]


def test_a_bug_is_a_500_of_the_same_shape(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exitscope.frame.vm_list", lambda *_: 1 / 0)
    response = client.get("/api/v1/vms")
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal"


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1:8765", True),
        ("localhost:8765", True),
        ("[::1]:8765", True),
        ("192.168.1.5:80", True),
        (socket.gethostname(), True),
        ("evil.example", False),
        ("127.0.0.1.evil.example:8765", False),
        ("", False),
    ],
)
def test_a_name_that_is_not_ours_is_refused(client: TestClient, host: str, allowed: bool) -> None:
    response = client.get("/api/v1/vms", headers={"host": host})
    assert response.status_code == (200 if allowed else 403)
    if not allowed:
        assert response.json()["error"]["code"] == "forbidden"


def test_further_names_can_be_allowed(source: FeederSource) -> None:
    with TestClient(create_app(source, ["scope.example"]), base_url="http://scope.example") as client:
        assert client.get("/api/v1/health").status_code == 200


def test_every_answer_carries_the_security_headers(client: TestClient) -> None:
    for path in ("/", "/docs", "/api/v1/vms", "/nosuch", "/plotly.min.js"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe-eval" not in policy
        assert headers["x-content-type-options"] == "nosniff"


def test_files_are_not_sent_twice(client: TestClient) -> None:
    for path in ("/", "/plotly.min.js", "/js/main.mjs"):
        first = client.get(path)
        assert first.status_code == 200
        again = client.get(path, headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert client.get("/js/main.mjs").headers["content-type"].startswith("text/javascript")


def test_a_page_that_can_no_longer_be_read_is_still_served(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    before = client.get("/").content

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr("exitscope.static.os.stat", refuse)
    assert client.get("/").content == before


def test_nothing_that_is_served_loads_from_another_host(client: TestClient) -> None:
    """Without Plotly's own file: it names map servers, for charts that the page has not; CSP stops them."""
    page = Page()
    own = [path for path in page._files if path != "plotly.min.js"]
    assert "index.html" in own
    loads = re.compile(
        rb"""(?:src|href|action|srcset)\s*=\s*["']?\s*(?:[a-z]+:)?//|url\(\s*["']?(?:[a-z]+:)?//|@import"""
        rb"""|import\s*\(?\s*["'](?:[a-z]+:)?//|fetch\(\s*["'](?:[a-z]+:)?//""",
        re.IGNORECASE,
    )
    for path in [*own, "docs"]:
        assert not loads.search(client.get(f"/{path}").content), path


def test_every_field_and_parameter_of_the_api_has_a_meaning(client: TestClient) -> None:
    api = get(client, "/openapi.json")
    missing = [
        f"{name}.{field}"
        for name, schema in api["components"]["schemas"].items()
        for field, value in schema.get("properties", {}).items()
        if not value.get("description", "").strip()
    ]
    for path, operations in api["paths"].items():
        for operation in operations.values():
            missing += [f"{path} {p['name']}" for p in operation.get("parameters", []) if not p.get("description")]
            missing += [] if operation.get("description") else [path]
    assert missing == []
    assert set(api["paths"]) >= {
        "/api/v1/health", "/api/v1/capabilities", "/api/v1/vms", "/api/v1/vms/{vm}/vcpus", "/api/v1/exits",
        "/api/v1/loss", "/metrics", "/api/v1/recordings", "/api/v1/recordings/{id}",
        "/api/v1/recordings/{id}/stop"}  # fmt: skip


def test_every_number_with_a_unit_says_it(client: TestClient) -> None:
    schemas = get(client, "/openapi.json")["components"]["schemas"]
    for name, schema in schemas.items():
        for field, value in schema.get("properties", {}).items():
            if field.endswith("_ns") or (name == "Latency" and field != "count"):
                assert " ns" in value["description"], f"{name}.{field}"


def test_the_docs_page_shows_every_endpoint_and_field(client: TestClient) -> None:
    text = unescape(client.get("/docs").text)
    api = get(client, "/openapi.json")
    assert "/api/v1/live" in text
    for path in api["paths"]:
        assert path in text
    for schema in api["components"]["schemas"].values():
        for value in schema.get("properties", {}).values():
            assert value["description"].split("-")[0][:30] in text
    assert "<script" not in text
