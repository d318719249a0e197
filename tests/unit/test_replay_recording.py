"""Playing a recording: what the page is told is what live tracing would have told; seek, speed, pause, and back."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from exitscope import frame
from exitscope.aggregate import Aggregate
from exitscope.app import create_app
from exitscope.errors import UserError
from exitscope.recordings.counters import CounterLog
from exitscope.recordings.file import RecordingFile
from exitscope.recordings.finish import finish
from exitscope.recordings.library import Library, Limits
from exitscope.recordings.player import Player
from exitscope.recordings.recorder import head
from exitscope.recordings.spool import SpoolWriter
from exitscope.recordings.synthesis import Synthesis
from exitscope.replay import ReplayError
from exitscope.serve import source_of
from exitscope.source import Status
from exitscope_probes.records import MODE_KERNEL, MODE_UFFD
from exitscope_probes.wire import Kind, Message, encode

from .frames import Feeder, S
from .recordings import START_NS, latency_ns, synthetic_records, write_recording
from .test_hub import FeederSource

MS = 1_000_000


@pytest.fixture
def file(tmp_path: Path) -> RecordingFile:
    return write_recording(tmp_path / "20260101-000000-test.parquet", synthetic_records(4000, seconds=100))


def played(file: RecordingFile, from_ns: int, to_ns: int, step_ns: int = S) -> list[Message]:
    synthesis = Synthesis(file, from_ns)
    messages = synthesis.welcome()
    for at_ns in range(from_ns + step_ns, to_ns + step_ns, step_ns):
        messages += synthesis.advance(at_ns)
    return messages


def test_every_record_is_played_once_when_it_ended(file: RecordingFile) -> None:
    records = synthetic_records(4000, seconds=100)
    messages = played(file, START_NS, START_NS + 110 * S, S // 5)
    faults = [message for message in messages if message.kind is Kind.FAULTS]
    found = np.concatenate([message.arrays["records"] for message in faults])
    assert sorted(found["begin_ns"].tolist()) == sorted(records["begin_ns"].tolist())
    for message in faults:
        ended = message.arrays["records"]["begin_ns"].astype(np.int64) + latency_ns(message.arrays["records"])
        assert (ended <= message.time_ns).all() and (ended > message.time_ns - S // 5).all()
    for message in messages:
        encode(message)  # each is what a collector could have sent


def test_totals_go_on_from_those_at_the_start(file: RecordingFile) -> None:
    messages = played(file, START_NS, START_NS + 110 * S)
    totals = [message for message in messages if message.kind is Kind.TOTALS]
    first, last = totals[0].arrays["vcpus"], totals[-1].arrays["vcpus"]
    assert first["series"]["count"][:, MODE_UFFD].tolist() == [5] * 4
    assert last["series"]["count"][:, MODE_UFFD].tolist() == [1005] * 4
    stop = file.meta.totals.stop.vms[file.meta.vms[0].id].vcpus
    assert last["series"]["sum_ns"][:, MODE_UFFD].tolist() == [vcpu.sum_ns["uffd"] for vcpu in stop]
    # Stages: all ends were seen, so each is counted 1000 times a vCPU, and their sums make up the whole.
    assert (last["series"]["count"][:, 5:10] == 1000).all()
    assert last["series"]["sum_ns"][:, 5:10].sum() + 4 * 5000 == last["series"]["sum_ns"][:, MODE_UFFD].sum()
    cells = np.concatenate([message.arrays["cells"] for message in totals[1:]])
    newest = dict(zip(cells["cell"].tolist(), cells["count"].tolist(), strict=True))
    assert sum(newest.values()) == 4000 * 6


def real_looking(tmp_path: Path) -> tuple[RecordingFile, list[Message]]:
    """A recording of a fake collector's messages, and these messages."""
    feeder = Feeder()
    vm = feeder.add_vm(1, 2, id="one")
    messages = [*feeder.welcome(), feeder.totals(S)]
    random = np.random.default_rng(5)
    for _ in range(100):
        lengths = random.integers(10_000, 5 * MS, 20)
        feeder.time_ns += S // 5
        feeder.faults(vm, 0, lengths)
        feeder.faults(vm, 0, lengths, 7)  # stage serve
        feeder.faults(vm, 0, lengths * 0, 6)  # stage notify, seen and of no length
        feeder.fault(vm, 1, 2_000, 30, MODE_KERNEL)
        feeder.exit(vm, 1, "KVM_EXIT_IO", 10)
        feeder.hardware_exit(vm, 1, 0x7B, 1500, 4)
        feeder.fill(vm, "COPY", 20)
        feeder.fill(vm, "COPY", 5, demand=False)
        messages += [feeder.records(vm, lengths.tolist(), seen=4), feeder.vms_message(), feeder.totals(0)]
    writer = SpoolWriter(tmp_path / "a.spool", head("a", "", None))
    writer.frames(b"".join(map(encode, messages)))
    writer.end("finished", "")
    writer.close()
    finish(str(tmp_path / "a.spool"), str(tmp_path / "a.parquet"))
    return RecordingFile.open(tmp_path / "a.parquet"), messages


