"""WebSocket fan-out: frames shared, newest wins, clients that do not read cost nothing and are closed."""

import asyncio
import base64
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from exitscope import api, frame
from exitscope import hub as hub_module
from exitscope.aggregate import Aggregate
from exitscope.app import create_app
from exitscope.hub import Client, Hub
from exitscope.serve import Server, server_config
from exitscope.source import Handler, Status

from .frames import Feeder, S


class FeederSource:
    """A source whose messages a test hands over itself."""

    def __init__(self) -> None:
        self.status = Status("live", connected=True, data_ns=1)
        self.handle: Handler = lambda _message: None

    async def run(self, handle: Handler) -> None:
        self.handle = handle
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def running(source: FeederSource, send_buffer_bytes: int = 0, names: tuple[str, ...] = ()) -> AsyncIterator[str]:
    """A real server on a real port; its host:port."""
    listening = socket.create_server(("127.0.0.1", 0))
    if send_buffer_bytes:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    address = f"127.0.0.1:{listening.getsockname()[1]}"
    server = Server(server_config(create_app(source, names)), address)
    task = asyncio.create_task(server.serve([listening]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield address
    finally:
        server.should_exit = True
        await task


def with_server(work: Callable[[str, FeederSource, Feeder], Awaitable[None]], vcpus: int = 2, **options: Any) -> None:
    async def main() -> None:
        source, feeder = FeederSource(), Feeder()
        feeder.add_vm(1, vcpus, id="one")
        async with running(source, **options) as address:
            for message in feeder.welcome():
                source.handle(message)
            await work(address, source, feeder)

    asyncio.run(main())


async def receive(page: ClientConnection, kind: str, matches: Callable[[dict[str, Any]], bool] = lambda _: True) -> Any:
    """The next message of this kind that matches."""
    while True:
        message = json.loads(await page.recv())
        if message["type"] == kind and matches(message):
            return message


def test_a_page_gets_a_history_and_then_frames_with_every_tick_once() -> None:
    async def work(address: str, source: FeederSource, feeder: Feeder) -> None:
        async with connect(f"ws://{address}/api/v1/live?window=5s") as page:
            first = json.loads(await page.recv())
            assert (first["type"], first["vm"], first["window_ns"]) == ("history", "one", 5 * S)
            ticks = list(first["ticks"])
            while len(ticks) < 4:
                feeder.fault(feeder.vms[1], 0, 100_000, 3)
                source.handle(feeder.totals(S))
                frame = await receive(page, "frame")
                assert frame["window_ns"] == 5 * S
                ticks += [frame["tick"]] if frame["tick"] else []
            times = [tick["time_ns"] for tick in ticks]
            assert times == sorted(set(times))

    with_server(work)


def test_a_subscription_can_be_changed_and_nonsense_is_answered() -> None:
    async def work(address: str, source: FeederSource, feeder: Feeder) -> None:
        feeder.add_vm(2, 1, id="two")
        source.handle(feeder.vms_message())
        async with connect(f"ws://{address}/api/v1/live?vm=one") as page:
            assert (await receive(page, "frame"))["vm"] == "one"
            await page.send('{"vm": "two", "window": "1m"}')
            history = await receive(page, "history", lambda m: m["vm"] == "two")
            assert history["window_ns"] == 60 * S
            for nonsense in (
                "",
                "{",
                "[]",
                "{}",
                '{"vm": 5}',
                '{"speed": "1"}',
                "[" * 4000,
                '{"window": null}',
            ):
                await page.send(nonsense)
                assert (await receive(page, "error"))["error"]["code"] == "invalid_message"
            await page.send(b"\x00\xff")
            assert (await receive(page, "error"))["error"]["code"] == "invalid_message"
            await page.send('{"window": "7s"}')
            error = (await receive(page, "error"))["error"]
            assert error["code"] == "invalid_parameter"
            assert "1s, 5s, 10s" in error["hint"]
            await page.send('{"vm": "nosuch"}')
            assert (await receive(page, "error"))["error"]["code"] == "unknown_vm"
            assert (await receive(page, "frame", lambda m: m["vm"] == "all"))["window_ns"] == 60 * S

    with_server(work)


def test_several_vms_are_shown_together_unless_one_is_chosen() -> None:
    async def work(address: str, source: FeederSource, feeder: Feeder) -> None:
        async with connect(f"ws://{address}/api/v1/live") as page:
            assert (await receive(page, "frame"))["vm"] == "one"
            feeder.add_vm(2, 1, id="two")
            source.handle(feeder.vms_message())
            source.handle(feeder.totals())
            frame = await receive(page, "frame", lambda m: m["vm"] == "all")
            assert [(row["vm"], row["vcpu"]) for row in frame["vcpus"]] == [
                ("one", 0),
                ("one", 1),
                ("two", 0),
            ]

    with_server(work)


def test_other_sites_get_no_data() -> None:
    async def work(address: str, _source: FeederSource, _feeder: Feeder) -> None:
        for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}):
            with pytest.raises(InvalidStatus, match="403"):
                async with connect(f"ws://{address}/api/v1/live", additional_headers=headers):
                    pass
        async with connect(f"ws://{address}/api/v1/live", origin=f"http://{address}") as page:  # type: ignore[arg-type]
            await receive(page, "frame")

    with_server(work)


