"""QEMU's words for the state of a migration: MigrationStatus of qapi/migration.json, until after 10.2."""

from typing import Final

from .models import State

PHASES: Final = {
    "setup": "setup",
    "wait-unplug": "setup",
    "active": "precopy",
    "pre-switchover": "switchover",
    "device": "switchover",
    "postcopy-device": "switchover",
    "postcopy-active": "postcopy",
    "postcopy-paused": "postcopy-paused",
    "postcopy-recover-setup": "postcopy-recover",
    "postcopy-recover": "postcopy-recover",
    "colo": "colo",
    "cancelling": "cancelling",
    "failing": "failing",
}
"""Status of a migration that goes on -> what that part of it is called here."""

STATES: Final[dict[str, State]] = {"completed": "completed", "failed": "failed", "cancelled": "failed"}
"""Status of one that is over -> Migration.state."""

POSTCOPY: Final = frozenset({"postcopy", "postcopy-paused", "postcopy-recover"})
"""Phases in which the VM runs in the destination without all of its memory."""


def begins(status: str | None, role: str | None) -> bool:
    """Whether this says that one goes on. A destination in `setup` only listens: it may do so for ever."""
    return status in PHASES and not (status == "setup" and role != "source")
