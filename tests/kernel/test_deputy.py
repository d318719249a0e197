"""A VM's process that means to lead root to somebody else's socket by its monitor's path."""

import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from exitscope_probes.monitorsocket import Closed, MonitorSockets, Place
from exitscope_probes.procfs import Proc

pytestmark = pytest.mark.needs("root")

VICTIM, STRANGER = 4003, 4004


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that everybody may look into."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def victim(place: Path) -> Iterator[socket.socket]:
    """Listens on a socket of mode 0600 in a folder of mode 0700."""
    home = place / "victim"
    home.mkdir(0o700)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(home / "monitor.sock"))
        server.listen(1)
        server.setblocking(False)
        (home / "monitor.sock").chmod(0o600)
        for path in (home / "monitor.sock", home):
            os.chown(path, VICTIM, VICTIM)
        yield server


@contextmanager
def stranger(place: Path, swap: Callable[[Path], None]) -> Iterator[tuple[int, Path]]:
    """A process of another user that listens on a monitor, whose path it has swapped since: its id, the path."""
    home = place / "stranger"
    (home / "run").mkdir(parents=True)
    for path in (home, home / "run"):
        os.chown(path, STRANGER, STRANGER)
    path = home / "run" / "monitor.sock"
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(STRANGER, STRANGER, STRANGER)
            os.setresuid(STRANGER, STRANGER, STRANGER)
            server = socket.socket(socket.AF_UNIX)
            server.bind(str(path))
            server.listen(1)
            swap(path)
            os.write(told, b"x")
            signal.pause()
        finally:
            os._exit(0)
    try:
        assert os.read(ready, 1) == b"x"
        yield child, path
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(told)


def nothing(_: Path) -> None:
    """It means well."""


def a_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("../../victim/monitor.sock")


def a_linked_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("away"))
    os.symlink("../victim", path.parent)


def a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def another_socket(path: Path) -> None:
    """Of the same user, who may have other VMs."""
    path.unlink()
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    if os.fork() == 0:
        server.listen(1)
        os._exit(0)


def connect(pid: int, path: Path) -> socket.socket | Closed:
    return MonitorSockets(Proc()).connect(pid, Place(str(path), f"/proc/{pid}/root{path}", str(path)))


def test_who_means_well_is_connected_to(place: Path) -> None:
    with stranger(place, nothing) as (pid, path):
        found = connect(pid, path)
        assert isinstance(found, socket.socket), found
        found.close()
        assert os.geteuid() == 0 and os.access(place / "stranger", os.W_OK), "root has its rights back"


@pytest.mark.parametrize("swap", [a_link, a_linked_folder, a_fifo, another_socket])
def test_nobody_else_is_connected_to(place: Path, victim: socket.socket, swap: Callable[[Path], None]) -> None:
    with stranger(place, swap) as (pid, path):
        found = connect(pid, path)
        assert isinstance(found, Closed) and found.follow in ("refused", "absent"), found
    with pytest.raises(BlockingIOError):
        victim.accept()


def test_a_folder_that_the_process_may_not_enter_is_not_entered_for_it(place: Path, victim: socket.socket) -> None:
    """Not by a link, but by the very path: it says of itself that it listens there."""
    with stranger(place, nothing) as (pid, path):
        secret = place / "victim" / "monitor.sock"
        found = MonitorSockets(Proc()).connect(pid, Place(str(path), f"/proc/{pid}/root{secret}", str(secret)))
        assert isinstance(found, Closed) and found.follow == "refused" and "Permission denied" in found.reason
    with pytest.raises(BlockingIOError):
        victim.accept()


def test_links_of_root_are_followed(place: Path) -> None:
    """As /var/run is one; what lies in the folder of another user is not root's."""
    (place / "alias").symlink_to("stranger/run")
    with stranger(place, nothing) as (pid, path):
        alias = place / "alias" / path.name
        found = MonitorSockets(Proc()).connect(pid, Place(str(path), f"/proc/{pid}/root{alias}", str(alias)))
        assert isinstance(found, socket.socket), found
        found.close()
