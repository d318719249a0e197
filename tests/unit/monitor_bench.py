"""A follower in a loop of its own, and something that listens on a monitor's socket for it."""

import contextlib
import json
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exitscope_probes.migration import Follower
from exitscope_probes.wire import Kind, Message

from .test_qmp import GREETING, answers, lines

TIMEOUT_S = 20
Talk = Callable[["Peer", socket.socket], None]


class Peer:
    """What listens on a monitor's socket: `talk` is called with each connection, one at a time."""

    def __init__(self, path: Path, talk: Talk) -> None:
        self.path = str(path)
        self.talk = talk
        self.phase, self.side = "before", "source"
        self.asked: list[list[str]] = []  # of each connection
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.asked.append([])
            with connection:
                connection.settimeout(TIMEOUT_S)
                with contextlib.suppress(OSError):
                    self.talk(self, connection)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()


def qemu(peer: Peer, connection: socket.socket) -> None:
    """Answers as QEMU does, until the client hangs up."""
    connection.sendall(lines(GREETING))
    for line in connection.makefile("rb"):
        command = json.loads(line)
        name = command["execute"]
        peer.asked[-1].append(name)
        told = {} if name == "qmp_capabilities" else answers(peer.phase, peer.side)[name]
        connection.sendall(lines({"return": told, "id": command["id"]}))


def greets_only(_: Peer, connection: socket.socket) -> None:
    connection.sendall(lines(GREETING))
    while connection.recv(1000):
        pass


class Bench:
    """A follower in a loop of its own; this process is the VMM."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.selector = selectors.DefaultSelector()
        self.published: list[tuple[float, dict[str, Any]]] = []
        self.follower = Follower(self.selector, self.note, [str(path)])
        self.peer: Peer | None = None
        self.longest_s = 0.0  # that the loop was held up

    def note(self, message: Message) -> None:
        assert message.kind is Kind.MIGRATION
        json.dumps(message.meta, allow_nan=False)
        self.published.append((time.monotonic(), message.meta))

    def listen(self, talk: Talk) -> Peer:
        self.peer = Peer(self.path, talk)
        return self.peer

    def see(self, *numbers: int, state: str = "running", pid: int = 0) -> None:
        self.follower.see(
            [
                {"vm": n, "id": f"vm-{n}", "pid": pid or os.getpid(), "name": "web", "vmm": "QEMU", "state": state}
                for n in numbers
            ]
        )

    def turn(self, until: Callable[[], bool] | float) -> None:
        """Run the loop for so many seconds, or until something holds."""
        deadline = time.monotonic() + (until if isinstance(until, float) else TIMEOUT_S)
        due = 0.0
        while time.monotonic() < deadline and (isinstance(until, float) or not until()):
            before = time.monotonic()
            if before >= due:
                due = before + self.follower.run()
            ready = self.selector.select(0)
            for key, mask in ready:
                key.data(mask)
            self.longest_s = max(self.longest_s, time.monotonic() - before)
            if not ready:
                time.sleep(0.002)
        assert isinstance(until, float) or until(), "never"

    @property
    def said(self) -> list[dict[str, Any]]:
        return [meta for _, meta in self.published]

    def until_follow(self, *states: str) -> dict[str, Any]:
        self.turn(lambda: any(meta["follow"] in states for meta in self.said))
        return next(meta for meta in self.said if meta["follow"] in states)

    def close(self) -> None:
        self.follower.close()
        assert not self.selector.get_map()
        self.selector.close()
        if self.peer:
            self.peer.close()
