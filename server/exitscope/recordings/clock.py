"""A recordings folder's own clock: how much time has passed in it, whatever the wall clock says.

Within one boot it is CLOCK_BOOTTIME. Over a reboot only the wall clock tells how long the machine was off, and it may
be wrong: so that counts as a day at most. A wall clock that jumps by a month makes no recording a month older; a
machine that was off for a month keeps its recordings longer. The folder's id is told in each recording that a server
begins in it, and in none that somebody copied there.
"""

import json
import os
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

NAME: Final = ".shelf"
"""JSON {"id", "boot_id", "boottime_ns", "wall_ns", "passed_ns"}. Servers that share the folder write the same time."""

MAX_OFF_NS: Final = 24 * 3600 * 1_000_000_000
"""What a time without power counts at most."""

_KEEP_NS: Final = 60 * 1_000_000_000
_MAX_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class FolderTime:
    """id: of the folder; passed_ns: since the folder's clock began, ns."""

    id: str
    passed_ns: int


class FolderClock:
    """Of one folder. `now` makes and keeps its file."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        self._kept: dict[str, Any] = {}

    def now(self) -> FolderTime:
        """Raises OSError if the file can be neither read nor made: then nothing is known of any age."""
        kept = self._kept or self._read() or {"id": secrets.token_hex(8)}
        boot_id, boottime_ns, wall_ns = _boot_id(), time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns()
        passed_ns = int(kept.get("passed_ns", 0))
        if kept.get("boot_id") == boot_id:
            passed_ns += max(boottime_ns - kept["boottime_ns"], 0)
        elif "boot_id" in kept:
            off_ns = wall_ns - kept["wall_ns"] - boottime_ns
            passed_ns += boottime_ns + min(max(off_ns, 0), MAX_OFF_NS)
        if kept.get("boot_id") != boot_id or boottime_ns - kept["boottime_ns"] >= _KEEP_NS or not self._path.exists():
            kept = {"id": kept["id"], "boot_id": boot_id, "boottime_ns": boottime_ns, "wall_ns": wall_ns,
                    "passed_ns": passed_ns}  # fmt: skip
            self._write(kept)
        self._kept = kept
        return FolderTime(str(kept["id"]), passed_ns)

    def _read(self) -> dict[str, Any] | None:
        """What was kept; None if there is nothing that fits. Raises OSError other than FileNotFoundError."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        with os.fdopen(fd, "rb") as file, suppress(ValueError, KeyError, TypeError, RecursionError):
            found = json.loads(file.read(_MAX_BYTES))
            numbers = [int(found[name]) for name in ("boottime_ns", "wall_ns", "passed_ns")]
            if min(numbers) >= 0 and isinstance(found["id"], str) and isinstance(found["boot_id"], str):
                return dict(found)
        return None

    def _write(self, kept: dict[str, Any]) -> None:
        part = self._path.with_name(f"{NAME}.part")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(part, flags, 0o600), "w") as file:
            file.write(json.dumps(kept))
        os.replace(part, self._path)


def _boot_id() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
