"""A recording knows its migrations, and its replay shows the same."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from exitscope.aggregate import Aggregate
from exitscope.cli import main
from exitscope.recordings import player as player_module
from exitscope.recordings.file import RecordingFile
from exitscope.recordings.finish import finish
from exitscope.recordings.player import Player
from exitscope.recordings.spool import SpoolWriter
from exitscope.recordings.synthesis import Synthesis
from exitscope.source import Status
from exitscope_probes.records import MODE_UFFD, RESOLVERS, SEEN_READ
from exitscope_probes.wire import Message, encode

from .frames import S
from .migrating import MS, Host


def recorded(messages: list[Message], path: Path, vm: str | None = None, killed: bool = False) -> RecordingFile:
    """A recording of these messages, finished."""
    spool = SpoolWriter(path.with_suffix(".spool"), {"id": "r1", "name": "r", "vm": vm, "started_wall_ms": 1_000_000})
    spool.frames(b"".join(map(encode, messages)))
    if not killed:
        spool.end("finished", "")
    spool.close()
    finish(str(path.with_suffix(".spool")), str(path))
    return RecordingFile.open(path)


def migration() -> tuple[Host, int]:
    """(a source and a destination that have done their work, when the recording began)."""
    host = Host()
    leaving = host.vm(1, uffds=0, vmm="QEMU", uuid="u", name="left")
    coming = host.vm(2, vmm="QEMU", uuid="u", name="come")
    host.vm(3, name="bystander")
    host.totals()
    begun_ns = host.feeder.time_ns
    host.totals(0.8)
    host.qmp(leaving, "active", "source", remaining_bytes=1 << 20)
    host.qmp(coming, "active", "destination")
    host.totals(1)
    host.page(coming, demand=4, background=9)
    host.totals(1)
    host.qmp(leaving, "postcopy-active", "source", remaining_bytes=1 << 19)
    host.qmp(coming, "postcopy-active", "destination")
    host.page(coming, demand=5, latency_ns=2 * MS)
    host.totals(2)
    host.qmp(leaving, "completed", "source", remaining_bytes=0)
    host.qmp(coming, "completed", "destination")
    host.totals(2)
    return host, begun_ns


def as_listed(file: RecordingFile) -> list[dict[str, Any]]:
    return [one.model_dump() for one in file.meta.migrations]


def test_the_recording_says_what_was_seen_live(tmp_path: Path) -> None:
    host, begun_ns = migration()
    file = recorded(host.messages, tmp_path / "r.parquet")
    assert file.meta.started_ns == begun_ns
    live = [host.aggregate.migrations.find(one["id"]) for one in host.listed]
    wall_ms = [1_000_000 + (one["from_ns"] - begun_ns) // MS for one in host.listed]
    known = {"recording": "r1"}
    assert as_listed(file) == [(one or {}) | known | {"wall_ms": ms} for one, ms in zip(live, wall_ms, strict=True)]
    assert [one.state for one in file.meta.migrations] == ["completed", "completed"]
    assert [len(one.samples) for one in file.meta.migrations] == [3, 3]


def test_a_recording_of_one_vm_has_the_other_side_too(tmp_path: Path) -> None:
    host, _ = migration()
    host.page(host.feeder.vms[3], demand=2)
    host.totals(1)
    assert len(host.listed) == 3
    file = recorded(host.messages, tmp_path / "r.parquet", vm="4002-1")
    assert {one.vm for one in file.meta.migrations} == {"4001-1", "4002-1"}
    assert [one.id for one in file.meta.vms] == ["4002-1"]


def test_of_a_killed_recorder_both_sides_are_kept(tmp_path: Path) -> None:
    """It was asked for the source, and the other side came later: what was recorded says so."""
    host, _ = migration()
    file = recorded(host.messages, tmp_path / "r.parquet", vm="4001-1", killed=True)
    assert [one.id for one in file.meta.vms] == ["4001-1", "4002-1"]
    assert len(file.meta.migrations) == 2


def test_the_replay_shows_the_same(tmp_path: Path) -> None:
    host, begun_ns = migration()
    file = recorded(host.messages, tmp_path / "r.parquet")
    known = as_listed(file)
    aggregate, synthesis = Aggregate(), Synthesis(file, begun_ns)
    for message in synthesis.welcome():
        aggregate.handle(message)
    states = []
    for at_ns in range(begun_ns + S // 5, file.meta.ended_ns + 1, S // 5):
        for message in synthesis.advance(at_ns):
            aggregate.handle(message)
        listed = aggregate.migrations.listed()
        states.append(tuple(one["state"] for one in listed))
        for one in listed:
            found = aggregate.migrations.find(one["id"])
            assert found is not None
            assert one["state"] != "active" or all(sample["at_ns"] <= at_ns for sample in found["samples"])
            assert all(phase["from_ns"] <= at_ns for phase in found["phases"])
    assert list(dict.fromkeys(states)) == [
        (),
        ("active", "active"),
        ("active", "completed"),
        ("completed", "completed"),
    ]
    assert [aggregate.migrations.find(one["id"]) for one in aggregate.migrations.listed()] == known


def test_the_replay_counts_while_it_goes_on(tmp_path: Path) -> None:
    host, begun_ns = migration()
    file = recorded(host.messages, tmp_path / "r.parquet")
    aggregate, synthesis = Aggregate(), Synthesis(file, begun_ns)
    middle_ns = begun_ns + round(2.3 * S)  # after the first four faults, before the other five
    for message in [*synthesis.welcome(), *synthesis.advance(begun_ns + S), *synthesis.advance(middle_ns)]:
        aggregate.handle(message)
    (destination,) = [one for one in aggregate.migrations.listed() if one["role"] == "destination"]
    assert (destination["state"], destination["faults"]["uffd"], destination["to_ns"]) == ("active", 4, None)
    assert destination["qmp"]["status"] == "active"


def test_a_jump_into_it_counts_from_its_begin_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host, begun_ns = migration()
    file = recorded(host.messages, tmp_path / "r.parquet")
    moment_ns = begun_ns + round(2.3 * S)  # after the first four faults, before the other five

    def destination_at(moment_ns: int) -> dict[str, Any]:
        aggregate, player = Aggregate(), Player(file, Status("replay"))
        player.seek(moment_ns)
        player.play(paused=True)

        async def go() -> None:
            task = asyncio.create_task(player.run(aggregate.handle))
            await player.shown.wait()
            task.cancel()

        asyncio.run(asyncio.wait_for(go(), 60))
        return next(one for one in aggregate.migrations.listed() if one["role"] == "destination")

    from_the_begin = destination_at(moment_ns)
    assert from_the_begin["state"] == "active" and from_the_begin["faults"]["uffd"] == 4
    monkeypatch.setattr(player_module, "_BEFORE_NS", 50 * MS)
    assert destination_at(moment_ns) == from_the_begin, "as it was live"
    monkeypatch.setattr(player_module, "_MIGRATION_NS", 0)
    unknown = destination_at(moment_ns)
    assert unknown["state"] == "active" and unknown["standstill"] is None and not sum(unknown["faults"].values())


def test_an_older_recording_is_recognised_again(tmp_path: Path) -> None:
    """Without what the file says, as those that were made before it could."""
    host = Host()
    vm = host.vm(1, vmm="Firecracker")
    host.totals(1)
    host.page(vm, demand=30)
    host.totals(7)
    file = recorded(host.messages, tmp_path / "r.parquet")
    assert len(file.meta.migrations) == 1
    file.meta.model_fields_set.remove("migrations")
    aggregate, synthesis = Aggregate(), Synthesis(file, file.meta.started_ns)
    for message in synthesis.welcome():
        aggregate.handle(message)
    for at_ns in range(file.meta.started_ns + S // 5, file.meta.ended_ns + 1, S // 5):
        for message in synthesis.advance(at_ns):
            aggregate.handle(message)
    (one,) = aggregate.migrations.listed()
    assert (one["kind"], one["state"], one["faults"]["uffd"], one["fills"]["demand"]) == ("page-in", "ended", 30, 30)


def test_a_recording_that_begins_in_the_middle(tmp_path: Path) -> None:
    """It says what is missing; its figures are of the recording."""
    host = Host()
    vm = host.vm(1, vmm="Firecracker")
    host.page(vm, demand=70)
    host.totals(1)
    late = [host.feeder.hello(), host.vms(), host.feeder.totals(0, snapshot=True)]
    host.page(vm, demand=6)
    late += [host.feeder.totals(), host.feeder.records(vm, [MS] * 4)]
    host.feeder.fault(vm, 0, MS, 4)
    host.feeder.fill(vm, "COPY", 4)
    late += [host.feeder.totals()]
    (one,) = recorded(late, tmp_path / "r.parquet").meta.migrations
    assert (one.faults["uffd"], one.fills.demand, one.state) == (4, 4, "active")
    assert any("76 faults had been counted before" in sentence for sentence in one.evidence)


def test_the_summary_has_a_line_for_each(tmp_path: Path) -> None:
    host, _ = migration()
    recorded(host.messages, tmp_path / "r.parquet")
    shown = CliRunner().invoke(main, ["summary", str(tmp_path / "r.parquet")]).output.splitlines()
    assert shown[-2] == "postcopy, source left (QEMU says): 4.00 s, completed"
    assert shown[-1].startswith("postcopy, destination come (QEMU says): 2.")
    assert "9 faults, p50 2.00 ms" in shown[-1] and "9 fills on demand, 9 in the background" in shown[-1]
    found = json.loads(CliRunner().invoke(main, ["summary", "--json", str(tmp_path / "r.parquet")]).output)
    assert [one["role"] for one in found["migrations"]] == ["source", "destination"]


def test_finding_them_costs_little(tmp_path: Path) -> None:
    host = Host()
    vm = host.vm(1, vcpus=8)
    for _ in range(200):
        host.page(vm, demand=3)
        host.totals(1)
    began = time.monotonic()
    assert len(recorded(host.messages, tmp_path / "r.parquet").meta.migrations) == 1
    assert time.monotonic() - began < 60


def test_a_recording_knows_of_a_short_wait_that_nobody_answered(tmp_path: Path) -> None:
    """As it was live: only the fault's record says it."""
    host = Host()
    vm = host.vm(1, vmm="QEMU")
    host.totals()
    host.page(vm, demand=20)
    host.totals()
    host.feeder.fault(vm, 0, 9 * MS, 1, MODE_UFFD)
    host.send(host.feeder.records(vm, [9 * MS], mode=MODE_UFFD, resolver=RESOLVERS.index("other"), seen=SEEN_READ))
    host.look(uffds=[])
    host.totals(1)
    (one,) = recorded(host.messages, tmp_path / "r.parquet").meta.migrations
    assert (one.state, host.only["state"]) == ("failed", "failed")
