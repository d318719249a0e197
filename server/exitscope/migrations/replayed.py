"""The migrations of a recording while it is played: what the tracker of that run came to, up to the moment shown.

Only the figures of one that goes on at that moment are counted anew, from its begin. After a jump to a moment long
after that (player.py) they are not known: no standstill is told, and no faults.
"""

from typing import Any

from pydantic import ValidationError

from ..vms import Vms
from .course import figures_of
from .models import Migration
from .numbers import Counted, Standing
from .standstill import span_ns, standstill


class Replayed:
    """known: models.Migration as JSON; what does not fit is left out."""

    def __init__(self, known: list[dict[str, Any]], vms: Vms, counted: Counted) -> None:
        self._vms = vms
        self._counted = counted
        self._bases: dict[str, Standing] = {}
        self._begun = False
        self._unknown: set[str] = set()
        self._known: list[dict[str, Any]] = []
        for one in known:
            try:
                known_one = Migration.model_validate(one)
                known_one.standstill = known_one.standstill or standstill(known_one, known_one.to_ns or 0)
                self._known.append(known_one.model_dump())
            except ValidationError:
                continue
        self._known.sort(key=lambda one: int(one["from_ns"]))

    def before(self, time_ns: int) -> None:
        """Totals of this moment will be counted next."""
        if not self._begun:
            # What it had come to before the player began to count is not known.
            self._unknown = {one["id"] for one in self._known if _since_ns(one) < time_ns}
            self._begun = True
        for one in self._known:
            vm = self._vms.get(one["vm"])
            if one["id"] not in self._bases and _since_ns(one) <= time_ns and vm is not None:
                self._bases[one["id"]] = Standing.of(self._counted, vm)

    def listed(self, time_ns: int) -> list[dict[str, Any]]:
        """Those that have begun by then, oldest first, without samples."""
        return [self._at(one, time_ns) | {"samples": []} for one in self._known if one["from_ns"] <= time_ns]

    def find(self, migration_id: str, time_ns: int) -> dict[str, Any] | None:
        """One of them, with samples; None also before it has begun."""
        for one in self._known:
            if one["id"] == migration_id and one["from_ns"] <= time_ns:
                return self._at(one, time_ns)
        return None

    def _at(self, one: dict[str, Any], time_ns: int) -> dict[str, Any]:
        if one["to_ns"] is not None and one["to_ns"] <= time_ns:
            return one
        samples = [sample for sample in one["samples"] if sample["at_ns"] <= time_ns]
        qmp = one["qmp"] | samples[-1] if one["qmp"] is not None and samples else None
        vm, base = self._vms.get(one["vm"]), self._bases.get(one["id"])
        total, missing = Standing(), False
        if vm is not None and base is not None and one["id"] not in self._unknown:
            total, missing = Standing.of(self._counted, vm).since(base), one["missing_from_ns"] is not None
        begins = [(phase["name"], phase["from_ns"]) for phase in one["phases"] if phase["from_ns"] <= time_ns]
        span = span_ns(begins, _since_ns(one), time_ns)
        phases = [
            phase | {"to_ns": None if phase["to_ns"] is None or phase["to_ns"] > time_ns else phase["to_ns"]}
            for phase in one["phases"]
            if phase["from_ns"] <= time_ns
        ]
        return one | {
            "state": "active",
            "to_ns": None,
            "evidence": [sentence for sentence in one["evidence"] if sentence not in one["ending"]],
            "ending": [],
            "phases": phases,
            "samples": samples,
            "qmp": qmp,
            **figures_of(total, one["role"], span, 0, one["brownout"]["vcpus"], missing),
        }


def _since_ns(one: dict[str, Any]) -> int:
    since_ns: int = one["from_ns"] if one["missing_from_ns"] is None else one["missing_from_ns"]
    return since_ns