def test_a_page_behind_a_proxy_that_rewrites_host_is_served() -> None:
    async def work(address: str, _source: FeederSource, _feeder: Feeder) -> None:
        url = f"ws://{address}/api/v1/live"
        for origin in ("https://traces.example.org", "http://traces.example.org:8443", "https://TRACES.example.org."):
            headers = {"Origin": origin, "Sec-Fetch-Site": "same-origin"}
            async with connect(url, additional_headers=headers) as page:
                await receive(page, "frame")
        names = (
            "evil.example.org",
            "traces.example.org.evil.net",
            "localhost:1",
            "127.0.0.1:1",
            "x@traces.example.org",
        )
        for origin in (*(f"https://{name}" for name in names), "null", "file://traces.example.org"):
            with pytest.raises(InvalidStatus) as refused:
                async with connect(url, additional_headers={"Origin": origin}):
                    pass
            answer = refused.value.response
            assert answer.status_code == 403
            assert "content-security-policy" in answer.headers
            told = json.loads(answer.body or b"")["error"]
            assert told["code"] == "forbidden" and "--allow-host" in told["hint"]

    with_server(work, names=("127.0.0.1", "traces.example.org"))


def test_a_message_that_is_too_long_ends_the_connection_of_its_sender_only() -> None:
    async def work(address: str, _source: FeederSource, _feeder: Feeder) -> None:
        url = f"ws://{address}/api/v1/live"
        async with connect(url) as good, connect(url) as bad:
            await bad.send("x" * (api.MAX_MESSAGE_BYTES + 1))
            await bad.wait_closed()
            assert bad.close_code == 1009
            await receive(good, "frame")

    with_server(work)


def test_there_is_a_limit_of_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "MAX_CLIENTS", 2)

    async def work(address: str, _source: FeederSource, _feeder: Feeder) -> None:
        url = f"ws://{address}/api/v1/live"
        async with connect(url) as one, connect(url) as two, connect(url) as three:
            await three.wait_closed()
            assert three.close_code == 1013
            await receive(one, "frame")
            await receive(two, "frame")

    with_server(work)


