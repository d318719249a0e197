"""QEMU's monitor protocol, as much of it as a migration takes."""

import json
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.kernel.harness import TIMEOUT_S, wait_until


class Qmp:
    """A client of a QEMU's monitor. Raises RuntimeError if a command fails, EOFError if QEMU is gone.

    events: those that have come with the answers so far, oldest first.
    """

    def __init__(self, path: Path) -> None:
        self.events: list[dict[str, Any]] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(TIMEOUT_S)
        try:
            self._connect(path)
            self._lines = self._socket.makefile(encoding="utf-8")
        except BaseException:
            self._socket.close()
            raise
        self._lines.readline()
        self.command("qmp_capabilities")

    def _connect(self, path: Path) -> None:
        def listens() -> bool:
            with suppress(OSError):
                self._socket.connect(str(path))
                return True
            return False

        wait_until(listens, f"a monitor at {path}")

    def command(self, name: str, **arguments: Any) -> Any:
        """What a command returns."""
        self._socket.sendall(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
        while line := self._lines.readline():
            answer = json.loads(line)
            if "error" in answer:
                raise RuntimeError(f"{name}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
            self.events.append(answer)
        raise EOFError(name)

    def words(self, address: int, count: int) -> list[int]:
        """u64 of the guest's memory."""
        text = self.command("human-monitor-command", **{"command-line": f"xp /{count}gx {address:#x}"})
        return [int(word, 16) for line in text.splitlines() for word in line.partition(":")[2].split()]

    def enable(self, **capabilities: bool) -> None:
        """Sets migration capabilities, named with _ for -."""
        states = [{"capability": name.replace("_", "-"), "state": state} for name, state in capabilities.items()]
        self.command("migrate-set-capabilities", capabilities=states)

    def close(self) -> None:
        """Hangs up."""
        self._lines.close()
        self._socket.close()