def test_the_replay_ends_where_the_live_run_ended(tmp_path: Path) -> None:
    file, messages = real_looking(tmp_path)
    live, replayed = Aggregate(), Aggregate()
    for message in messages:
        live.handle(message)
    for message in played(file, file.meta.started_ns, file.meta.ended_ns, S // 5):
        replayed.handle(message)
    for vcpu in (0, 1):
        rows = [
            next(totals for totals in vm.totals(at.rows) if totals["vcpu"] == vcpu)
            for at in (live, replayed)
            for vm in at.vms
        ]
        for name in ("stall_ns", "exits"):
            assert rows[0][name].tolist() == rows[1][name].tolist(), name
        for series in (MODE_UFFD, MODE_KERNEL, 7):
            for name in ("count", "sum_ns"):
                assert rows[0]["series"][name][series] == rows[1]["series"][name][series], (series, name)
    vms = [next(iter(at.vms)) for at in (live, replayed)]
    fills = [at.fills.since(900 * S, np.array([vm.row])) for at, vm in zip((live, replayed), vms, strict=True)]
    assert (fills[0] == fills[1]).all()
    histograms = [at.histograms.now[vm.rows[0]] for at, vm in zip((live, replayed), vms, strict=True)]
    assert (histograms[0] == histograms[1]).all()
    hardware = [at.hardware.ever(vm.vcpu_rows()) for at, vm in zip((live, replayed), vms, strict=True)]
    assert hardware[0].keys() == hardware[1].keys() != set()
    for reason, exits in hardware[0].items():
        assert (
            (exits["count"], exits["sum_ns"]) == (hardware[1][reason]["count"], hardware[1][reason]["sum_ns"]) != (0, 0)
        )
    kernel = [at.histograms.now[vm.rows[1]] for at, vm in zip((live, replayed), vms, strict=True)]
    assert (kernel[0] == kernel[1]).all()


def busy_host(tmp_path: Path, vm: str | None) -> RecordingFile:
    """A recording of one VM or of all, on a host of twelve VMs of three vCPUs, half of which appear after the start."""
    feeder = Feeder()
    vms = [feeder.add_vm(number, 3, id=f"vm{number}") for number in range(1, 7)]
    messages = [*feeder.welcome(), feeder.totals(S)]
    for number in range(7, 13):
        vms.append(feeder.add_vm(number, 3, id=f"vm{number}"))
        feeder.time_ns += S
        for one in vms:
            for vcpu in range(3):
                feeder.faults(one, vcpu, np.array([10_000, 20_000]))
            feeder.fill(one, "COPY", 6)
            if vm in (None, one.id):  # as recorder.py does
                messages.append(feeder.records(one, [10_000, 20_000], seen=4))
        messages += [feeder.vms_message(), feeder.totals(0)]
    writer = SpoolWriter(tmp_path / "busy.spool", head("busy", "", vm))
    writer.frames(b"".join(map(encode, messages)))
    writer.end("finished", "")
    writer.close()
    finish(str(tmp_path / "busy.spool"), str(tmp_path / "busy.parquet"))
    return RecordingFile.open(tmp_path / "busy.parquet")


@pytest.mark.parametrize("old", [False, True], ids=["now", "as it was once written"])
@pytest.mark.parametrize("vm", [None, "vm3"])
@pytest.mark.parametrize("later_ns", [0, 4 * S])
def test_a_busy_hosts_recording_plays(
    tmp_path: Path, vm: str | None, later_ns: int, old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if old:  # the counters of all VMs of the host are in it
        pack = CounterLog.pack
        monkeypatch.setattr(CounterLog, "pack", lambda self, owners, _vms: pack(self, owners))
    file = busy_host(tmp_path, vm)
    messages = played(file, file.meta.started_ns + later_ns, file.meta.ended_ns)
    for message in messages:
        encode(message)
    last = messages[-1].arrays
    assert len(last["vcpus"]) == (36 if vm is None else 3)
    assert [one["id"] for one in messages[-2].meta["vms"]] == ([f"vm{n}" for n in range(1, 13)] if vm is None else [vm])
    counts = file.meta.totals.stop.vms
    for row in last["vcpus"]:
        of = messages[-2].meta["vms"][int(row["vm"]) - 1]["id"]
        stop = next(vcpu for vcpu in counts[of].vcpus if vcpu.vcpu == row["vcpu"])
        assert row["series"]["count"][MODE_UFFD] <= stop.faults["uffd"]
    fills = {messages[-2].meta["vms"][int(row["vm"]) - 1]["id"]: int(row["fills_demand"][1]) for row in last["vms"]}
    assert fills == {
        of: said.fills_demand.get("COPY", 0) - counts_before(file, of) for of, said in counts.items()
    }  # since the recording began


def counts_before(file: RecordingFile, vm: str) -> int:
    """COPY fills before the recording began."""
    before = file.meta.totals.start.vms.get(vm)
    return before.fills_demand.get("COPY", 0) if before else 0


def test_open_faults_of_new_rows_are_shown(tmp_path: Path) -> None:
    """More rows than the arrays began with, first seen in faults that are still open."""
    records = synthetic_records(40, vcpus=40)
    records["serve_ns"] = 100 * S
    file = write_recording(tmp_path / "a.parquet", records)
    file.meta.vms[0].vcpus.clear()
    file.meta.totals.start.vms.clear()
    synthesis = Synthesis(file, START_NS)
    synthesis.welcome()
    totals = synthesis.advance(START_NS + 11 * S)[-1]
    assert sorted(totals.arrays["vcpus"]["open_since_ns"].tolist()) == sorted(records["begin_ns"].tolist())


def test_what_was_not_recorded_is_null_in_the_frame(tmp_path: Path) -> None:
    file, messages = real_looking(tmp_path)
    for said, known in ((messages, True), (played(file, file.meta.started_ns, file.meta.ended_ns), False)):
        aggregate = Aggregate()
        for message in said:
            aggregate.handle(message)
        selection = frame.select(aggregate, "one")
        shown = frame.build(aggregate, Status("live"), selection, 10 * S, 1, 0)
        tick, history = frame.tick(aggregate, selection), frame.history(aggregate, selection, 10 * S)
        assert tick is not None and len(history["ticks"]) > 10
        for one in (shown, tick, *history["ticks"]):
            assert (one["queue"] is not None) == known


def test_starting_later_has_counted_what_was_before(tmp_path: Path) -> None:
    file, _ = real_looking(tmp_path)
    at_ns = file.meta.started_ns + 10 * S
    whole = [m for m in played(file, file.meta.started_ns, file.meta.ended_ns) if m.kind is Kind.TOTALS]
    later = [m for m in played(file, at_ns, file.meta.ended_ns) if m.kind is Kind.TOTALS]
    for name in ("stall_ns", "exits"):
        assert (whole[-1].arrays["vcpus"][name] == later[-1].arrays["vcpus"][name]).all()
    assert (whole[-1].arrays["vcpus"]["series"]["count"] == later[-1].arrays["vcpus"]["series"]["count"]).all()
    assert (later[0].arrays["vcpus"]["series"]["count"][0, MODE_UFFD]) >= 900


def test_open_faults_and_the_queue_are_shown(tmp_path: Path) -> None:
    records = synthetic_records(1)
    records["serve_ns"] = 10 * S
    file = write_recording(tmp_path / "a.parquet", records)
    begin_ns = int(records["begin_ns"][0])
    synthesis = Synthesis(file, START_NS)
    synthesis.welcome()
    vms, totals = synthesis.advance(begin_ns + 5 * S)
    assert totals.arrays["vcpus"]["open_since_ns"].tolist() == [begin_ns]
    assert vms.meta["vms"][0]["uffds"] == [{"fd": 0, "pending": 0, "total": 1}]
    _, _, totals = synthesis.advance(begin_ns + 11 * S)
    assert totals.arrays["vcpus"]["open_since_ns"].tolist() == [0]


@pytest.fixture
def client(tmp_path: Path, file: RecordingFile) -> Iterator[TestClient]:
    source = FeederSource()
    app = create_app(source, (), Library(tmp_path, Limits(), None))
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        client.get("/api/v1/health")
        feeder = Feeder()
        feeder.add_vm(1, 2, id="live-vm")
        for message in feeder.welcome():
            source.handle(message)
        yield client


def until(client: TestClient, path: str, condition: Any) -> Any:
    deadline = time.monotonic() + 20
    while not condition(found := client.get(path).json()):
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found


def place(answer: dict[str, Any]) -> dict[str, Any]:
    """What an answer of /replay says of the replay itself."""
    return {name: value for name, value in answer.items() if name != "host_alarms"}


def test_a_replay_says_how_many_alarms_of_this_host_it_hides(client: TestClient, file: RecordingFile) -> None:
    until(client, "/api/v1/alarms", lambda answer: [one["kind"] for one in answer["alarms"]] == ["source_lost"])
    client.post("/api/v1/replay", json={"id": file.meta.id, "paused": True})
    until(client, "/api/v1/alarms", lambda answer: not answer["alarms"])  # the replay's own
    assert client.get("/api/v1/replay").json()["host_alarms"] == 1


def test_play_seek_pause_and_back_to_live(client: TestClient, file: RecordingFile) -> None:
    recording_id = file.meta.id
    nothing = dict.fromkeys(("id", "at_ns", "from_ns", "to_ns", "speed", "paused", "error"))
    assert place(client.get("/api/v1/replay").json()) == nothing
    answer = client.post("/api/v1/replay", json={"id": recording_id, "at_ns": START_NS + 50 * S, "paused": True}).json()
    assert place(answer) == {"id": recording_id, "at_ns": START_NS + 50 * S, "from_ns": START_NS,
                      "to_ns": file.meta.ended_ns, "speed": 1.0, "paused": True, "error": None}  # fmt: skip
    until(client, "/api/v1/vms", lambda answer: [vm["id"] for vm in answer["vms"]] == ["4001-77"])
    until(client, "/api/v1/vms", lambda answer: answer["vms"] and answer["vms"][0]["faults"]["uffd"] > 1500)
    before = int((synthetic_records(4000, seconds=100)["begin_ns"].astype(np.int64) < START_NS + 50 * S).sum())
    until(client, "/api/v1/vms", lambda answer: abs(answer["vms"][0]["faults"]["uffd"] - 20 - before) <= 2)
    assert client.get("/api/v1/health").json()["source"]["kind"] == "replay"
    assert "test" in client.get("/api/v1/health").json()["source"]["reason"]
    vcpus = client.get("/api/v1/vms/4001-77/vcpus?window=10s").json()["vcpus"]
    assert sum(vcpu["latency_ns"]["count"] for vcpu in vcpus) == pytest.approx(400, rel=0.2)
    assert client.get("/api/v1/replay").json()["at_ns"] == START_NS + 50 * S, "it stands still"
    assert client.get("/api/v1/capabilities").json()["summary"] == "1 of 1 hooks attached"
    metrics = client.get("/metrics").text
    assert "live-vm" in metrics and "4001-77" not in metrics, "metrics are the host's"

    client.post("/api/v1/replay", json={"id": recording_id, "at_ns": START_NS + 20 * S})  # backwards
    until(client, "/api/v1/vms", lambda answer: answer["vms"] and 20 < answer["vms"][0]["faults"]["uffd"] < before / 2)
    client.post("/api/v1/replay", json={"id": recording_id, "paused": False, "speed": 50})
    until(client, "/api/v1/replay", lambda answer: answer["at_ns"] > START_NS + 30 * S)
    ended = until(client, "/api/v1/replay", lambda answer: answer["paused"])
    assert ended["at_ns"] == ended["to_ns"]
    assert client.get("/api/v1/vms").json()["vms"][0]["faults"]["uffd"] == 4020
    again = client.post("/api/v1/replay", json={"id": recording_id, "paused": False}).json()
    assert again["at_ns"] == START_NS, "going on at the end begins again"

    assert client.delete("/api/v1/replay").status_code == 204
    assert place(client.get("/api/v1/replay").json()) == nothing
    assert [vm["id"] for vm in client.get("/api/v1/vms").json()["vms"]] == ["live-vm"], "as if nothing had been"
    assert client.get("/api/v1/health").json()["source"]["kind"] != "replay"


def test_a_replay_that_fails_ends_with_its_reason(
    client: TestClient, file: RecordingFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Synthesis, time_ns: int) -> list[Message]:
        if self.meta.note == "later" and time_ns < START_NS + 2 * S:
            return advance(self, time_ns)
        raise IndexError("row 16")

    advance = Synthesis.advance
    monkeypatch.setattr(Synthesis, "advance", broken)
    answer = client.post("/api/v1/replay", json={"id": file.meta.id, "at_ns": START_NS + 5 * S})
    assert answer.status_code == 409 and answer.json()["error"]["code"] == "cannot_be_played"
    reason = "the replay of test ended: IndexError: row 16"
    assert answer.json()["error"]["message"] == reason
    assert client.get("/api/v1/replay").json()["error"] == reason
    assert client.get("/api/v1/health").json()["source"]["kind"] != "replay", "the source is shown again"
    assert [vm["id"] for vm in client.get("/api/v1/vms").json()["vms"]] == ["live-vm"]

    client.app.state.library.open(file.meta.id).meta.note = "later"  # type: ignore[attr-defined]
    assert client.post("/api/v1/replay", json={"id": file.meta.id, "speed": 20}).status_code == 200
    ended = until(client, "/api/v1/replay", lambda answer: answer["id"] is None)
    assert ended["error"] == reason


def test_deleting_what_plays_ends_the_replay(client: TestClient, file: RecordingFile) -> None:
    client.post("/api/v1/replay", json={"id": file.meta.id})
    assert client.delete(f"/api/v1/recordings/{file.meta.id}").status_code == 204
    assert client.get("/api/v1/replay").json()["id"] is None
    assert client.get("/api/v1/vms").json()["vms"][0]["id"] == "live-vm"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"id": "nosuch"}, 404), ({}, 422), ({"id": "../x"}, 404), ({"id": "x", "speed": 0}, 422),
        ({"id": "x", "speed": 1e9}, 422), ({"id": "x", "at_ns": -1}, 422), ({"id": "x", "at_ns": 1 << 70}, 422),
        ({"id": "x", "what": 1}, 422),
    ],
)  # fmt: skip
def test_what_cannot_be_played(client: TestClient, body: dict[str, Any], status: int) -> None:
    answer = client.post("/api/v1/replay", json=body)
    assert answer.status_code == status and "code" in answer.json()["error"]