def test_a_client_that_never_reads_is_closed_and_others_do_not_notice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub_module, "SEND_TIMEOUT_S", 0.5)

    async def work(address: str, source: FeederSource, feeder: Feeder) -> None:
        host, port = address.split(":")
        silent = socket.socket()
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.connect((host, int(port)))
        key = base64.b64encode(os.urandom(16)).decode()
        silent.sendall(
            f"GET /api/v1/live HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        async with connect(f"ws://{address}/api/v1/live") as page:
            metrics = ""
            while "exitscope_clients 2.0" not in metrics:
                metrics = await fetch(address, "/metrics")
            while "exitscope_clients 1.0" not in metrics:
                source.handle(feeder.totals())
                assert (await receive(page, "frame"))["vm"] == "one"
                metrics = await fetch(address, "/metrics")
            assert (await receive(page, "frame"))["loss"]["slow_client"] > 0
        silent.close()

    with_server(work, vcpus=256, send_buffer_bytes=4096)


async def fetch(address: str, path: str) -> str:
    """A plain GET."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
    body = (await reader.read()).decode()
    writer.close()
    return body


class Recorder:
    """A connection that notes what it is sent, and can be held."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.open = asyncio.Event()
        self.open.set()

    async def send_text(self, data: str) -> None:
        await self.open.wait()
        self.sent.append(json.loads(data))


def test_a_slow_client_gets_the_newest_frame_and_skipped_ones_are_counted() -> None:
    async def main() -> None:
        aggregate, feeder = Aggregate(), Feeder()
        feeder.add_vm(1, 1)
        for message in feeder.welcome():
            aggregate.handle(message)
        hub, client, connection = Hub(aggregate, Status("live")), Client(), Recorder()
        client.subscribe("", "10s")
        hub.clients.add(client)
        task = asyncio.create_task(hub.serve(client, connection))
        hub.publish(0.0)
        await asyncio.sleep(0.01)
        assert [message["type"] for message in connection.sent] == ["history", "frame"]
        connection.open.clear()
        for number in range(50):
            aggregate.handle(feeder.totals())
            hub.publish(float(number))
            await asyncio.sleep(0)
        connection.open.set()
        await asyncio.sleep(0.01)
        assert hub.skipped == 48  # one was on its way when the connection stood still, one is the newest
        assert [message["type"] for message in connection.sent] == ["history", "frame", "frame", "history", "frame"]
        assert connection.sent[-1]["sequence"] == 51
        told = [tick["time_ns"] for tick in connection.sent[-2]["ticks"]]
        told += [connection.sent[-1]["tick"]["time_ns"]] if connection.sent[-1]["tick"] else []
        assert told == sorted(set(told))
        assert len(told) >= aggregate.series.count - 2  # no column is left out for having been slow
        task.cancel()

    asyncio.run(main())


def test_clients_of_one_subscription_share_one_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    build = frame.build

    def count(*arguments: Any) -> dict[str, Any]:
        built.append(arguments)
        return build(*arguments)

    monkeypatch.setattr(frame, "build", count)

    async def main() -> None:
        hub = Hub(Aggregate(), Status("live"))
        for window in ("10s", "10s", "10s", "1m"):
            client = Client()
            client.subscribe("", window)
            hub.clients.add(client)
        hub.publish(0.0)
        assert len(built) == 2
        assert len({id(client.frame) for client in hub.clients}) == 2

    asyncio.run(main())


def test_a_page_keeps_its_vm_while_the_server_waits_for_the_collector() -> None:
    async def main() -> None:
        aggregate, feeder = Aggregate(), Feeder()
        hub, client = Hub(aggregate, Status("live")), Client()
        client.subscribe("two", "10s")
        hub.clients.add(client)
        hub.publish(0.0)
        assert (client.vm_id, client.error) == ("two", None)
        feeder.add_vm(1, 1, id="one")
        feeder.add_vm(2, 1, id="two")
        for message in feeder.welcome():
            aggregate.handle(message)
        hub.publish(1.0)
        assert '"vm":"two"' in str(client.frame)

    asyncio.run(main())


def test_the_history_is_sent_again_when_rows_move() -> None:
    async def main() -> None:
        aggregate, feeder = Aggregate(), Feeder()
        vm = feeder.add_vm(1, 2)
        for message in feeder.welcome():
            aggregate.handle(message)
        for _ in range(10):
            feeder.fault(vm, 1, 1_000_000)
            aggregate.handle(feeder.totals())
        hub, client = Hub(aggregate, Status("live")), Client()
        client.subscribe(vm.id, "10s")
        hub.clients.add(client)
        hub.publish(0.0)
        assert len(json.loads(str(client.history))["ticks"][-1]["heat"]) == 2
        client.history = None
        feeder.own(vm, 7, 99)
        aggregate.handle(feeder.vms_message())
        hub.publish(10.0)
        heat = json.loads(str(client.history))["ticks"][-1]["heat"]
        assert heat[0] is None
        assert heat[1] > 900_000
        assert heat[2] is None

    asyncio.run(main())
