"""What a collector can be told."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from .hooks import Strategy
from .recording import DEFAULT_SECONDS
from .socketfile import DEFAULT_PATH, PATH_VARIABLE


@dataclass(frozen=True, slots=True)
class Settings:
    """ring_bytes: a power of two; record: a file, for record_seconds; qmp, no_qmp: see migration.Follower."""

    socket: str = field(default_factory=lambda: os.environ.get(PATH_VARIABLE) or DEFAULT_PATH)
    group: str | None = None
    strategy: Strategy | None = None
    ring_bytes: int = 16 << 20
    max_vcpus: int = 512
    max_vms: int = 256
    record: str | None = None
    record_seconds: float = DEFAULT_SECONDS
    qmp: Sequence[str] = ()
    no_qmp: bool = False
