"""What QEMU says of a migration, in our units: from the answers of qmp.QUERIES to the fields of wire.Kind.MIGRATION."""

from collections.abc import Mapping
from typing import Any, Final

UNDER_WAY: Final = frozenset(
    "setup active postcopy-device postcopy-active postcopy-recover-setup postcopy-recover pre-switchover device "
    "wait-unplug colo cancelling failing".split()
)
"""Values of MigrationStatus (qapi/migration.json) while something goes on; postcopy-paused may stay for days."""
_OF_THE_SOURCE: Final = frozenset(("setup", "cancelling", "cancelled", "failed", "wait-unplug"))  # without statistics
_MAX_TEXT: Final = 64
_MAX_NAMES: Final = 128
_MAX_VCPUS: Final = 4096
_MS: Final = 1_000_000
_MBIT_BYTES: Final = 125_000
_MAX: Final = 1 << 63

_RAM: Final = (  # field, its name in MigrationStats, what one of it is in our unit
    ("total_bytes", "total", 1),
    ("remaining_bytes", "remaining", 1),
    ("transferred_bytes", "transferred", 1),
    ("page_bytes", "page-size", 1),
    ("postcopy_requests", "postcopy-requests", 1),
    ("bytes_per_s", "mbps", _MBIT_BYTES),  # megabits, of 1000² (migration.c, migration_update_counters)
    ("pages_per_s", "pages-per-second", 1),
    ("dirty_pages_per_s", "dirty-pages-rate", 1),
)
_WHOLE: Final = (  # of MigrationInfo: all in ms
    ("setup_ns", "setup-time"),
    ("downtime_ns", "downtime"),
    ("expected_downtime_ns", "expected-downtime"),
    ("total_ns", "total-time"),
    ("blocktime_ns", "postcopy-blocktime"),
)
_OTHERS: Final = ("status", "run_state", "role", "capabilities", "max_postcopy_bytes_per_s", "vcpu_blocktime_ns")
NOTHING: Final[dict[str, Any]] = dict.fromkeys((*_OTHERS, *(row[0] for row in _RAM), *(row[0] for row in _WHOLE)))
"""The fields, null, as before the first answer."""


def told(answers: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of NOTHING. What is not of the type that QEMU documents is null: the peer is not trusted."""
    state, info, capabilities, parameters = (
        answers.get(f"query-{name}") for name in ("status", "migrate", "migrate-capabilities", "migrate-parameters")
    )
    state, info, parameters = _object(state), _object(info), _object(parameters)
    ram = _object(info.get("ram"))
    fields = {name: _number(ram.get(theirs), scale) for name, theirs, scale in _RAM}
    fields |= {name: _number(info.get(theirs), _MS) for name, theirs in _WHOLE}
    status, run_state = _text(info.get("status")), _text(state.get("status"))
    return (
        NOTHING
        | fields
        | {
            "status": status,
            "run_state": run_state,
            "role": _role(status, run_state, info),
            "capabilities": _names(capabilities),
            "max_postcopy_bytes_per_s": _number(parameters.get("max-postcopy-bandwidth")),
            "vcpu_blocktime_ns": _numbers(info.get("postcopy-vcpu-blocktime")),
        }
    )


def _role(status: str | None, run_state: str | None, info: Mapping[str, Any]) -> str | None:
    """QEMU does not say it: only a source has statistics, and what came in keeps that status."""
    if isinstance(info.get("ram"), dict):
        return "source"
    if run_state == "inmigrate" or "postcopy-vcpu-blocktime" in info:
        return "destination"
    if status in (None, "none"):
        return None
    return "source" if status in _OF_THE_SOURCE else "destination"


def _names(capabilities: Any) -> list[str] | None:
    """Of those that are on."""
    if not isinstance(capabilities, list):
        return None
    on = [each.get("capability") for each in map(_object, capabilities[:_MAX_NAMES]) if each.get("state") is True]
    return sorted(filter(None, map(_text, on)))


def _numbers(values: Any) -> list[int | None] | None:
    return [_number(value, _MS) for value in values[:_MAX_VCPUS]] if isinstance(values, list) else None


def _number(value: Any, scale: int = 1) -> int | None:
    """Times scale, if it is a number that can be meant: finite, not negative, below 2⁶³."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _MAX:
        return None
    scaled = round(value * scale)
    return scaled if scaled < _MAX else None


def _text(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    return "".join(character if character.isprintable() else "\ufffd" for character in value[:_MAX_TEXT])


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
