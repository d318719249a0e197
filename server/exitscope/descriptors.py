"""File descriptors: how many connections they allow, with some kept back for recordings."""

import resource
from typing import Final

WANTED: Final = 8192
RESERVE: Final = 96
"""For recordings that run and are finished, queries, the collector's socket, libraries."""

BACKLOG: Final = 64
"""Connections that asyncio may accept at once, before any is counted."""

MAX_CONNECTIONS: Final = 512
_LEAST: Final = 16


def raise_limit() -> None:
    """Allow this process as many as it may have, up to WANTED."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def connections_allowed() -> int:
    """Connections at once, of browsers and other programs."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(min(MAX_CONNECTIONS, soft - RESERVE - BACKLOG), _LEAST)
