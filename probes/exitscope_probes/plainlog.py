"""The log of a process on stderr: a line says who speaks, and names in it steer no terminal."""

import logging
from typing import Any

from .untrusted import cleaned


class _Plain(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        message = super().formatMessage(record)
        return cleaned(message, len(message))

    def formatException(self, ei: Any) -> str:
        return "\n".join(cleaned(line, len(line)) for line in super().formatException(ei).split("\n"))


def log_to_stderr(who: str) -> logging.Handler:
    """From INFO on, as `who: message`. Returns the handler, for filters."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Plain(f"{who}: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    return handler
