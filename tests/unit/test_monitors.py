"""Where a QEMU's monitor is: its command line, and the table of unix sockets."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from exitscope_probes.monitorcheck import survey, told
from exitscope_probes.monitors import Monitor, monitors
from exitscope_probes.monitorsocket import Closed, MonitorSockets, Place
from exitscope_probes.procfs import Proc
from exitscope_probes.unixsockets import Row, UnixSockets

from .test_discovery import FakeProc

LIBVIRT = [
    "-chardev",
    "socket,id=charmonitor,fd=28,server=on,wait=off",
    "-mon",
    "chardev=charmonitor,id=m,mode=control",
]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-qmp", "unix:/run/a.sock,server=on,wait=off"], [Monitor("/run/a.sock")]),
        (["-qmp", "unix:rel.sock,server,nowait"], [Monitor("rel.sock")]),
        (["--qmp-pretty", "unix:/a b,,c.sock,wait=off,server=yes"], [Monitor("/a b,c.sock")]),
        (["-qmp", "unix:path=/p.sock,server=on"], [Monitor("/p.sock")]),
        (["-chardev", "socket,path=/c,server=on,id=q", "-mon", "q,mode=control"], [Monitor("/c")]),
        (["-mon", "mode=control,chardev=q", "-chardev", "socket,id=q,path=/c,server"], [Monitor("/c")]),
        (["-chardev", "socket,id=q,path=/c,server", "-qmp", "chardev:q"], [Monitor("/c")]),
        (LIBVIRT, [Monitor(fd=28)]),
        ([*LIBVIRT, "-qmp", "unix:/b,server=on"], [Monitor(fd=28), Monitor("/b")]),
        (["-qmp", "tcp:127.0.0.1:4444,server=on", "-qmp", "unix:/b,server=on"], [Monitor("/b")]),
    ],
)
def test_monitors_on_a_command_line(arguments: list[str], expected: list[Monitor]) -> None:
    assert monitors(["qemu-system-x86_64", "-name", "x", *arguments, "-m", "1G"]) == (expected, "")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "without a QMP monitor"),
        (["-monitor", "unix:/hmp.sock,server=on"], "without a QMP monitor"),
        (["-chardev", "socket,id=q,path=/c,server", "-mon", "chardev=q"], "without a QMP monitor"),
        (["-chardev", "socket,id=q,path=/c,server", "-mon", "chardev=q,mode=readline"], "without a QMP monitor"),
        (["-qmp", "tcp:127.0.0.1:4444,server=on"], "no unix socket but tcp"),
        (["-qmp", "stdio"], "no unix socket but stdio"),
        (
            ["-chardev", "socket,id=q,host=::1,port=7,server=on", "-qmp", "chardev:q"],
            "no unix socket but socket:::1:7",
        ),
        (["-qmp", "unix:/run/manager.sock"], "QEMU makes itself"),
        (["-qmp", "unix:/run/manager.sock,server=off"], "QEMU makes itself"),
        (["-qmp", "unix:name,server=on,abstract=on"], "abstract"),
        (["-chardev", "socket,id=q,fd=named,server=on", "-qmp", "chardev:q"], "has a name"),
        (["-chardev", "socket,id=q,fd=²,server=on", "-qmp", "chardev:q"], "has a name"),
        (["-mon", "chardev=nowhere,mode=control"], "unknown"),
        (["-qmp"], "no unix socket but unknown"),
    ],
)
def test_why_there_is_none(arguments: list[str], reason: str) -> None:
    found, said = monitors(["qemu-system-x86_64", *arguments])
    assert not found and reason in said


TABLE = """Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000003 00000000 00000000 0001 03 7
0000000000000000: 00000002 00000000 00010000 0001 01 100 /run/a.sock
0000000000000000: 00000003 00000000 00000000 0001 03 101 /run/a.sock
0000000000000000: 00000002 00000000 00000000 0001 02     0 /run/a.sock
0000000000000000: 00000002 00000000 00010000 0001 01 200 /run/a.sock.old
0000000000000000: 00000002 00000000 00010000 0001 01 300 /other/run/a.sock
0000000000000000: 00000002 00000000 00010000 0001 01 400 with a space
garbage
zz yy xx ww vv uu tt /run/a.sock
"""


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path)


def table(proc: FakeProc, pid: int | str, text: str, namespace: str) -> None:
    """What a process sees of the unix sockets of its network namespace."""
    for name in ("net", "ns"):
        (proc.root / str(pid) / name).mkdir(parents=True, exist_ok=True)
    (proc.root / str(pid) / "net" / "unix").write_text(text)
    (proc.root / str(pid) / "ns" / "net").unlink(missing_ok=True)
    (proc.root / str(pid) / "ns" / "net").symlink_to(f"net:[{namespace}]")


def test_the_table_of_sockets(proc: FakeProc) -> None:
    proc.process(100, fds={3: "socket:[100]", 4: "socket:[101]", 5: "/dev/null", 6: "socket:[400]", 7: "socket:[x]"})
    table(proc, "self", TABLE, "1")
    table(proc, 100, TABLE, "1")
    sockets = UnixSockets(proc.proc)
    assert sockets.at(100, "/run/a.sock") == [
        Row("/run/a.sock", 100, True),
        Row("/run/a.sock", 101, False),
        Row("/run/a.sock", 0, False),
    ]
    assert sockets.at(100, "with a space") == [Row("with a space", 400, True)]
    assert sockets.at(100, "/run") == []
    assert sockets.listening(100) == {100: "/run/a.sock", 400: "with a space"}
    assert (sockets.inode_of(100, 4), sockets.inode_of(100, 5), sockets.inode_of(100, 99)) == (101, 0, 0)


def test_sockets_of_two_network_namespaces(proc: FakeProc) -> None:
    """QEMU's socket is listed in its own, a client's connection to it in the client's."""
    head, *rows = TABLE.splitlines(keepends=True)
    proc.process(100, fds={3: "socket:[100]", 4: "socket:[101]"})
    table(proc, "self", head + rows[2], "1")
    table(proc, 100, head + rows[1], "2")
    assert {row.inode for row in UnixSockets(proc.proc).at(100, "/run/a.sock")} == {100, 101}