def test_a_page_gets_the_history_of_where_it_was_put(client: TestClient, file: RecordingFile) -> None:
    ticks: list[dict[str, Any]] = []
    with (
        suppress(CancelledError),  # the test client's own, when it closes
        client.websocket_connect("/api/v1/live", headers={"host": "127.0.0.1"}) as page,
    ):
        client.post("/api/v1/replay", json={"id": file.meta.id, "at_ns": START_NS + 70 * S, "paused": True})
        deadline = time.monotonic() + 20
        while len(ticks) < 55 and time.monotonic() < deadline:
            message = page.receive_json()
            ticks = message["ticks"] if message["type"] == "history" else ticks
    times = [tick["time_ns"] for tick in ticks]
    assert len(times) >= 55 and times[0] > START_NS + 9 * S and times[-1] <= START_NS + 70 * S
    assert all(tick["modes"]["uffd"]["rate_per_s"] > 0 for tick in ticks[1:-1])


def test_a_file_as_the_servers_source(tmp_path: Path, file: RecordingFile) -> None:
    player = source_of(file.path, None)
    assert isinstance(player, Player)
    with TestClient(create_app(player, (), Library(tmp_path / "r", Limits(), None)), base_url="http://127.0.0.1") as on:
        until(on, "/api/v1/vms", lambda answer: answer["vms"])
        at = on.get("/api/v1/replay").json()
        assert at["id"] == file.meta.id
        on.post("/api/v1/replay", json={"id": at["id"], "at_ns": at["to_ns"], "paused": True})
        until(on, "/api/v1/vms", lambda answer: answer["vms"] and answer["vms"][0]["faults"]["uffd"] == 4020)
        assert on.post("/api/v1/recordings").json()["error"]["code"] == "not_live"
        assert on.delete("/api/v1/replay").status_code == 204
        assert on.get("/api/v1/replay").json()["id"] == file.meta.id, "there is nothing else to go back to"


