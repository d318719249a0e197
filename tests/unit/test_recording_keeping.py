"""No recording is lost because it could not be read, because a clock was wrong, or because somebody put it there."""

import asyncio
import errno
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from exitscope.recordings import clock as clock_module
from exitscope.recordings import library as library_module
from exitscope.recordings import spool as spool_module
from exitscope.recordings.clock import MAX_OFF_NS, FolderClock
from exitscope.recordings.library import Entry, Library, Limits
from exitscope.recordings.recorder import head
from exitscope.recordings.shelf import Shelf
from exitscope.recordings.spool import SpoolWriter
from exitscope_probes.wire import encode

from .frames import Feeder
from .recording_processes import WAIT_S, S, fake_collector
from .recordings import HOUR_NS, folder_of_age, write_recording

DAY_NS = 24 * HOUR_NS


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "c.sock"
    with fake_collector(path):
        yield path


def left_behind(directory: Path, name: str = "left") -> Path:
    """The spool of a recorder that was killed, with 30 faults in it."""
    feeder = Feeder()
    vm = feeder.add_vm(1, 2, id="one")
    shelf = Shelf(directory)
    shelf.make()
    writer = SpoolWriter(shelf.path(name, "spool"), head(name, "mine", None, shelf.clock.now()))
    writer.frames(b"".join(map(encode, [*feeder.welcome(), feeder.totals()])))
    for _ in range(3):
        feeder.time_ns += S // 10
        writer.frames(encode(feeder.records(vm, [1000] * 10)))
    writer.close()
    return shelf.path(name, "spool")


async def upkeep(library: Library, recording_id: str, state: str) -> Entry:
    """Let the library work until the recording is in this state."""
    running = asyncio.create_task(library.run())
    try:
        async with asyncio.timeout(WAIT_S):
            while library.entry(recording_id).state != state:
                await asyncio.sleep(0.02)
    finally:
        running.cancel()
    return library.entry(recording_id)


@pytest.mark.parametrize("blocks_read", [0, 1, 3])
def test_a_read_error_while_finishing_keeps_the_recording_and_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks_read: int
) -> None:
    spool = left_behind(tmp_path)
    library = Library(tmp_path, Limits(), None)
    monkeypatch.setattr(library_module, "_UPKEEP_S", 0.05)
    whole, left = spool_module._read_block, [blocks_read]

    def failing(file: object) -> object:
        if left[0] == 0:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        left[0] -= 1
        return whole(file)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(spool_module, "_read_block", failing)
        entry = asyncio.run(upkeep(library, "left", "failed"))
    assert spool.exists() and "Too many open files" in entry.note and "kept" in entry.note
    entry = asyncio.run(upkeep(library, "left", "finished"))  # by the same server
    assert (entry.records, entry.name, entry.made_here) == (30, "mine", True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".shelf", "left.parquet"]


def test_a_spool_with_a_damaged_beginning_is_kept_and_named(tmp_path: Path) -> None:
    spool = left_behind(tmp_path)
    data = bytearray(spool.read_bytes())
    data[40] ^= 0xFF
    spool.write_bytes(data)
    library = Library(tmp_path, Limits(), None)
    entry = asyncio.run(upkeep(library, "left", "failed"))
    assert "cut off at its beginning" in entry.note and spool.read_bytes() == data


def test_a_disk_filled_by_others_is_said_and_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left_behind(tmp_path)
    library = Library(tmp_path, Limits(), None)
    monkeypatch.setattr(library_module, "_UPKEEP_S", 0.05)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("exitscope.recordings.apart.finish", full)
        patch.setattr("exitscope.recordings.shelf.os.replace", full)  # the reason cannot be written down either
        entry = asyncio.run(upkeep(library, "left", "failed"))
    assert "No space left on device" in entry.note
    assert asyncio.run(upkeep(library, "left", "finished")).records == 30


def test_a_folder_that_is_removed_ends_the_recording_with_its_reason(tmp_path: Path, collector: Path) -> None:
    directory = tmp_path / "recordings"
    library = Library(directory, Limits(), str(collector))

    async def record() -> Entry:
        recording_id = await library.start("mine")
        shutil.rmtree(directory)
        async with asyncio.timeout(WAIT_S):
            while library.entry(recording_id).state == "recording":
                await asyncio.sleep(0.05)
        return library.entry(recording_id)

    entry = asyncio.run(record())
    assert entry.state == "failed" and "somebody removed or moved it" in entry.note


