"""The collector's socket and recordings as sources: reconnecting, garbage, replay."""

import asyncio
import gzip
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from exitscope.aggregate import Aggregate
from exitscope.replay import ReplayError, ReplaySource, shifted
from exitscope.source import STALE_NS, SocketSource, Status
from exitscope_probes.wire import Kind, Message, encode

from .frames import Feeder, S, write_recording

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def until(condition: Callable[[], object]) -> None:
    """Waits as long as it takes; the test's own time limit is the bound."""
    while not condition():
        await asyncio.sleep(0.01)


async def with_source(path: Path, work: Callable[[SocketSource, list[Message]], Awaitable[None]]) -> None:
    source, got = SocketSource(str(path)), list[Message]()
    task = asyncio.create_task(source.run(got.append))
    try:
        await work(source, got)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def sends(*parts: bytes, stay: bool = True) -> Serve:
    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.01)
        if stay:
            await asyncio.sleep(3600)
        writer.close()

    return serve


def test_it_says_that_there_is_no_collector_and_finds_it_when_it_comes(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"

    async def work(source: SocketSource, got: list[Message]) -> None:
        await until(lambda: "sudo exitscope collect" in str(source.status.reason))
        assert source.status.state(time.monotonic_ns()) == "waiting"
        assert str(path) in str(source.status.reason)
        async with await asyncio.start_unix_server(sends(encode(Feeder().hello())), path):
            await until(lambda: got)
            assert source.status.state(time.monotonic_ns()) == "connected"
            assert source.status.explain(time.monotonic_ns()) is None
            assert source.status.state(time.monotonic_ns() + STALE_NS + S) == "stale"
            assert "said nothing for" in str(source.status.explain(time.monotonic_ns() + STALE_NS + S))

    asyncio.run(with_source(path, work))


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n............", "not an exitscope frame"),
        (encode(Feeder().hello())[:40], "the stream ended"),
        (encode(Feeder().hello())[:7], "header"),
    ],
)
def test_garbage_is_one_line_and_a_new_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, bad: bytes, complaint: str
) -> None:
    path = tmp_path / "c.sock"
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await sends(bad if connections == 1 else encode(Feeder().hello()), stay=connections > 1)(reader, writer)

    async def work(source: SocketSource, got: list[Message]) -> None:
        async with await asyncio.start_unix_server(serve, path):
            await until(lambda: got)
        assert source.status.errors == 1

    with caplog.at_level(logging.WARNING):
        asyncio.run(with_source(path, work))
    lines = [record.message for record in caplog.records if record.name == "exitscope"]
    assert len(lines) == 1
    assert complaint in lines[0]
    assert "\n" not in lines[0]


def test_frames_come_whole_however_they_are_cut(tmp_path: Path) -> None:
    feeder = Feeder()
    vm = feeder.add_vm(1, 64)
    for vcpu in range(64):
        feeder.fault(vm, vcpu, 1000 * (vcpu + 1))
    stream = b"".join(encode(message) for message in feeder.welcome())
    path = tmp_path / "c.sock"

    async def work(_source: SocketSource, got: list[Message]) -> None:
        pieces = [stream[i : i + 4099] for i in range(0, len(stream), 4099)]
        async with await asyncio.start_unix_server(sends(*pieces), path):
            await until(lambda: len(got) == 3)
        assert [message.kind for message in got] == [Kind.HELLO, Kind.VMS, Kind.TOTALS]
        assert got[2].arrays["vcpus"]["series"]["count"].sum() == 64

    asyncio.run(with_source(path, work))


def test_goodbye_is_told(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    bye = encode(Message(Kind.BYE, 1, {"reason": "SIGTERM"}))

    async def work(source: SocketSource, _got: list[Message]) -> None:
        async with await asyncio.start_unix_server(sends(encode(Feeder().hello()), bye), path):
            await until(lambda: source.status.reason == "the collector ended: SIGTERM")

    asyncio.run(with_source(path, work))


def recorded() -> list[Message]:
    feeder = Feeder()
    vm = feeder.add_vm(1, 1)
    messages = feeder.welcome()
    for _ in range(3):
        feeder.fault(vm, 0, 100_000, 10)
        messages += [feeder.records(vm, [100_000]), feeder.totals(S // 20)]
    return messages


def test_a_replay_is_shifted_to_now_and_every_round_starts_afresh(tmp_path: Path) -> None:
    source = ReplaySource(str(write_recording(tmp_path / "r.gz", recorded())), "no KVM here")
    got: list[Message] = []
    aggregate = Aggregate()

    def take(message: Message) -> None:
        got.append(message)
        aggregate.handle(message)

    async def work() -> None:
        task = asyncio.create_task(source.run(take))
        await until(lambda: sum(message.kind is Kind.HELLO for message in got) == 2)
        await until(lambda: aggregate.time_ns and len(got) >= 18)
        task.cancel()

    began_ns = time.monotonic_ns()
    asyncio.run(work())
    assert source.status.kind == "replay"
    assert source.status.reason == "no KVM here"
    assert aggregate.sessions == 2
    times = [message.time_ns for message in got]
    assert times == sorted(times)
    assert times[0] >= began_ns
    records = next(message for message in got if message.kind is Kind.FAULTS).arrays["records"]
    assert began_ns - 200_000 <= records["begin_ns"][0] <= time.monotonic_ns()
    (vm,) = aggregate.vms
    assert vm.faults(aggregate.rows)["uffd"] == 30  # not 60: the second round counts anew


def test_a_shift_moves_moments_and_leaves_lengths_and_nothing_alone() -> None:
    feeder = Feeder()
    vm = feeder.add_vm(1, 2)
    feeder.vcpus[vm.slots[0]]["open_since_ns"] = feeder.time_ns - 7
    totals = shifted(feeder.totals(0), S)
    assert totals.arrays["vcpus"]["open_since_ns"].tolist() == [feeder.time_ns - 7 + S, 0]
    assert shifted(feeder.hello(), -S).meta["started_ns"] == feeder.started_ns - S
    assert shifted(feeder.records(vm, [5]), S).arrays["records"]["serve_ns"].tolist() == [5]


@pytest.mark.parametrize("content", [b"", b"no gzip", gzip.compress(b"no frame, but longer than a header is")])
def test_what_is_no_recording_is_refused_at_once(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(content)
    with pytest.raises(ReplayError, match=r"x\.gz is not a recording"):
        ReplaySource(str(path))


def test_a_missing_recording_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match="No such file"):
        ReplaySource(str(tmp_path / "none.gz"))


def test_a_damaged_recording_is_played_up_to_the_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_recording(tmp_path / "r.gz", recorded())
    path.write_bytes(path.read_bytes()[:-40])
    source, got = ReplaySource(str(path)), list[Message]()

    async def work() -> None:
        task = asyncio.create_task(source.run(got.append))
        await until(lambda: source.status.errors)
        task.cancel()

    asyncio.run(work())
    assert got[0].kind is Kind.HELLO
    assert any("damaged" in record.message for record in caplog.records)


def test_status_before_anything_happened() -> None:
    assert Status("none").state(0) == "waiting"
