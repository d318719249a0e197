"""`exitscope record`."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from exitscope.recordings.file import RecordingFile
from exitscope.recordings.shelf import find
from exitscope.settings import default_user

from .recording_processes import WAIT_S, fake_collector, run


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "c.sock"
    with fake_collector(path):
        yield path


def test_record_keeps_the_commands_status_and_says_what_it_wrote(tmp_path: Path, collector: Path) -> None:
    output = tmp_path / "a.parquet"
    process = run("-m", "exitscope", "record", "--socket", collector, "-o", output, "--name", "n", "--",
                  sys.executable, "-c", "import time; time.sleep(0.4); print('out'); raise SystemExit(7)",
                  stdout=subprocess.PIPE)  # fmt: skip
    out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out) == (7, b"out\n")
    assert f"wrote {output}:".encode() in err and b"faults in" in err and b"of fake" in err
    file = RecordingFile.open(output)
    assert file.meta.name == "n" and file.meta.records > 200 and file.meta.complete
    assert [path.name for path in tmp_path.iterdir()] == ["c.sock", "a.parquet"] or not Path(f"{output}.spool").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_record_ends_on_interrupt(tmp_path: Path, collector: Path, number: int) -> None:
    process = run("-m", "exitscope", "record", "--socket", collector, "--recordings", tmp_path / "kept")
    assert process.stderr is not None
    assert b"recording" in process.stderr.readline()
    time.sleep(0.4)
    process.send_signal(number)
    _, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, err
    (path,) = (tmp_path / "kept").iterdir()
    assert RecordingFile.open(path).meta.complete
    assert find(path.stem, tmp_path / "kept").meta.id == path.stem


def test_record_says_what_is_wrong(tmp_path: Path, collector: Path) -> None:
    for arguments, words in (
        (["-o", tmp_path / "no" / "a.parquet"], b"cannot write"),
        (["-o", tmp_path / "a.parquet", "--", "/no/such/command"], b"cannot run /no/such/command"),
    ):
        process = run("-m", "exitscope", "record", "--socket", collector, *arguments)
        _, err = process.communicate(timeout=WAIT_S)
        assert process.returncode == 1 and words in err and len(err.splitlines()) == 1, err
    with suppress(FileNotFoundError):
        collector.unlink()
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.needs("root")
def test_what_root_records_first_leaves_the_folder_to_the_server(tmp_path: Path, collector: Path) -> None:
    folder = tmp_path / "lib" / "recordings"
    process = run("-m", "exitscope", "record", "--socket", collector, "--recordings", folder, "--", "true")
    assert process.wait(WAIT_S) == 0
    (recording,) = folder.glob("*.parquet")
    assert folder.owner() == recording.owner() == default_user()
