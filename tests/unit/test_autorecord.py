"""Migrations are recorded by themselves, whole: also what happened before the recording was asked for."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exitscope import autorecord
from exitscope.autorecord import AutoRecorder
from exitscope.recordings.library import Library, Limits
from exitscope.recordings.preroll import Opening, Preroll
from exitscope.source import SocketSource
from exitscope.switch import Switch
from exitscope_probes.wire import Kind

from .fake_collector import FakeCollector
from .recording_processes import WAIT_S, S, in_thread, numbers_in


class Paging(FakeCollector):
    """Pages come when they are wanted."""

    def __init__(self, path: str) -> None:
        super().__init__(path, per_second=0)
        self.wanted = 0
        self.said: list[dict[str, Any]] = []

    def step(self) -> None:
        super().step()
        if self.wanted:
            count, self.wanted = self.wanted, 0
            self.feeder.fill(self.vm, "COPY", count)
            self._faults(count)
        while self.said:
            self.answer(**self.said.pop(0))


async def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"never: {what}"
        await asyncio.sleep(0.02)
    return found


@asynccontextmanager
async def server(path: Path, directory: Path) -> AsyncIterator[tuple[Switch, Library]]:
    switch, library = Switch(SocketSource(str(path))), Library(directory, Limits(), str(path))
    works = switch.run(), library.run(), AutoRecorder(library, lambda: switch.live.migrations).run()
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await until(lambda: len(switch.live.vms), "a VM")
        yield switch, library
    finally:
        await library.close()
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, asyncio.CancelledError), result


def test_what_is_handed_over_goes_on_without_a_hole(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    fake = Paging(str(path))
    library = Library(tmp_path / "recordings", Limits(), str(path))

    async def scenario() -> tuple[int, str]:
        preroll = Preroll(str(path), keep_ns=S)
        running = asyncio.create_task(library.aside.run(preroll.run()))
        await asyncio.sleep(0.5)
        fake.wanted = 7  # will be folded
        await asyncio.sleep(1.6)
        fake.wanted = 11  # kept
        await asyncio.sleep(0.6)
        asked_ns = time.monotonic_ns()
        opening = await library.aside.run(preroll.take())
        assert isinstance(opening, Opening)
        recording_id = await library.start("with a preroll", "fake-1", opening)
        fake.wanted = 13
        await asyncio.sleep(0.5)
        again = await library.aside.run(preroll.take())
        assert again is not None
        second = await library.start("at the same time", "fake-1", again)
        fake.wanted = 3
        await asyncio.sleep(0.3)
        await library.stop(second)
        assert library.meta(second).complete and library.meta(second).records >= 13 + 3
        await library.stop(recording_id)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return asked_ns, recording_id

    with in_thread(fake):
        asked_ns, recording_id = asyncio.run(asyncio.wait_for(scenario(), WAIT_S))
    file = library.open(recording_id)
    numbers, _ = numbers_in(file)
    assert numbers.tolist() == list(range(7, 7 + 11 + 13 + 3))
    assert file.meta.complete, file.meta.note
    start, stop = ({vcpu.vcpu: vcpu.faults["uffd"] for vcpu in at.vms["fake-1"].vcpus}[0] for at in
                   (file.meta.totals.start, file.meta.totals.stop))  # fmt: skip
    assert (start, stop) == (7, 34)
    assert 0.6 * S < asked_ns - file.meta.started_ns < 1.5 * S
    assert abs(file.meta.started_wall_ms / 1e3 - (time.time() - (time.monotonic_ns() - file.meta.started_ns) / S)) < 0.3
    (histogram,) = [counts for (_, vcpu), counts in file.histograms().items() if vcpu == 0]
    assert histogram[0].sum() == 27
    (migration,) = file.meta.migrations
    assert (migration.faults["uffd"], migration.fills.demand) == (27, 27)


def test_a_migration_is_recorded_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exitscope.migrations.tracker.IDLE_NS", S)
    path = tmp_path / "c.sock"
    fake = Paging(str(path))

    async def scenario() -> tuple[Library, str]:
        async with server(path, tmp_path / "recordings") as (switch, library):
            await asyncio.sleep(1)
            fake.wanted = 100
            course = (await until(switch.live.migrations.courses, "a migration"))[0]
            await until(lambda: course.recording, "a recording of it")
            fake.wanted = 50
            await until(lambda: course.state == "ended", "its end")
            await until(lambda: library.entries()[0].state == "finished", "the end of its recording")
            (entry,) = library.entries()
            assert (entry.id, entry.name) == (course.recording, "page-in of fake")
            fake.wanted = 10  # it goes on, and is not recorded again
            await until(lambda: course.state == "active", "that it goes on")
            await asyncio.sleep(0.8)
            assert len(library.entries()) == 1
            return library, entry.id

    with in_thread(fake):
        library, recording_id = asyncio.run(asyncio.wait_for(scenario(), WAIT_S))
    file = library.open(recording_id)
    numbers, begin_ns = numbers_in(file)
    assert numbers.tolist() == list(range(150))
    (migration,) = file.meta.migrations
    assert (migration.faults["uffd"], migration.fills.demand, migration.state) == (150, 150, "ended")
    assert file.meta.started_ns < migration.from_ns == begin_ns.min()
    assert migration.to_ns is not None and begin_ns.max() < migration.to_ns < file.meta.ended_ns
    assert migration.recording == recording_id
    assert abs(migration.wall_ms - time.time() * 1e3) < 60_000


def test_a_quick_one_is_recorded_too(tmp_path: Path) -> None:
    """It is over before the recorder has begun; QEMU says that it was one."""
    path = tmp_path / "c.sock"
    fake = Paging(str(path))

    async def scenario() -> tuple[Library, str]:
        async with server(path, tmp_path / "recordings") as (switch, library):
            await asyncio.sleep(0.5)
            fake.said += [
                {"status": "active", "role": "destination"},
                {"status": "postcopy-active", "role": "destination"},
            ]
            fake.wanted = 5
            await asyncio.sleep(0.1)
            fake.said += [{"status": "completed", "role": "destination"}]
            course = (await until(switch.live.migrations.courses, "a migration"))[0]
            await until(lambda: course.recording, "a recording of it")
            await until(lambda: library.entries()[0].state == "finished", "the end of its recording")
            return library, course.recording or ""

    with in_thread(fake):
        library, recording_id = asyncio.run(asyncio.wait_for(scenario(), WAIT_S))
    (migration,) = library.meta(recording_id).migrations
    assert (migration.how, migration.kind, migration.state, migration.faults["uffd"]) == (
        "qmp",
        "postcopy",
        "completed",
        5,
    )
    assert [sample.status for sample in migration.samples] == ["active", "postcopy-active", "completed"]
    assert library.meta(recording_id).records == 5
    assert library.meta(recording_id).name == "migration of fake"


def test_both_sides_are_in_one_recording(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    fake = Paging(str(path))
    fake.feeder.add_vm(2, 1, id="fake-2")
    source = {"vm": 2, "id": "fake-2", "role": "source"}

    async def scenario() -> tuple[Library, str]:
        async with server(path, tmp_path / "recordings") as (switch, library):
            fake.said += [source | {"status": "active"}]
            leaving = (await until(switch.live.migrations.courses, "a migration"))[0]
            await until(lambda: leaving.recording, "a recording of it")
            fake.said += [{"status": "active"}]
            fake.wanted = 5  # before it is known that this is the other side
            coming = await until(lambda: switch.live.migrations.courses()[1:], "its other side")
            await until(lambda: coming[0].recording == leaving.recording, "that it is recorded, too")
            fake.wanted = 4
            await asyncio.sleep(0.5)
            fake.said += [source | {"status": "completed"}, {"status": "completed"}]
            await until(lambda: library.entries()[0].state == "finished", "the end of its recording")
            assert len(library.entries()) == 1
            return library, leaving.recording or ""

    with in_thread(fake):
        library, recording_id = asyncio.run(asyncio.wait_for(scenario(), WAIT_S))
    meta = library.meta(recording_id)
    assert {vm.id for vm in meta.vms} == {"fake-1", "fake-2"}
    assert [(one.role, one.state, one.faults["uffd"]) for one in meta.migrations] == [
        ("source", "completed", 0),
        ("destination", "completed", 9),
    ]
    assert meta.records == 9 and meta.complete, meta.note


def test_what_is_recorded_already_is_not_again(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    fake = Paging(str(path))

    async def scenario() -> None:
        async with server(path, tmp_path / "recordings") as (switch, library):
            mine = await library.start("mine")
            fake.wanted = 5
            course = (await until(switch.live.migrations.courses, "a migration"))[0]
            await until(lambda: course.recording, "a recording of it")
            assert course.recording == mine and len(library.entries()) == 1
            await library.stop(mine)

    with in_thread(fake):
        asyncio.run(asyncio.wait_for(scenario(), WAIT_S))


def test_an_endless_one_is_recorded_for_some_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autorecord, "MAX_S", 1.0)
    path = tmp_path / "c.sock"
    fake = Paging(str(path))

    async def scenario() -> str:
        async with server(path, tmp_path / "recordings") as (switch, library):
            fake.wanted = 5
            await until(library.entries, "a recording")
            while library.entries()[0].state != "finished":
                fake.wanted = 1
                await asyncio.sleep(0.05)
            assert switch.live.migrations.courses()[0].state == "active"
            await asyncio.sleep(0.6)
            (entry,) = library.entries()
            return entry.note

    with in_thread(fake):
        assert "ended after 1 s, while it went on" in asyncio.run(asyncio.wait_for(scenario(), WAIT_S))


def test_a_frame_that_was_folded_is_not_lost(tmp_path: Path) -> None:
    """Much is said in little time: the bytes that are kept are bounded, and the totals are right all the same."""
    path = tmp_path / "c.sock"
    fake = Paging(str(path))

    async def scenario() -> Opening | None:
        preroll = Preroll(str(path), max_bytes=200_000)
        running = asyncio.create_task(preroll.run())
        await asyncio.sleep(0.4)
        for _ in range(30):
            fake.wanted = 200
            await asyncio.sleep(0.03)
        opening = await preroll.take()
        if opening is not None:
            opening.writer.close()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return opening

    with in_thread(fake):
        opening = asyncio.run(asyncio.wait_for(scenario(), WAIT_S))
    assert opening is not None
    assert sum(len(frame.data) for frame in opening.frames) < 300_000
    messages = [frame.message() for frame in opening.frames]
    assert [message.kind for message in messages[:3]] == [Kind.HELLO, Kind.VMS, Kind.TOTALS]
    snapshot = messages[2]
    assert snapshot.meta["snapshot"] is True
    counted = int(snapshot.arrays["vcpus"]["series"]["count"][0, 0])
    assert counted == snapshot.arrays["cells"]["count"].sum() > 0
    records = np.concatenate([one.arrays["records"]["hva"] for one in messages if one.kind is Kind.FAULTS])
    assert (np.diff(records.astype(np.int64)) == 4096).all()
    begin = [one for one in messages if one.kind is Kind.TOTALS][1]  # as survey.py has it
    assert records[0] // 4096 <= int(begin.arrays["vcpus"]["series"]["count"][0, 0])
