"""Where the faults' time went, divided as an operator would: kernel, handler, network, wake-up."""

from typing import Any, Final

from ..models import NO_LATENCY, Latency
from .models import ReportStage, StageGroup
from .records import EXITS, FAMILY, FILLED, READ, Records

_EXIT: Final = "exit"

# Length (SQL), of which faults it was seen (SQL), whether what it was spent on is inferred.
_GROUPS: Final[dict[StageGroup, tuple[str, str, bool]]] = {
    "kernel": ("raise_ns + fill_ns", FILLED, False),
    "handler_wait": ("notify_ns", f"{READ} AND NOT {EXITS}", False),
    "serve": ("serve_ns", f"({READ} OR {EXITS})", True),
    "wake": ("finish_ns", FILLED, False),
}
_TITLES: Final[dict[StageGroup, str]] = {
    "kernel": "kernel: raise and fill",
    "handler_wait": "waiting for the handler to read the event",
    "serve": "handler and network",
    "wake": "waking the vCPU up",
}
_EXIT_TITLES: Final = _TITLES | {"serve": "the VMM's own resolving", "wake": "back into KVM_RUN"}


def stages(records: Records) -> dict[str, list[ReportStage]]:
    """Family -> its parts in the order of a fault's life; families without a fault are left out."""
    sums = {row["family"]: row for row in records.rows(_sums(), "WHERE vcpu >= 0 GROUP BY family")}
    lengths = {
        group: records.distributions(FAMILY, length, f"vcpu >= 0 AND {seen}")
        for group, (length, seen, _) in _GROUPS.items()
    }
    found = {}
    for family in ("uffd", _EXIT, "async"):
        if family in sums:
            groups = [group for group in _GROUPS if family != _EXIT or group != "handler_wait"]
            found[family] = [
                _stage(family, group, sums[family], lengths[group].get(family, NO_LATENCY)) for group in groups
            ]
    return found


def _stage(family: str, group: StageGroup, sums: dict[str, Any], length: Latency) -> ReportStage:
    titles = _EXIT_TITLES if family == _EXIT else _TITLES
    return ReportStage(
        group=group,
        title=titles[group],
        inferred=_GROUPS[group][2],
        share=round(int(sums[group]) / max(int(sums["whole"]), 1), 6),
        latency_ns=length,
    )


def _sums() -> str:
    parts = ", ".join(f"sum({length}) AS {group}" for group, (length, _, _) in _GROUPS.items())
    return f"{FAMILY} AS family, sum(latency_ns) AS whole, {parts}"
