"""A full disk ends the recording alone; limits of size and age are kept."""

import asyncio
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from exitscope.errors import ApiError
from exitscope.recordings.library import Library, Limits

from .fake_collector import FakeCollector
from .recording_processes import WAIT_S, S, fake_collector, in_thread, numbers_in
from .recordings import HOUR_NS, folder_of_age, write_recording


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "c.sock"
    with fake_collector(path):
        yield path


@contextmanager
def file_size_limit(limit_bytes: int) -> Iterator[None]:
    """What a full disk does: write() fails, here with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_ends_the_recording_alone(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    fake = FakeCollector(str(path), 50_000, incompressible=True)
    library = Library(tmp_path / "recordings", Limits(), str(path))

    async def record() -> str:
        recording_id = await library.start("large")
        while library.entry(recording_id).state == "recording":
            await asyncio.sleep(0.05)
        return recording_id

    with in_thread(fake):
        with file_size_limit(1_500_000):
            recording_id = asyncio.run(asyncio.wait_for(record(), WAIT_S))
        clients = len(fake._clients)
        assert clients <= 1, "the recorder has let go"
    entry = library.entry(recording_id)
    assert (entry.state, entry.name) == ("failed", "large")
    assert "cannot write any more: File too large" in entry.note
    file = library.open(recording_id)
    numbers, _ = numbers_in(file)
    assert entry.records == len(numbers) > 10_000
    assert (np.diff(numbers.astype(np.int64)) == 1).all()
    assert not file.meta.complete


def test_a_disk_that_is_nearly_full_leaves_room_to_finish(
    tmp_path: Path, collector: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = iter([1 << 40] * 8)
    monkeypatch.setattr("exitscope.recordings.recorder.room_left", lambda _path: next(room, 1000))
    library = Library(tmp_path / "recordings", Limits(), str(collector))

    async def record() -> str:
        recording_id = await library.start()
        while library.entry(recording_id).state == "recording":
            await asyncio.sleep(0.05)
        return recording_id

    entry = library.entry(asyncio.run(asyncio.wait_for(record(), WAIT_S)))
    assert entry.state == "failed" and "the disk is full" in entry.note and entry.records > 0


def test_a_disk_that_is_full_from_the_start_is_told_as_such(
    tmp_path: Path, collector: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exitscope.recordings.recorder.room_left", lambda _path: 0)
    monkeypatch.setattr("exitscope.recordings.recorder._FLUSH_BYTES", 1)  # before it has begun
    library = Library(tmp_path / "recordings", Limits(), str(collector))
    with pytest.raises(ApiError, match="the disk is full"):
        asyncio.run(asyncio.wait_for(library.start(), WAIT_S))
    assert library.entries() == []


def test_a_recording_that_cannot_be_finished_says_so_and_is_tried_again(
    tmp_path: Path, collector: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library(tmp_path / "recordings", Limits(), str(collector))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    async def record() -> str:
        recording_id = await library.start("kept")
        await asyncio.sleep(0.3)
        await library.stop(recording_id)
        return recording_id

    with monkeypatch.context() as patch:
        patch.setattr("exitscope.recordings.apart.finish", full)
        recording_id = asyncio.run(record())
    entry = library.entry(recording_id)
    assert (entry.state, entry.name) == ("failed", "kept")
    assert "No space left on device" in entry.note

    async def again() -> None:
        running = asyncio.create_task(Library(library.shelf.directory, Limits(), None).run())
        while library.entry(recording_id).state != "finished":
            await asyncio.sleep(0.02)
        running.cancel()

    asyncio.run(asyncio.wait_for(again(), WAIT_S))


def test_limits_delete_the_oldest_first(tmp_path: Path) -> None:
    folder = folder_of_age(tmp_path, 10 * HOUR_NS)
    for number in range(4):
        write_recording(
            tmp_path / f"r{number}.parquet", id=f"r{number}", shelf=folder, shelved_ns=(10 - number) * HOUR_NS - S
        )
    size = (tmp_path / "r0.parquet").stat().st_size
    library = Library(tmp_path, Limits(max_bytes=2 * size + size // 2), None)
    library.keep_limits()
    assert {entry.id for entry in library.entries()} == {"r0", "r1"}
    assert [one.id for one in library.deleted] == ["r3", "r2"]
    assert "the oldest" in library.deleted[0].why and library.deleted[0].bytes == size
    library = Library(tmp_path, Limits(max_age_ns=1800 * S), None)
    library.keep_limits()
    assert [entry.id for entry in library.entries()] == ["r0"]
    (why,) = (one.why for one in library.deleted)
    assert re.fullmatch(r"it is 36\d\d s old, and 1800 s are allowed", why)
    Library(tmp_path, Limits(), None).keep_limits()
    assert len(library.entries()) == 1


def test_a_running_recording_ends_when_it_alone_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    library = Library(tmp_path / "recordings", Limits(max_bytes=1_500_000), str(path))

    async def record() -> str:
        recording_id = await library.start()
        while library.entry(recording_id).state == "recording":
            await asyncio.sleep(0.05)
        return recording_id

    with in_thread(FakeCollector(str(path), 50_000, incompressible=True)):
        entry = library.entry(asyncio.run(asyncio.wait_for(record(), WAIT_S)))
    assert entry.state == "finished" and "larger than the limit of 1500000 bytes" in entry.note and entry.records > 0
