"""The collector's socket file: stale, foreign, occupied, impossible."""

import grp
import os
import pwd
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from exitscope.privileges import own_directory
from exitscope_probes.errors import SocketError
from exitscope_probes.socketfile import Listener


def test_a_second_collector_is_told_who_the_first_is(tmp_path: Path) -> None:
    path = str(tmp_path / "s.sock")
    code = (
        "import sys; from exitscope_probes.socketfile import Listener; l = Listener(sys.argv[1]);"
        "print('up', flush=True); sys.stdin.read()"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as first:
        assert first.stdout and first.stdout.readline() == b"up\n"
        with pytest.raises(SocketError, match=rf"another collector is running \(pid {first.pid}\)"):
            Listener(path)
        first.kill()
    assert os.path.exists(path)
    Listener(path).close()  # the dead one's file is replaced, and ours removed
    assert not os.path.exists(path)


def test_closing_leaves_a_successors_socket_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "s.sock")
    first = Listener(path)
    os.unlink(path)
    second = Listener(path)
    first.close()
    assert os.path.exists(path)
    second.close()


@pytest.mark.parametrize("kind", ["file", "directory", "symlink"])
def test_a_path_that_is_no_socket_is_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "thing"
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        (tmp_path / "precious").write_text("x")
        path.symlink_to(tmp_path / "precious")
    with pytest.raises(SocketError, match="is not a socket"):
        Listener(str(path))
    assert path.exists()


@pytest.mark.parametrize(
    ("path", "group", "words"),
    [
        ("/proc/none/s.sock", None, "cannot listen on /proc/none/s.sock"),
        ("/tmp/" + "x" * 120, None, "longer than 107 bytes"),
        ("/tmp/x.sock", "no-such-group", "no group no-such-group"),
    ],
)
def test_a_socket_that_cannot_be_made_is_one_clear_line(path: str, group: str | None, words: str) -> None:
    with pytest.raises(SocketError) as caught:
        Listener(path, group)
    assert words in str(caught.value) and caught.value.hint and "\n" not in str(caught.value)


def test_a_strict_umask_shuts_nobody_out(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        listener = Listener(str(tmp_path / "run" / "collector.sock"))
        own_directory(tmp_path / "lib" / "exitscope" / "recordings", pwd.getpwuid(os.geteuid()).pw_name)
    finally:
        os.umask(before)
    listener.close()
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o750
    modes = [
        stat.S_IMODE((tmp_path / "lib" / rest).stat().st_mode) for rest in ("", "exitscope", "exitscope/recordings")
    ]
    assert modes == [0o755, 0o755, 0o700]


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone may give files to any group")
def test_a_link_in_the_sockets_place_gives_nobodys_file_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Swapped between bind and chown by somebody who may write to the folder."""
    precious, path = tmp_path / "precious", tmp_path / "s.sock"
    precious.touch()
    group = next(entry for entry in grp.getgrall() if entry.gr_gid)
    bind = socket.socket.bind

    def swapped(self: socket.socket, address: str) -> None:
        bind(self, address)
        path.unlink()
        path.symlink_to(precious)

    monkeypatch.setattr(socket.socket, "bind", swapped)
    Listener(str(path), group.gr_name).close()
    assert precious.stat().st_gid == 0
