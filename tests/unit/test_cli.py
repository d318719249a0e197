"""The command line as a user meets it: real processes, one clear line for a mistake, nothing left running."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from exitscope import cli
from exitscope import supervise as supervise_module
from exitscope.cli import main
from exitscope.supervise import Child, supervise
from exitscope_probes import checks, doctor

from .frames import Feeder, S, write_recording

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT}/server:{ROOT}/probes"}


def exitscope(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "exitscope", *arguments],
        env=ENVIRONMENT | {"EXITSCOPE_TEST_SESSION": os.environ.get("EXITSCOPE_TEST_SESSION", "")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def fails(*arguments: str) -> tuple[int, str]:
    with exitscope(*arguments) as process:
        _, errors = process.communicate()
    return process.returncode, errors


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    with exitscope("serve", "--port", "0", *arguments) as process:
        assert process.stdout
        line = process.stdout.readline()
        assert line.startswith("exitscope: open http://127.0.0.1:"), process.stderr and process.stderr.read()
        try:
            yield line.split()[-1], process
        finally:
            process.terminate()
            process.communicate()


def fetch(url: str) -> Any:
    with urllib.request.urlopen(url) as response:
        return json.load(response)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    feeder = Feeder()
    vm = feeder.add_vm(1, 2, id="one")
    messages = feeder.welcome()
    for _ in range(10):
        feeder.fault(vm, 0, 100_000, 10)
        messages.append(feeder.totals(S // 10))
    tmp_path.chmod(0o755)
    return write_recording(tmp_path / "r.gz", messages)


def test_serve_shows_a_recording_and_says_why_and_ends_with_status_0(recording: Path) -> None:
    with serving("--source", str(recording), "--replay-reason", "no /dev/kvm here") as (url, process):
        while not fetch(f"{url}api/v1/vms")["vms"]:
            time.sleep(0.02)
        source = fetch(f"{url}api/v1/health")["source"]
        assert (source["kind"], source["reason"]) == ("replay", "no /dev/kvm here")
        if os.geteuid() == 0:
            assert os.stat(f"/proc/{process.pid}").st_uid != 0
    assert process.returncode == 0


def test_serve_waits_for_a_collector_and_says_so(tmp_path: Path) -> None:
    with serving("--socket", str(tmp_path / "none.sock")) as (url, _):
        source = fetch(f"{url}api/v1/health")["source"]
        while "connecting" in source["reason"]:
            source = fetch(f"{url}api/v1/health")["source"]
        assert source["state"] == "waiting"


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, errors = fails("serve", "--port", str(taken.getsockname()[1]))
    assert (status, errors.count("\n")) == (1, 1)
    assert "is taken: choose another --port" in errors


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["serve", "--source", "/nonexistent.gz"], 1, "No such file"),
        (["serve", "--source", __file__], 1, "is not a recording"),
        (["serve", "--host", "999.1.1.1"], 1, "999.1.1.1 port"),
        (["serve", "--port", "99999999"], 2, "--port"),
        (["serve", "--nonsense"], 2, "--nonsense"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_a_mistake_is_told_without_a_traceback(arguments: list[str], status: int, words: str) -> None:
    got, errors = fails(*arguments)
    assert got == status
    assert words in errors
    assert "Traceback" not in errors


def test_run_shows_nothing_of_elsewhere_where_tracing_is_impossible(
    monkeypatch: pytest.MonkeyPatch, recording: Path
) -> None:
    monkeypatch.setattr(checks, "usable", lambda: "no /dev/kvm: enable virtualisation")
    monkeypatch.setattr(cli, "_bundled_recording", lambda: recording)
    done = CliRunner().invoke(main, ["run", "--port", "0"])
    assert done.exit_code == 1
    assert done.output == "exitscope: live tracing is not possible here: no /dev/kvm: enable virtualisation\n"


def test_demo_replays_the_bundled_recording_where_tracing_is_impossible(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], recording: Path
) -> None:
    monkeypatch.setattr(checks, "usable", lambda: "no /dev/kvm: enable virtualisation")
    monkeypatch.setattr(cli, "_bundled_recording", lambda: recording)
    started: list[list[str]] = []
    monkeypatch.setattr(
        supervise_module, "supervise", lambda children: started.extend(next(c.commands) for c in children)
    )
    CliRunner().invoke(main, ["demo", "--port", "0"])
    (command,) = started
    assert command[command.index("--source") + 1] == str(recording)
    assert command[command.index("--replay-reason") + 1] == "no /dev/kvm: enable virtualisation"


def test_run_starts_two_processes_and_demo_its_guests_besides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "usable", lambda: None)
    started: list[str] = []
    monkeypatch.setattr(supervise_module, "supervise", lambda children: started.extend(c.name for c in children))
    CliRunner().invoke(main, ["run"])
    assert started == ["the server", "the collector"]
    started.clear()
    CliRunner().invoke(main, ["demo"])
    assert started[:2] == ["the server", "the collector"]
    assert len(started) == 5


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_child_that_cannot_start_ends_all_with_its_status(tmp_path: Path) -> None:
    other = Child.always("other", python("import time; time.sleep(3600)"))
    assert supervise([other, Child.always("bad", python("import sys; sys.exit(3)"))]) == 3
    assert other.process is not None
    assert other.process.returncode is not None


def test_who_is_killed_is_started_again_at_once_however_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise_module, "_SETTLED_S", 0.0)
    child = Child.always("sleeper", python("import time; time.sleep(1000)"))
    child.start()
    for _ in range(20):
        assert child.process
        child.process.kill()
        child.process.wait()
        killed_s = time.monotonic()
        child.check(killed_s)
        assert child.due_s <= killed_s and child.failures == 0
        child.check(killed_s)
    assert child.starts == 21 and child.process
    child.process.kill()
    child.process.wait()


def test_who_dies_slowly_is_started_again_once_its_files_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a collector does that is killed: the kernel frees its probes one after the other."""
    monkeypatch.setattr(supervise_module, "_SETTLED_S", 0.0)
    child = Child.always("slow", python("import os, time; os.closerange(3, 64); time.sleep(1000)"))
    child.starts = 1  # the first start is waited for
    child.start()
    first = child.process
    assert first
    while child.process is first:
        child.check(time.monotonic())
        time.sleep(0.01)
    assert (child.dying, child.failures) == ([first], 0)
    child.check(time.monotonic())
    assert child.process and child.starts == 3
    child.process.kill()
    child.process.wait()
    assert first.wait() == -signal.SIGKILL


