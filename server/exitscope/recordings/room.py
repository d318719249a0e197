"""Room on the disk."""

import os
from typing import Final

RESERVE_BYTES: Final = 64 << 20
"""Left free on the disk, or a twentieth of it if that is less, so that the recording can be finished."""


def room_left(path: str) -> int:
    """Bytes that may still be written to the file system of `path`. Raises OSError."""
    disk = os.statvfs(path)
    reserve = min(RESERVE_BYTES, disk.f_blocks * disk.f_frsize // 20)
    return disk.f_bavail * disk.f_frsize - reserve
