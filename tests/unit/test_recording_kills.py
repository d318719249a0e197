"""Recording while collector, server or recorder are killed at random moments."""

import asyncio
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from exitscope.recordings.file import RecordingFile
from exitscope.recordings.library import Library, Limits
from exitscope.recordings.recorder import Recorder, head
from exitscope.recordings.shelf import find
from exitscope.recordings.spool import SpoolWriter

from .recording_processes import WAIT_S, S, fake_collector, numbers_in, run, until


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "c.sock"
    with fake_collector(path):
        yield path


def assert_nothing_missing_but_the_end(file: RecordingFile, killed_ns: int) -> None:
    """No hole, and at most a second before the kill."""
    numbers, begin_ns = numbers_in(file)
    assert len(numbers) > 0
    assert (np.diff(numbers.astype(np.int64)) == 1).all(), "a hole"
    assert killed_ns - begin_ns[-1] < S, f"{(killed_ns - begin_ns[-1]) / S} s are missing"
    assert file.meta.lost_ns == S and "killed" in file.meta.note and not file.meta.complete
    assert file.meta.state == "finished"


@pytest.mark.parametrize("seed", range(5))
def test_a_killed_recorder_loses_a_second_at_most(tmp_path: Path, collector: Path, seed: int) -> None:
    output = tmp_path / "a.parquet"
    process = run("-m", "exitscope", "record", "--socket", collector, "-o", output)
    spool = Path(f"{output}.spool")
    until(lambda: spool.exists() and spool.stat().st_size > 400, "the first block")
    time.sleep(random.Random(seed).uniform(0, 1.2))
    process.kill()
    killed_ns = time.monotonic_ns()
    process.communicate()
    assert not output.exists()
    assert_nothing_missing_but_the_end(find(str(output)), killed_ns)


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_server_loses_a_second_at_most(tmp_path: Path, collector: Path, seed: int) -> None:
    directory = tmp_path / "recordings"
    script = (
        "import asyncio, sys; from exitscope.recordings.library import Library, Limits\n"
        "async def main():\n"
        "    library = Library(sys.argv[1], Limits(), sys.argv[2])\n"
        "    print(await library.start('killed'), flush=True)\n"
        "    await asyncio.sleep(100)\n"
        "asyncio.run(main())"
    )
    process = run("-c", script, directory, collector, stdout=subprocess.PIPE)
    assert process.stdout is not None
    recording_id = process.stdout.readline().decode().strip()
    time.sleep(random.Random(seed).uniform(0, 1.2) + 0.3)
    process.kill()
    killed_ns = time.monotonic_ns()
    process.communicate()
    library = Library(directory, Limits(), None)
    assert library.entry(recording_id).note.startswith("left by a recorder that was killed")

    async def recover() -> None:
        running = asyncio.create_task(library.run())
        while library.shelf.path(recording_id, "spool").exists():  # it goes once its file is there
            await asyncio.sleep(0.02)
        running.cancel()

    asyncio.run(asyncio.wait_for(recover(), WAIT_S))
    entry = library.entry(recording_id)
    assert (entry.name, entry.state) == ("killed", "finished")
    assert_nothing_missing_but_the_end(library.open(recording_id), killed_ns)
    assert [path.suffix for path in directory.iterdir() if path.name != ".shelf"] == [".parquet"]


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_collector_is_waited_for_and_the_gap_is_stated(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "c.sock"

    async def record() -> Recorder:
        recorder = Recorder(SpoolWriter(tmp_path / "a.spool", head("a", "", None)), str(path))
        task = asyncio.create_task(recorder.run())
        with fake_collector(path) as first:
            await asyncio.wait_for(recorder.begun.wait(), WAIT_S)
            await asyncio.sleep(random.Random(seed).uniform(0.1, 0.8))
            first.kill()
            first.wait()
            path.unlink()
        with fake_collector(path):
            before = recorder.records
            while recorder.records < before + 100:
                await asyncio.sleep(0.02)
            recorder.stop()
            await asyncio.wait_for(task, WAIT_S)
        return recorder

    recorder = asyncio.run(asyncio.wait_for(record(), 2 * WAIT_S))
    assert recorder.failure is None
    meta = find(str(tmp_path / "a.spool")).meta
    assert len(meta.gaps) == 1 and meta.gaps[0].to_ns > meta.gaps[0].from_ns
    assert "no collector ran for" in meta.note and not meta.complete
    assert (meta.state, meta.lost_ns) == ("finished", 0)
    assert meta.records >= 100


def test_the_records_are_the_faults_that_the_totals_count(tmp_path: Path, collector: Path) -> None:
    async def record() -> None:
        recorder = Recorder(SpoolWriter(tmp_path / "a.spool", head("a", "", None)), str(collector))
        task = asyncio.create_task(recorder.run())
        await asyncio.wait_for(recorder.begun.wait(), WAIT_S)
        await asyncio.sleep(1)
        recorder.stop()
        await asyncio.wait_for(task, WAIT_S)

    asyncio.run(record())
    meta = find(str(tmp_path / "a.spool")).meta
    start, stop = (at.vms["fake-1"].vcpus[0].faults["uffd"] for at in (meta.totals.start, meta.totals.stop))
    assert meta.records == stop - start > 500
    assert meta.complete and meta.note == ""


def test_a_collector_that_did_not_come_back_is_a_gap_however_short(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"

    async def record() -> None:
        recorder = Recorder(SpoolWriter(tmp_path / "a.spool", head("a", "", None)), str(path))
        task = asyncio.create_task(recorder.run())
        with fake_collector(path):
            await asyncio.wait_for(recorder.begun.wait(), WAIT_S)
            await asyncio.sleep(0.3)
        while recorder.connected:
            await asyncio.sleep(0.01)
        recorder.stop()
        await asyncio.wait_for(task, WAIT_S)

    asyncio.run(asyncio.wait_for(record(), 2 * WAIT_S))
    meta = find(str(tmp_path / "a.spool")).meta
    assert len(meta.gaps) == 1 and "no collector ran for" in meta.note and not meta.complete
    assert meta.records > 100