def closed(proc: FakeProc, place: Place) -> Closed:
    found = MonitorSockets(proc.proc).connect(100, place)
    assert isinstance(found, Closed)
    return found


@pytest.mark.parametrize(
    ("fds", "rows", "expected"),
    [
        ({3: "socket:[100]"}, (), ("absent", "nobody listens")),
        ({3: "socket:[555]"}, (1,), ("refused", "another process listens")),
        ({}, (1,), ("refused", "may not be looked at")),
        ({3: "socket:[100]", 4: "socket:[101]"}, (1, 2), ("busy", "another client is connected")),
        ({3: "socket:[100]"}, (1, 3), ("busy", "another client waits")),
        ({3: "socket:[100]"}, (1, 2), ("absent", "No such file")),  # another process's connection on such a path
    ],
)
def test_who_has_a_monitor_is_seen_without_connecting(
    proc: FakeProc, fds: dict[int, str], rows: tuple[int, ...], expected: tuple[str, str]
) -> None:
    proc.process(100, fds=fds)
    lines = TABLE.splitlines(keepends=True)
    for pid in ("self", 100):
        table(proc, pid, lines[0] + "".join(lines[1 + row] for row in rows), "1")
    found = closed(proc, Place("/run/a.sock", str(proc.root / "nowhere"), "/run/a.sock"))
    assert found.follow == expected[0] and expected[1] in found.reason


def test_libvirts_descriptor_and_a_relative_path(proc: FakeProc) -> None:
    arguments = ["q", *LIBVIRT, "-qmp", "unix:rel.sock,server=on"]
    proc.process(100, arguments=arguments, fds={28: "socket:[100]", 5: "socket:[400]"})
    (proc.root / "100" / "cwd").symlink_to("/work")
    for pid in ("self", 100):
        table(proc, pid, TABLE, "1")
    places, reason = MonitorSockets(proc.proc).places(100, "QEMU")
    assert reason == ""
    assert places == [
        Place("/run/a.sock", f"{proc.root}/100/root/run/a.sock", "/run/a.sock"),
        Place("rel.sock", f"{proc.root}/100/cwd/rel.sock", "/work/rel.sock"),
    ]
    proc.process(100, arguments=["q", *LIBVIRT], fds={28: "/dev/null"})
    assert MonitorSockets(proc.proc).places(100, "QEMU") == ([], "QEMU does not listen on its monitor's descriptor 28")
    assert "Firecracker has no monitor" in MonitorSockets(proc.proc).places(100, "Firecracker")[1]


