"""A made-up migration and what goes with it: brownout, fills, guest memory, threads, alarms, in the shapes of S4."""

import math
import random
from typing import Any, Final

from tests.browser.scenario import Scenario

Json = dict[str, Any]

SECOND_NS: Final = 1_000_000_000
MIB: Final = 1 << 20
# Begin and end of each phase, seconds since the migration's first sign.
PHASES_S: Final = {"setup": (0.0, 0.4), "precopy": (0.4, 14.0), "postcopy": (14.0, 44.0)}
TOTAL_BYTES: Final = 4096 * MIB
SOURCE: Final[Json] = {"role": "source", "kind": "precopy", "other": "vm-9-1"}  # it has not said yet that it switched
_PAGES: Final = TOTAL_BYTES // 4096
_SENT_BY_PRECOPY: Final = 0.4


class Course:
    """One migration that began at `from_ns`; every number follows from the time alone."""

    def __init__(self, scenario: Scenario, from_ns: int) -> None:
        self.scenario = scenario
        self.from_ns = from_ns

    @property
    def to_ns(self) -> int:
        """When its last page came."""
        return self.from_ns + round(PHASES_S["postcopy"][1] * SECOND_NS)

    def phase_at(self, time_ns: float) -> str | None:
        """Name of the phase, None before and after."""
        since = (time_ns - self.from_ns) / SECOND_NS
        return next((name for name, (begin, end) in PHASES_S.items() if begin <= since < end), None)

    def left(self, time_ns: float) -> int:
        """Bytes that QEMU has left."""
        since = (time_ns - self.from_ns) / SECOND_NS
        pre = min(max(since / PHASES_S["precopy"][1], 0), 1) * _SENT_BY_PRECOPY
        begin, end = PHASES_S["postcopy"]
        post = min(max((since - begin) / (end - begin), 0), 1) * (1 - _SENT_BY_PRECOPY)
        return round(TOTAL_BYTES * (1 - pre - post))

    def decay(self, time_ns: float) -> float:
        """How much of the guest's demand is there: 1 when postcopy begins, little at its end, 0 outside."""
        if self.phase_at(time_ns) != "postcopy":
            return 0.0
        return math.exp(-(time_ns - self.from_ns - PHASES_S["postcopy"][0] * SECOND_NS) / (12 * SECOND_NS))

    def tick(self, time_ns: int, tick_ns: int = SECOND_NS) -> Json:
        """The columns that a migration fills; without one, what a guest at work does."""
        vcpus, seconds = self.scenario.vcpus, tick_ns / SECOND_NS
        chance = random.Random(time_ns)
        decay = self.decay(time_ns) if self.scenario.migration else 0.35 + 0.1 * math.sin(time_ns / 7e9)
        decay = 0.0 if self.scenario.idle else decay
        mean = min(vcpus * decay * chance.uniform(0.85, 1.05), vcpus)
        busy = decay > 0
        demand = round(2000 * decay * chance.uniform(0.8, 1.2) * seconds)
        background = round(50_000 * (0.7 + 0.3 * chance.random()) * seconds) if busy else 0
        return {
            "stalled": {"mean": round(mean, 3), "peak": min(vcpus, math.ceil(mean + busy * 0.6)), "vcpus": vcpus},
            "stall": [round(min(max(chance.gauss(decay, 0.1), 0), 1), 3) if busy else 0.0 for _ in range(vcpus)],
            "fills": {"demand": demand, "background": background},
            "gpa": self.gpa(time_ns, demand, chance) if busy else {"bin_bytes": self.scenario.gpa_bin, "cells": []},
        }

    def gpa(self, time_ns: int, faults: int, chance: random.Random) -> Json:
        """Where the guest faults: a sweep through its memory, a hot part, a few anywhere."""
        bins = self.scenario.gpa_bins
        hot, sweep = bins // 9, round(bins * (time_ns / 1e9 % 40) / 40) % bins
        cells: dict[int, int] = {}
        for _ in range(min(60, faults)):
            place = chance.choice((hot + chance.randrange(3), sweep + chance.randrange(4), chance.randrange(bins)))
            cells[self._bin(min(place, bins - 1))] = max(1, round(faults * chance.random() ** 3 / 4))
        return {"bin_bytes": self.scenario.gpa_bin, "cells": sorted(cells.items())}

    def _bin(self, place: int) -> int:
        """Three quarters of the memory lie below the hole, the rest from 4 GiB on."""
        low = self.scenario.gpa_bins * 3 // 4
        high = max((4 << 30) // self.scenario.gpa_bin, low)
        return place if place < low or self.scenario.gpa_bins < 8 else high + place - low

    def memslots(self) -> list[Json]:
        """As the frame lists them."""
        size, bins = self.scenario.gpa_bin, self.scenario.gpa_bins
        if bins < 8:
            return [{"vm": "vm-0", "memslot": 0, "from_gpa": 0, "to_gpa": bins * size}]
        low, high = bins * 3 // 4 * size, max(4 << 30, bins * 3 // 4 * size)
        return [
            {"vm": "vm-0", "memslot": 0, "from_gpa": 0, "to_gpa": low},
            {"vm": "vm-0", "memslot": 3, "from_gpa": high, "to_gpa": high + (bins * size - low)},
        ]

    def qmp(self, now_ns: int) -> Json:
        """The newest answer of QEMU's monitor."""
        phase = self.phase_at(now_ns)
        if self.scenario.migration in ("busy", "kernel"):
            follow = "busy" if self.scenario.migration == "busy" else "absent"
            reason = "Another client (libvirtd) holds /run/qemu/monitor.sock." if follow == "busy" else None
            return {"follow": follow, "reason": reason, "at_ns": now_ns}
        blocked = [round(ns * 0.97) for ns in self.stall_ns(now_ns)]
        return {
            "follow": "followed",
            "reason": None,
            "at_ns": now_ns,
            "status": {"postcopy": "postcopy-active", None: "completed"}.get(phase, "active"),
            "capabilities": ["postcopy-ram", "postcopy-blocktime", "postcopy-preempt"],
            "total_bytes": TOTAL_BYTES,
            "remaining_bytes": self.left(now_ns),
            "transferred_bytes": TOTAL_BYTES - self.left(now_ns),
            "page_bytes": 4096,
            "postcopy_requests": sum(self.fills(now_ns)) // 26,
            "bytes_per_s": 196 * MIB,
            "downtime_ns": 23_000_000 if phase in ("postcopy", None) else None,
            "blocktime_ns": min(blocked),
            "vcpu_blocktime_ns": blocked,
        }

    def stall_ns(self, now_ns: int) -> list[int]:
        """Of each vCPU, so far."""
        begin, end = PHASES_S["postcopy"]
        since = min(max((now_ns - self.from_ns) / SECOND_NS - begin, 0), end - begin)
        whole = 12 * (1 - math.exp(-since / 12)) * SECOND_NS
        return [round(whole * (1 - vcpu % 4 * 0.04)) for vcpu in range(self.scenario.vcpus)]

    def fills(self, now_ns: int) -> tuple[int, int]:
        """(demand, background) pages so far."""
        demand = round(2000 * self.stall_ns(now_ns)[0] / SECOND_NS)
        return demand, max(round(_PAGES * (1 - self.left(now_ns) / TOTAL_BYTES)) - demand, 0)

    def samples(self, now_ns: int) -> list[Json]:
        """What QEMU said over time, twice a second."""
        end = min(now_ns, self.to_ns)
        times = range(self.from_ns, end, SECOND_NS // 2)
        return [{"at_ns": at, "remaining_bytes": self.left(at), "status": "active"} for at in times]

    def migration(self, now_ns: int, **more: Any) -> Json:
        """The object of the API, without samples."""
        ended = now_ns >= self.to_ns
        kernel = self.scenario.migration in ("busy", "kernel")
        known = {name: span for name, span in PHASES_S.items() if not kernel or name == "postcopy"}
        begin_ns = self.from_ns + (round(PHASES_S["postcopy"][0] * SECOND_NS) if kernel else 0)
        phases = []
        for name, (begin, end) in known.items():
            from_ns, to_ns = (self.from_ns + round(at * SECOND_NS) for at in (begin, end))
            if from_ns <= now_ns:
                phases.append({"name": name, "from_ns": from_ns, "to_ns": to_ns if to_ns <= now_ns else None})
        stall, (demand, background) = self.stall_ns(now_ns), self.fills(now_ns)
        length = max(min(now_ns, self.to_ns) - begin_ns, 1)
        vcpus = self.scenario.vcpus
        return {
            "id": "vm-0-1",
            "vm": "vm-0",
            "vm_name": self.scenario.name,
            "kind": "postcopy",
            "role": "destination",
            "how": "kernel" if kernel else "qmp",
            "evidence": ["A userfaultfd that covers 4.00 GiB appeared.", "Demand faults began 12 ms later."]
            if kernel
            else ["QEMU says so over QMP: /run/qemu/monitor.sock."],
            "state": "completed" if ended else "active",
            "from_ns": begin_ns,
            "to_ns": self.to_ns if ended else None,
            "phases": phases,
            "faults": {"uffd": demand},
            "fills": {"demand": demand, "background": background},
            "stall": [{"vcpu": vcpu, "stall_ns": ns} for vcpu, ns in enumerate(stall)],
            "brownout": {"mean": sum(stall) / length, "peak": vcpus, "vcpus": vcpus},
            "qmp": self.qmp(min(now_ns, self.to_ns) - round(self.scenario.qmp_age_s * SECOND_NS)),
            "recording": "r0" if ended and self.scenario.recordings else None,
            "other": None,
            **(SOURCE if self.scenario.migration == "source" else {}),
            **more,
        }


def threads(scenario: Scenario) -> list[Json]:
    """Those that serve the faults of vm-0."""
    rows = [
        (4290, "postcopy/fault", "uffd reader", scenario.reader_busy, 12_345),
        (4291, "postcopy/listen", "page copier", 0.31, 118_201),
        (4244, "vhost-4242", "vhost", 0.02, None),
        (4242, "qemu-system-x86", "main", 0.004, 0),
    ]
    if not scenario.handlers:
        return []
    return [
        {"tid": tid, "name": name, "role": role, "vm": "vm-0", "busy": busy, "served": served}
        for tid, name, role, busy, served in rows
    ]


_ALARMS: Final = (
    ("handler_gone", "critical", "The uffd reader postcopy/fault (thread 4290) has ended; 3 faults wait for it.",
     "Is QEMU still there? A paused migration goes on with migrate-recover."),
    ("vcpu_stalled", "warning", "vCPU 2 has stood still for 2.41 s of the last 2.5 s (limit 1 s).",
     "See the slowest faults: who was to serve them?"),
    ("records_lost", "warning", "1,204 records were lost in the last 10 s.", "Give the collector --ring-bytes."),
    ("oldest_fault", "warning", "A fault of vCPU 3 has been open for 5.12 s (limit 1 s).", "Look at its handler."),
    ("not_recorded", "warning", "Migrations are not recorded: /srv/recordings cannot be written.",
     "Let the server's user write there, or give it another --recordings."),
)  # fmt: skip


def alarms(scenario: Scenario, now_ns: int) -> list[Json]:
    """As many active ones as the scenario says, and one that has ended if there is any."""
    made = [
        {
            "id": f"{kind}:vm-0",
            "kind": kind,
            "vm": None if kind == "not_recorded" else "vm-0",  # of the host
            "vm_name": None if kind == "not_recorded" else scenario.name,
            "vcpu": None,
            "severity": severity,
            "message": message,
            "hint": hint,
            "since_ns": now_ns - (index + 3) * SECOND_NS,
            "active": index < scenario.alarms,
            "ended_ns": None if index < scenario.alarms else now_ns - 2 * SECOND_NS,
        }
        for index, (kind, severity, message, hint) in enumerate(_ALARMS[: scenario.alarms + 1])
    ]
    return made if scenario.alarms else []
