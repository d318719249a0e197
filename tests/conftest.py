"""Every test session: skip only what this machine cannot run, say what was used, leave nothing behind."""

import os
import signal
import socket
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests import tracefs
from tests.capabilities import TITLES, Curable, absence

pytest.register_assert_rewrite("tests.product", "tests.kernel.client", "tests.kernel.harness", "tests.kernel.migration")

_SKIP_PREFIX = "absent capability: "
_MUST_RUN = os.environ.get("CI") == "true" and os.geteuid() == 0
_SESSION_VARIABLE = "EXITSCOPE_TEST_SESSION"  # inherited by every process that a test starts

# Servers that tests start keep their recordings with the tests' other files, not among the user's.
_STATE = tempfile.TemporaryDirectory(prefix="exitscope-tests-")
os.environ["XDG_STATE_HOME"] = _STATE.name
_EXIT_GRACE_S = 5.0
_ran_with: Counter[str] = Counter()
_skipped_for: Counter[str] = Counter()


def pytest_configure() -> None:
    """Before any capability is asked for."""
    tracefs.provide()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test whose `needs` marker names something that this machine lacks.

    As root in CI a test that could run must run: what installing or mounting something would cure is a failure.
    """
    needed = {name for marker in item.iter_markers("needs") for name in marker.args}
    absent = sorted(name for name in needed if absence(name))
    _skipped_for.update(absent)
    if absent:
        reason = _SKIP_PREFIX + ", ".join(f"{TITLES[name]} ({absence(name)})" for name in absent)
        if _MUST_RUN and any(isinstance(absence(name), Curable) for name in absent):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    _ran_with.update(needed)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skip for any other reason is a failure: it would hide that something is not tested."""
    report = yield
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
    if report.skipped and not hasattr(report, "wasxfail") and _SKIP_PREFIX not in reason:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: skipped, though no capability is absent: {reason}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Before pytest's own: what failed at first and passed when it was tried again; what the tests really ran on."""
    for report in terminalreporter.stats.get("rerun", []):
        terminalreporter.write_line(f"tried again: {report.nodeid}\n{report.longreprtext}")
    uses = []
    for name, title in TITLES.items():
        if _ran_with[name]:
            uses.append(f"{title} yes ({_ran_with[name]} tests)")
        elif _skipped_for[name]:
            uses.append(f"{title} no ({absence(name)}; {_skipped_for[name]} skipped)")
        else:
            uses.append(f"{title} no (no test asked)")
    terminalreporter.write_line("capabilities used: " + ", ".join(uses))


def _descendants() -> dict[int, str]:
    """Living processes that a test of this session started, {pid: command line}."""
    mark = f"{_SESSION_VARIABLE}={os.environ[_SESSION_VARIABLE]}".encode()
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == os.getpid():
            continue
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                command = (process / "cmdline").read_bytes()
                found[int(process.name)] = command.replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:  # ended meanwhile, or another user's
            continue
    return found


def _bpf_programs() -> int:
    """BPF programs that this process holds open: bcc keeps them until its object is cleaned up."""
    count = 0
    for fd in Path("/proc/self/fd").iterdir():
        try:
            count += os.readlink(fd) == "anon_inode:bpf-prog"
        except OSError:
            continue
    return count


def _dead_sockets() -> set[Path]:
    """Sockets at the collector's places that nobody listens to any more."""
    dead = set()
    for path in Path("/run").glob("exitscope*/*"):
        if path.is_socket():
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(1)
                try:
                    client.connect(str(path))
                except ConnectionRefusedError:
                    dead.add(path)
                except OSError:
                    continue
    return dead


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fails the session if a process, a BPF program or a socket of its tests outlives them."""
    os.environ[_SESSION_VARIABLE] = uuid.uuid4().hex
    sockets_before, programs_before = _dead_sockets(), _bpf_programs()
    yield
    deadline = time.monotonic() + _EXIT_GRACE_S
    while (processes := _descendants()) and time.monotonic() < deadline:
        time.sleep(0.1)
    leaks = [f"process {pid}: {command}" for pid, command in processes.items()]
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if (programs := _bpf_programs() - programs_before) > 0:
        leaks.append(f"{programs} BPF programs still open in the test process")
    leaks += [f"socket {path}" for path in sorted(_dead_sockets() - sockets_before)]
    assert not leaks, "the tests left behind: " + "; ".join(leaks)