def test_a_strange_path_is_shown_short_and_printable(proc: FakeProc) -> None:
    path = "/x\n\x1b[31m" + "y" * 50_000
    proc.process(100, arguments=["q", "-qmp", f"unix:{path},server=on"], fds={3: "socket:[100]"})
    table(proc, 100, TABLE, "1")
    (place,), _ = MonitorSockets(proc.proc).places(100, "QEMU")
    found = closed(proc, place)
    assert found.follow == "absent" and found.reason.isprintable() and len(found.reason) < 300


def test_which_qemus_could_be_followed(proc: FakeProc) -> None:
    monitor = ("-qmp", "unix:/run/a.sock,server=on,wait=off")
    proc.process(100, arguments=["q", "-name", "held", *monitor], fds={3: "socket:[100]", 4: "socket:[101]"})
    proc.process(102, arguments=["q", "-name", "without"])
    proc.process(103, exe="/usr/bin/firecracker")
    for pid in ("self", 100, 102):
        table(proc, pid, TABLE, "1")
    found = survey(proc.proc)
    assert [name for name, _ in found] == ["held (pid 100)", "without (pid 102)"]
    assert told(found) == (
        "can be followed by QMP: none; cannot: held (pid 100): another client is connected to /run/a.sock, which "
        "serves one at a time; without (pid 102): QEMU was started without a QMP monitor (-qmp)"
    )
    assert told([]) == "no QEMU runs now"
    assert told([(f"vm-{i}", None) for i in range(5)]) == "can be followed by QMP: vm-0, vm-1, vm-2 and 2 more"


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[tuple[socket.socket, Path]]:
    path = tmp_path / "m.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(1)
        yield server, path


def test_a_monitor_that_was_given_is_that_of_the_process_that_listens_there(
    listening: tuple[socket.socket, Path], tmp_path: Path
) -> None:
    _, path = listening
    alias = tmp_path / "alias"
    alias.symlink_to(path)
    sockets = MonitorSockets(Proc(), [str(alias), "/nowhere/m.sock"])
    places, _ = sockets.places(os.getpid(), "some VMM")
    assert places == [Place(str(path), str(alias), str(alias))]
    assert sockets.places(os.getppid(), "some VMM")[0] == []
    connection = sockets.connect(os.getpid(), places[0])
    assert isinstance(connection, socket.socket) and not connection.getblocking()
    time.sleep(0.01)  # the table is kept for less
    again = sockets.connect(os.getpid(), places[0])
    assert isinstance(again, Closed) and again.follow == "busy", "it waits to be accepted"
    connection.close()


def test_a_path_that_leads_to_another_process_is_refused_without_connecting(tmp_path: Path) -> None:
    """The table says that our process listens there, but the file has been replaced by a link to another's socket."""
    path, other = tmp_path / "m.sock", tmp_path / "other.sock"
    with socket.socket(socket.AF_UNIX) as own, socket.socket(socket.AF_UNIX) as pipe:
        own.bind(str(path))
        own.listen(1)
        path.unlink()
        pipe.bind(str(other))
        child = os.fork()
        if child == 0:
            pipe.listen(1)  # SO_PEERCRED is who listened last
            os._exit(0)
        os.waitpid(child, 0)
        path.symlink_to(other)
        found = MonitorSockets(Proc()).connect(os.getpid(), Place(str(path), str(path), str(path)))
        assert isinstance(found, Closed) and found.follow == "refused" and "not the socket" in found.reason
        pipe.setblocking(False)
        with pytest.raises(BlockingIOError):
            pipe.accept()


def test_a_path_that_is_no_socket_and_one_that_nobody_may_open(
    listening: tuple[socket.socket, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, path = listening
    plain = tmp_path / "plain"
    plain.touch()
    found = MonitorSockets(Proc()).connect(os.getpid(), Place(str(path), str(plain), str(path)))
    assert isinstance(found, Closed) and found.follow == "absent" and "Socket operation on non-socket" in found.reason

    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    found = MonitorSockets(Proc()).connect(os.getpid(), Place(str(path), str(path), str(path)))
    assert isinstance(found, Closed) and found.follow == "refused" and "may connect" in found.reason
