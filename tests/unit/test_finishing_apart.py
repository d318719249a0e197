"""A long recording is finished in a process of its own, with the same outcome and the same reasons as a short one."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from exitscope.recordings import apart
from exitscope.recordings import library as library_module
from exitscope.recordings.finish import finish
from exitscope.recordings.library import Library, Limits
from exitscope.recordings.spool import SpoolError
from exitscope_probes.procfs import Proc

from .recording_processes import until
from .test_recording_keeping import left_behind, upkeep


@pytest.fixture(autouse=True)
def all_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "LARGE_BYTES", 0)

    def here(*_: object) -> None:
        raise AssertionError("finished in the server's own process")

    monkeypatch.setattr(apart, "finish", here)


def test_it_is_the_same_file(tmp_path: Path) -> None:
    spool = left_behind(tmp_path)
    meta = finish(str(spool), str(tmp_path / "here"))
    library = Library(tmp_path, Limits(), None)
    assert asyncio.run(upkeep(library, "left", "finished")).records == meta.records == 30
    assert library.meta("left") == meta


def test_what_is_wrong_with_a_spool_is_said_as_here(tmp_path: Path) -> None:
    spool = left_behind(tmp_path)
    data = bytearray(spool.read_bytes())
    data[40] ^= 0xFF
    spool.write_bytes(data)
    with pytest.raises(SpoolError, match="cut off at its beginning"):
        apart.finish_by_size(spool, tmp_path / "left.parquet")
    with pytest.raises(FileNotFoundError):
        apart.finish_by_size(left_behind(tmp_path, "other"), tmp_path / "nowhere/left.parquet")


def test_a_process_that_is_killed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left_behind(tmp_path)
    monkeypatch.setattr(library_module, "_UPKEEP_S", 0.05)
    library = Library(tmp_path, Limits(), None)
    with monkeypatch.context() as patch:
        patch.setattr(apart, "python", lambda *_: ["sh", "-c", "kill -9 $$"])
        entry = asyncio.run(upkeep(library, "left", "failed"))
    assert "ended by SIGKILL" in entry.note and "tried again" in entry.note
    assert asyncio.run(upkeep(library, "left", "finished")).records == 30


def test_it_ends_with_the_server(tmp_path: Path) -> None:
    """Else another server would finish the same spool at the same time."""
    begun = tmp_path / "begun"
    slow = f"apart.finish = lambda *_: (open({str(begun)!r}, 'w').write(str(os.getpid())), time.sleep(600))"
    code = f"import os, time; from exitscope.recordings import apart; {slow}; apart.main('', '')"
    with subprocess.Popen(["sh", "-c", '"$@"; true', "sh", sys.executable, "-c", code]) as server:
        pid = int(until(lambda: begun.exists() and begun.read_text(), "that it is at work"))
        server.kill()
        server.wait()
        until(lambda: Proc().start_ticks(pid) is None, "its end")
