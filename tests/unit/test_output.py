"""What `-o` and its kin name is written whole, or written into: nothing else is destroyed."""

import errno
import gzip
import os
import stat
import threading
from pathlib import Path
from unittest.mock import Mock

import pytest
from click.testing import CliRunner

from exitscope.cli import main
from exitscope.recordings.file import RecordingFile
from exitscope_probes.errors import OutputError, RecordingError
from exitscope_probes.output import write, writing
from exitscope_probes.recording import Recording
from exitscope_probes.wire import HEADER_BYTES, Kind, Message, decode_header

from .migration_recordings import migrated_records, write_migration
from .recording_processes import WAIT_S, fake_collector, run


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "recording.parquet"
    write_migration(path, migrated_records(400))
    return path


def commands(recording: Path, output: object) -> list[list[str]]:
    one, to = str(recording), str(output)
    return [
        *(["export", one, "--format", format, "--limit", "9", "-o", to] for format in ("csv", "parquet", "perfetto")),
        ["export", one, "--format", "parquet", "-o", to],
        ["compare", one, one, "--html", to],
        ["migration", one, "--html", to],
    ]


def exitscope(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, list(map(str, arguments)))
    return done.exit_code, done.stderr


def test_a_device_stays_one(recording: Path, tmp_path: Path) -> None:
    for name in ("/dev/null", "/dev/full"):
        for command in commands(recording, name)[:: 1 if name == "/dev/full" else 4]:
            status, errors = exitscope(*command)
            full = "" if name == "/dev/null" else f"exitscope: cannot write {name}: No space left on device\n"
            assert (status, errors) == (1 if full else 0, full), command
            assert stat.S_ISCHR(os.stat(name).st_mode)
    assert [path.name for path in tmp_path.iterdir()] == ["recording.parquet"]


def test_a_fifo_stays_one_and_gets_all(recording: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for command in commands(recording, fifo):
        got: list[bytes] = []
        reader = threading.Thread(target=lambda got=got: got.append(fifo.read_bytes()))
        reader.start()
        assert exitscope(*command) == (0, "")
        reader.join(WAIT_S)
        assert len(got[0]) > 500, command
        assert stat.S_ISFIFO(fifo.lstat().st_mode)


def test_a_link_stays_one_and_its_file_is_replaced(recording: Path, tmp_path: Path) -> None:
    target, link, second = tmp_path / "there" / "target", tmp_path / "link", tmp_path / "second"
    target.parent.mkdir()
    link.symlink_to("there/target")
    second.symlink_to(link)
    for command in commands(recording, second):
        assert exitscope(*command) == (0, ""), command  # the first time the link leads nowhere yet
        assert (link.is_symlink(), second.is_symlink(), target.stat().st_size > 500) == (True, True, True)
        assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_what_was_there_stays_where_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "report"
    path.write_text("before")
    path.chmod(0o640)
    with pytest.raises(RuntimeError), writing(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert (path.read_text(), list(tmp_path.iterdir())) == ("before", [path])
    write(path, "after")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode), list(tmp_path.iterdir())) == ("after", 0o640, [path])


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    wrong = {tmp_path: "it is a directory", tmp_path / "a": "too many links", tmp_path / "n/o": "No such"}
    for path, words in wrong.items():
        with pytest.raises(OutputError, match=f"cannot write .*{words}"):
            write(path, "")


def test_an_open_descriptor_is_written_to(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb+") as file:
        file.write(b"before ")
        file.flush()
        write(f"/proc/self/fd/{file.fileno()}", "after")
    assert (tmp_path / "log").read_text() == "before after"


@pytest.mark.needs("root")
@pytest.mark.parametrize("mode", [0o1777, 0o755])
def test_root_follows_no_link_of_another_user_but_of_whom_sudo_serves(
    mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, victim = tmp_path / "place", tmp_path / "victim"
    place.mkdir()
    place.chmod(mode)
    victim.write_text("precious")
    (place / "report").symlink_to(victim)
    os.chown(place, 65534, 65534)
    os.chown(place / "report", 65534, 65534, follow_symlinks=False)
    with pytest.raises(OutputError, match="a link of another user"):
        write(place / "report", "")
    assert victim.read_text() == "precious"
    monkeypatch.setenv("SUDO_UID", "65534")
    write(place / "report", "theirs")
    assert (victim.read_text(), (place / "report").is_symlink()) == ("theirs", True)


def test_a_recording_into_a_fifo_and_into_a_full_device(tmp_path: Path) -> None:
    fifo, link, kept = tmp_path / "fifo", tmp_path / "link.parquet", tmp_path / "kept.parquet"
    os.mkfifo(fifo)
    link.symlink_to("target.parquet")
    with fake_collector(tmp_path / "c.sock"):
        record = ("-m", "exitscope", "record", "--socket", tmp_path / "c.sock")
        into = [run(*record, "-o", name, "--", "sleep", "0.5") for name in (fifo, "/dev/full", link)]
        kept.write_bytes(fifo.read_bytes())
        said = [process.communicate(timeout=WAIT_S)[1].decode() for process in into]
    assert [process.returncode for process in into] == [0, 1, 0], said
    assert RecordingFile.open(kept).meta.records > 100
    assert RecordingFile.open(tmp_path / "target.parquet").meta.records > 100
    assert (stat.S_ISFIFO(fifo.lstat().st_mode), link.is_symlink()) == (True, True)
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode) and not Path("/dev/full.spool").exists()
    message, _, saved = said[1].splitlines()[-1].partition("; what was recorded is in ")
    assert message == "exitscope: cannot write /dev/full: No space left on device"
    assert RecordingFile.open(saved).meta.records > 100
    Path(saved).unlink()
    Path(saved).parent.rmdir()


def frames(path: Path) -> list[Kind]:
    kinds = []
    with gzip.open(path) as file:
        while head := file.read(HEADER_BYTES):
            header = decode_header(head)
            file.read(header.rest_bytes)
            kinds.append(header.kind)
    return kinds


def test_a_collectors_recording_destroys_nothing(tmp_path: Path) -> None:
    message = Message(Kind.VMS, 1, {"vms": []})
    file, link = tmp_path / "run.gz", tmp_path / "link"
    file.write_text("from before")
    link.symlink_to(file)
    recording = Recording(str(link), 60)
    recording.write(message)
    assert file.read_text() == "from before", "replaced when it is whole"
    recording.close("the end")
    assert link.is_symlink() and frames(file) == [Kind.VMS, Kind.BYE]

    full = Recording("/dev/full", 60)
    with pytest.raises(RecordingError, match="cannot write /dev/full: No space left on device"):
        full.write(message)
        full.close("the end")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)
    with pytest.raises(RecordingError, match="it is a directory"):
        Recording(str(tmp_path), 60)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "run.gz"]


def test_a_collectors_recording_that_ends_early_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "run.gz"
    file.write_text("from before")
    recording = Recording(str(file), 60)
    assert recording._file is not None
    recording._file.write = Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))  # type: ignore[method-assign]
    with pytest.raises(RecordingError, match="No space left on device"):
        recording.write(Message(Kind.VMS, 1, {"vms": []}))
    assert recording.over
    assert ([path.name for path in tmp_path.iterdir()], file.read_text()) == (["run.gz"], "from before")
