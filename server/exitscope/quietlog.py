"""A log that others cannot fill: of one kind of line only so many in a time, and a count of the rest."""

import logging
import time
from typing import Final

MAX_LINES: Final = 10
PERIOD_S: Final = 60.0
_MAX_KINDS: Final = 256


class Seldom(logging.Filter):
    """Of what one place in the code says, MAX_LINES in PERIOD_S; then one line with how many were left out."""

    def __init__(self) -> None:
        super().__init__()
        self._kinds: dict[tuple[str, int], tuple[float, int]] = {}  # place -> begin of its time, lines in it

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is written."""
        kind, now = (record.pathname, record.lineno), time.monotonic()
        since, lines = self._kinds.get(kind, (now, 0))
        if now - since > PERIOD_S:
            if lines > MAX_LINES:
                record.msg = f"{record.getMessage()} ({lines - MAX_LINES} lines like this were left out)"
                record.args = ()
            since, lines = now, 0
        if len(self._kinds) >= _MAX_KINDS and kind not in self._kinds:
            self._kinds.clear()
        self._kinds[kind] = since, lines + 1
        if lines + 1 == MAX_LINES:
            record.msg, record.args = f"{record.getMessage()} (more like this are left out for a while)", ()
        return lines < MAX_LINES