def test_a_clock_that_jumps_ahead_deletes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of_age(tmp_path, HOUR_NS)
    for number in range(4):
        write_recording(tmp_path / f"r{number}.parquet", id=f"r{number}", shelf=folder, shelved_ns=number * S)
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 31 * DAY_NS)
    for _ in range(2):  # the server that sees it, and the next one
        library = Library(tmp_path, Limits(max_age_ns=30 * DAY_NS), None)
        library.keep_limits()
        assert len(library.entries()) == 4 and not library.deleted
    monkeypatch.setattr(clock_module, "_boot_id", lambda: "another boot")
    library = Library(tmp_path, Limits(max_age_ns=30 * DAY_NS), None)
    library.keep_limits()
    assert len(library.entries()) == 4, "nor does it over a reboot"
    assert library.shelf.clock.now().passed_ns < HOUR_NS + MAX_OFF_NS + time.clock_gettime_ns(time.CLOCK_BOOTTIME) + S


def test_the_clock_goes_on_over_servers_and_reboots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = {"boot": "a", "boottime": 1000 * S, "wall": 10 * DAY_NS}
    monkeypatch.setattr(clock_module, "_boot_id", lambda: now["boot"])
    monkeypatch.setattr(time, "clock_gettime_ns", lambda _clock: now["boottime"])
    monkeypatch.setattr(time, "time_ns", lambda: now["wall"])
    first = FolderClock(tmp_path)
    folder = first.now().id
    assert first.now().passed_ns == 0
    now |= {"boottime": 2000 * S, "wall": 0}
    assert FolderClock(tmp_path).now() == first.now() and first.now().passed_ns == 1000 * S
    now |= {"boot": "b", "boottime": 100 * S, "wall": 3600 * S}
    assert FolderClock(tmp_path).now().passed_ns == 1000 * S + 3600 * S
    now |= {"boottime": 200 * S}
    assert FolderClock(tmp_path).now().passed_ns == 1000 * S + 3600 * S + 100 * S
    (tmp_path / ".shelf").unlink()
    assert FolderClock(tmp_path).now().id != folder, "what another folder made is not ours"


def test_what_the_server_did_not_make_is_never_deleted(tmp_path: Path) -> None:
    folder = folder_of_age(tmp_path, 100 * DAY_NS)
    write_recording(tmp_path / "copied.parquet", id="copied", started_wall_ms=1)
    write_recording(tmp_path / "other.parquet", id="other", shelf="another folder", shelved_ns=0)
    write_recording(tmp_path / "own.parquet", id="own", shelf=folder, shelved_ns=0)
    shutil.copy(tmp_path / "own.parquet", tmp_path / "renamed.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"no Parquet")
    library = Library(tmp_path, Limits(max_bytes=1, max_age_ns=DAY_NS), None)
    library.keep_limits()
    assert {entry.id for entry in library.entries()} == {"copied", "other", "renamed", "broken"}
    assert library.entry("renamed").id == library.open("renamed").meta.id == "renamed"


def test_recordings_that_cannot_be_read_now_are_not_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of_age(tmp_path, DAY_NS)
    write_recording(tmp_path / "own.parquet", id="own", shelf=folder, shelved_ns=DAY_NS - S)
    library = Library(tmp_path, Limits(max_age_ns=HOUR_NS), None)

    def no_more(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr("exitscope.recordings.parquet.open_regular", no_more)
        library.keep_limits()
        assert "Too many open files" in library.entry("own").note
    assert library.entry("own").state == "finished"


def test_one_strange_file_is_one_bad_entry(tmp_path: Path) -> None:
    write_recording(tmp_path / "good.parquet", id="good")
    (tmp_path / "loop.parquet").symlink_to("loop.parquet")
    (tmp_path / "elsewhere.parquet").symlink_to(tmp_path / "good.parquet")
    os.mkfifo(tmp_path / "fifo.parquet")
    os.mkfifo(tmp_path / "fifo2.spool")
    os.mkfifo(tmp_path / "fifo3.failed")
    (tmp_path / "link.spool").symlink_to("/etc/passwd")
    (tmp_path / "folder.parquet").mkdir()
    library = Library(tmp_path, Limits(), None)
    states = {entry.id: entry.state for entry in library.entries()}
    assert states.pop("good") == "finished"
    assert states.pop("fifo3", "failed") == "failed"
    assert states == dict.fromkeys(("loop", "elsewhere", "fifo", "fifo2", "link", "folder"), "failed")
    assert "link" in library.entry("elsewhere").note and "no regular file" in library.entry("fifo").note
    assert library.shelf.orphans() == []
