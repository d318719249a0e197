"""What a user or a full machine does wrong is one line that says what to do: never a traceback, never silence."""

import errno
import grp
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from exitscope import privileges
from exitscope.bench import tracer
from exitscope.collectorsocket import listens
from exitscope.errors import UserError
from exitscope.supervise import Child, supervise
from exitscope_probes.errors import SocketError, refused
from exitscope_probes.isolated import python
from exitscope_probes.socketfile import Listener

from .migration_recordings import migrated_records, write_migration
from .recording_processes import WAIT_S, fake_collector, run

EXITSCOPE = python("exitscope")


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "recording.parquet"
    write_migration(path, migrated_records(400))
    return path


@pytest.mark.parametrize("command", ["--help", "--version", "doctor", "summary", "export", "compare", "migration"])
def test_a_full_disk_on_stdout_is_one_line(command: str, recording: Path) -> None:
    operands = {"summary": 1, "export": 1, "compare": 2, "migration": 1}.get(command, 0)
    with Path("/dev/full").open("wb") as full:
        arguments = [*EXITSCOPE, command, *[str(recording)] * operands]
        done = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (1, "exitscope: cannot write to stdout: No space left on device\n")


def test_closed_standard_files_are_no_error(recording: Path) -> None:
    copy = recording.read_bytes()
    for command in (["summary", str(recording)], ["export", str(recording)], ["doctor"], ["nonsense"]):
        shell = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *EXITSCOPE, *command]
        assert subprocess.run(shell, timeout=100, check=False).returncode in {0, 1, 2}
    assert recording.read_bytes() == copy


def test_the_probes_alone_tell_a_full_disk_and_a_closed_reader() -> None:
    command = python("exitscope_probes", "doctor")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (1, "exitscope: cannot write to stdout: No space left on device\n")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""


def test_who_has_read_enough_is_no_error(recording: Path) -> None:
    for command in (["summary", str(recording)], ["export", str(recording)], ["doctor"]):
        with subprocess.Popen([*EXITSCOPE, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout and process.stderr
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait() in {0, 1}  # 1: doctor's own


_INTERRUPTED = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == wanted:
            os.kill(os.getpid(), signal.SIGINT)

wanted = sys.argv[1]
sys.meta_path.insert(0, Interrupt())
from exitscope.__main__ import main
sys.argv[:2] = ["exitscope"]
main()
"""


@pytest.mark.parametrize("module", ["exitscope.cli", "click", "exitscope.query.engine", "exitscope.query.text"])
def test_an_interrupt_while_it_starts_ends_it_quietly(module: str, recording: Path) -> None:
    command = [sys.executable, "-I", "-c", _INTERRUPTED, module, "summary", str(recording)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.stdout, done.stderr) == ("", "")
    assert done.returncode in {-signal.SIGINT, 128 + signal.SIGINT}


def test_record_of_an_unknown_vm_says_which_there_are(tmp_path: Path) -> None:
    with fake_collector(tmp_path / "c.sock"):
        output = tmp_path / "a.parquet"
        process = run(
            "-m", "exitscope", "record", "--socket", tmp_path / "c.sock", "--vm", "nosuch", "-o", output, "true"
        )
        _, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    assert errors.decode().startswith("exitscope: no VM nosuch: the collector sees ")
    assert not list(tmp_path.glob("a.parquet*"))


@pytest.mark.needs("root")
def test_a_collector_of_another_group_is_not_called_absent(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    path = str(tmp_path / "c.sock")

    def as_nobody(ask: Callable[[], object]) -> str:
        groups = os.getgroups()
        os.setgroups([])
        os.setegid(65534)
        os.seteuid(65534)
        try:
            return str(ask())
        except UserError as error:
            return str(error)
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(groups)

    for parent in tmp_path.parents:
        if parent.stat().st_mode & 0o001 == 0:
            parent.chmod(parent.stat().st_mode | 0o001)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        os.chmod(path, 0o660)
        listening.listen()
        told = as_nobody(lambda: listens(path))
        assert told.startswith(
            f"a collector runs on {path}, and this user may not ask it: become a member of the group root"
        )
        assert as_nobody(lambda: tracer.refuse_other_collector(path)) == told
    assert as_nobody(lambda: listens(path)) == "False"  # what a dead one has left


@pytest.mark.parametrize(("call", "place"), [("chown", "c.sock"), ("fchown", "made/c.sock")])
def test_a_group_that_is_not_mapped_is_not_the_sockets_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, place: str
) -> None:
    def refused(*_given: object, **_options: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, call, refused)
    given = tmp_path / place if call == "chown" else (tmp_path / place).parent
    group = grp.getgrgid(os.getegid()).gr_name
    said = rf"cannot give {re.escape(str(given))} to group {os.getegid()}: Invalid argument.*choose a --group"
    with pytest.raises(SocketError, match=said):
        Listener(str(tmp_path / place), group)


def test_a_refused_change_of_user_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def setgroups(_groups: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "setgroups", setgroups)
    with pytest.raises(UserError, match=r"cannot become user nobody: Operation not permitted.*--user root"):
        privileges.drop_to("nobody", None, has_parent=False)


def test_what_the_system_refuses_has_a_remedy() -> None:
    assert str(refused(OSError(errno.EMFILE, "Too many open files", "/x"))).startswith(
        "/x: Too many open files: let this process open more files"
    )
    assert str(refused(OSError(errno.ENOSPC, "No space left on device"), "cannot write")) == (
        "cannot write: No space left on device"
    )


def test_a_mistake_that_shows_late_on_a_busy_host_ends_all(capfd: pytest.CaptureFixture[str]) -> None:
    slow = [sys.executable, "-c", "import sys, time; time.sleep(3.5); sys.exit(1)"]
    child = Child.always("the server", slow)
    assert supervise([child]) == 1
    assert (child.starts, capfd.readouterr().err) == (1, "")


@pytest.mark.parametrize("limit", [64, 20])
def test_too_few_descriptors_are_one_line(limit: int, recording: Path) -> None:
    script = f'ulimit -n {limit}; exec "$@"'
    for command in (["summary", str(recording)], ["export", str(recording), "--format", "csv"], ["doctor"]):
        done = subprocess.run(
            ["sh", "-c", script, "sh", *EXITSCOPE, *command], capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode in {0, 1}
        assert "Traceback" not in done.stderr, done.stderr
