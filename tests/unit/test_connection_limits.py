"""A real server under clients that send too much, nothing, or never read."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from exitscope.app import create_app
from exitscope.descriptors import BACKLOG, RESERVE
from exitscope.recordings.library import Library, Limits

from .recording_processes import WAIT_S, run, until
from .recordings import synthetic_records, write_recording
from .test_hub import FeederSource

MB = 1 << 20


Server = tuple[int, subprocess.Popen[bytes]]
SERVE = """
from exitscope.cli import main
directory = sys.argv[1]
sys.argv[1:] = ["serve", "--port", "0", "--user", "root", "--socket", directory + "/no", "--recordings", directory]
main()
"""


@contextmanager
def server(directory: Path, *, descriptors: int | None = None, before: str = "") -> Iterator[Server]:
    """(port, process) of `exitscope serve`; before: Python that runs in it first."""
    limit = f"resource.setrlimit(resource.RLIMIT_NOFILE, ({descriptors},) * 2)" if descriptors else ""
    script = f"import resource, sys\n{limit}\n{before}\n{SERVE}"
    process = run("-c", script, directory, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    try:
        line = process.stdout.readline().decode()
        assert "exitscope: open http://" in line, process.stderr.read().decode()
        yield int(line.rstrip("/\n").rpartition(":")[2]), process
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def resident_mb(process: subprocess.Popen[bytes]) -> float:
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MB


def peak_mb(process: subprocess.Popen[bytes]) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def health(port: int) -> Any:
    return httpx.get(f"http://127.0.0.1:{port}/api/v1/health", timeout=WAIT_S).json()


def sent(port: int, head: str, chunk: bytes, most: int) -> tuple[bytes, int]:
    """What the server answers to this head and up to `most` bytes after it, and how many it let us send."""
    with socket.create_connection(("127.0.0.1", port), WAIT_S) as connection:
        count = 0
        with suppress(OSError):
            connection.sendall(head.encode())
            while count < most:
                connection.sendall(chunk)
                count += len(chunk)
        with suppress(OSError):
            return connection.recv(65536), count
        return b"", count


@pytest.mark.parametrize("method", ["POST", "DELETE", "GET", "PUT"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_is_refused_before_it_is_read(tmp_path: Path, method: str, chunked: bool) -> None:
    with server(tmp_path) as (port, process):
        health(port)
        before = peak_mb(process)
        length = "transfer-encoding: chunked" if chunked else f"content-length: {200 * MB}"
        chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n" if chunked else bytes(0x10000)
        for path in ("/api/v1/recordings", "/api/v1/replay"):
            answer, _ = sent(port, f"{method} {path} HTTP/1.1\r\nhost: localhost\r\n{length}\r\n\r\n", chunk, 200 * MB)
            assert answer == b"" or answer.split()[1] in (b"413", b"405", b"200", b"404", b"204", b"422")
        assert health(port)["version"]
        assert peak_mb(process) - before < 40


def test_what_is_too_large_is_said(tmp_path: Path) -> None:
    app = create_app(FeederSource(), (), Library(tmp_path, Limits(), None))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        answer = client.post("/api/v1/recordings", content=b"x" * (65 << 10))
        assert answer.status_code == 413 and answer.json()["error"]["code"] == "request_entity_too_large"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert client.request("DELETE", "/api/v1/recordings/x", content=b"x" * (9 << 10)).status_code == 413
        streamed = client.post("/api/v1/recordings", content=iter([b" " * (40 << 10)] * 3))
        assert streamed.status_code == 413
        assert streamed.json()["error"]["code"] == "request_entity_too_large"
        assert client.post("/api/v1/recordings", json={"name": "x"}).status_code == 409


def test_the_403_has_the_security_headers_and_head_is_answered(tmp_path: Path) -> None:
    write_recording(tmp_path / "a.parquet", id="a")
    app = create_app(FeederSource(), (), Library(tmp_path, Limits(), None))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        refused = client.get("/api/v1/health", headers={"host": "evil.example"})
        assert refused.status_code == 403
        allowed = client.get("/api/v1/health")
        for name in (
            "content-security-policy",
            "x-content-type-options",
            "referrer-policy",
            "cross-origin-resource-policy",
        ):
            assert refused.headers[name] == allowed.headers[name]
        for path in (
            "/api/v1/health",
            "/metrics",
            "/",
            "/docs",
            "/api/v1/recordings/a/faults?format=csv",
            "/api/v1/recordings",
        ):
            answer = client.head(path)
            assert answer.status_code == 200 and answer.content == b"", path
            assert answer.headers["content-type"] == client.get(path).headers["content-type"]
        assert client.head("/api/v1/recordings/nosuch").status_code == 404
        assert client.head("/api/v1/health", headers={"host": "evil.example"}).status_code == 403
        for _ in range(3):  # a HEAD of an export gives its place back
            assert client.head("/api/v1/recordings/a/faults?format=json").status_code == 200


def test_half_open_connections_make_room(tmp_path: Path) -> None:
    with server(tmp_path, descriptors=256) as (port, process):
        half_open = []
        try:
            for number in range(400):
                one = socket.create_connection(("127.0.0.1", port), WAIT_S)
                half_open.append(one)
                if number % 2:
                    one.sendall(b"GET /api/v1/health HTTP/1.1\r\nhost: loc")
                if number % 50 == 49:
                    assert health(port)["version"], f"after {number + 1} half-open connections"
            allowed = 256 - RESERVE - BACKLOG
            until(lambda: len(os.listdir(f"/proc/{process.pid}/fd")) < allowed + RESERVE // 2, "connections ended")
            assert health(port)["version"]
        finally:
            for one in half_open:
                one.close()
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=WAIT_S)
        assert len(log) < 20_000


def test_who_sends_no_request_is_ended(tmp_path: Path) -> None:
    with server(tmp_path, before="import exitscope.connections as c; c.REQUEST_S = 0.3") as (port, _):
        for beginning in (
            b"",
            b"GET / HTTP/1.1\r\nho",
            b"GET /api/v1/health HTTP/1.1\r\nhost: localhost\r\n\r\nGET / HT",
        ):
            with socket.create_connection(("127.0.0.1", port), WAIT_S) as connection:
                connection.sendall(beginning)
                with suppress(ConnectionResetError):
                    while connection.recv(65536):
                        pass  # until the end
        assert health(port)["version"]


def test_stalled_readers_do_not_block_the_exports_of_others(tmp_path: Path) -> None:
    write_recording(tmp_path / "a.parquet", synthetic_records(200_000, seconds=10), id="a")
    ask = b"GET /api/v1/recordings/a/faults?format=csv HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with server(tmp_path, before="import exitscope.connections as c; c.STALLED_S = 1.0") as (port, _):
        stalled = []
        for _number in range(2):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(WAIT_S)
            connection.connect(("127.0.0.1", port))
            connection.sendall(ask)
            connection.recv(1000)
            stalled.append(connection)
        answer = httpx.get(
            f"http://127.0.0.1:{port}/api/v1/recordings/a/faults?format=csv&limit=10", timeout=2 * WAIT_S
        )
        assert answer.status_code == 200 and len(answer.text.splitlines()) == 11
        for connection in stalled:
            connection.close()