def test_who_ends_by_itself_again_and_again_is_given_time() -> None:
    child = Child.always("failing", python("import sys; sys.exit(3)"))
    child.starts = 1
    waits = []
    for _ in range(3):
        child.start()
        assert child.process
        child.process.wait()
        now_s = time.monotonic()
        child.check(now_s)
        waits.append(child.due_s - now_s)
    assert waits == sorted(waits) and waits[0] > 0


def test_a_child_that_is_killed_is_started_again_and_all_end_on_sigterm(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    code = f"import os, time; print(os.getpid(), file=open({str(log)!r}, 'a'), flush=True); time.sleep(3600)"
    driver = (
        "import signal, sys; from exitscope.supervise import *; "
        f"sys.exit(supervise([Child.always('it', {python(code)!r})]))"
    )
    with subprocess.Popen(python(driver), env=ENVIRONMENT) as process:
        while not (log.exists() and log.read_text().endswith("\n")):
            time.sleep(0.02)
        os.kill(int(log.read_text()), signal.SIGKILL)
        while log.read_text().count("\n") < 2:
            time.sleep(0.02)
        process.terminate()
        assert process.wait() == 0
    assert "it was killed by signal 9, starting it again" in capfd.readouterr().err
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text().split()[-1]), 0)


def test_children_end_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = f"import os, time; print(os.getpid(), file=open({str(log)!r}, 'a'), flush=True); time.sleep(3600)"
    driver = f"from exitscope.supervise import *; supervise([Child.always('it', {python(code)!r})])"
    with subprocess.Popen(python(driver), env=ENVIRONMENT) as process:
        while not (log.exists() and log.read_text().endswith("\n")):
            time.sleep(0.02)
        process.kill()
    child = int(log.read_text())
    while Path(f"/proc/{child}/stat").exists() and " Z " not in Path(f"/proc/{child}/stat").read_text():
        time.sleep(0.02)


def test_guest_and_doctor_pass_on_what_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _program, arguments: seen.append(arguments))
    CliRunner().invoke(main, ["guest", "--vcpus", "2", "--help"])
    assert seen[0][1:] == ["-I", "-m", "exitscope_probes.guest", "--vcpus", "2", "--help"]
    monkeypatch.setattr(doctor, "main", lambda as_json: 7 if as_json else 8)
    assert CliRunner().invoke(main, ["doctor", "--json"]).exit_code == 7
    assert CliRunner().invoke(main, ["doctor"]).exit_code == 8