def test_what_is_no_source_is_told(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no recording at all")
    for path, words in ((tmp_path / "absent", "cannot read"), (tmp_path / "text", "not a recording")):
        with pytest.raises((UserError, ReplayError), match=words):
            source_of(str(path), None)


def test_a_source_begins_again(file: RecordingFile) -> None:
    player = Player(file, Status("replay"), again=True)
    fresh: list[int] = []
    kinds: list[Kind] = []
    player.fresh = lambda: fresh.append(len(kinds))
    player.play(speed=100)

    async def play() -> None:
        task = asyncio.create_task(player.run(lambda message: kinds.append(message.kind)))
        while len(fresh) < 2:
            await asyncio.sleep(0.05)
        task.cancel()

    asyncio.run(asyncio.wait_for(play(), 30))
    assert kinds[0] is Kind.HELLO and fresh[0] == 0 and fresh[1] > 50


def test_a_player_that_catches_up_is_where_it_goes_to(tmp_path: Path) -> None:
    file = write_recording(tmp_path / "r.parquet", synthetic_records(4000, seconds=100))
    player = Player(file, Status("replay"))
    said: list[int] = []

    async def jump() -> None:
        playing = asyncio.create_task(player.run(lambda _message: said.append(player.position().at_ns)))
        player.play(paused=True)
        player.seek(START_NS + 50 * S)
        await asyncio.wait_for(player.shown.wait(), 60)
        playing.cancel()

    asyncio.run(jump())
    assert len(said) > 100 and set(said) == {START_NS + 50 * S}
    assert player.position().at_ns == START_NS + 50 * S
