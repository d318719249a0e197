"""Made-up guests for looking at the page: plausible numbers in the shape that the server sends (S4)."""

import math
from dataclasses import dataclass, field
from typing import Any, Final

from tests.browser.fake_migration import Course
from tests.browser.scenario import Scenario

Json = dict[str, Any]

WINDOWS_NS: Final = {"1s": 1e9, "5s": 5e9, "10s": 10e9, "30s": 30e9, "1m": 60e9, "5m": 300e9, "15m": 900e9}
TICK_NS: Final = 1_000_000_000
MODES: Final = ("uffd", "exit", "memory_fault", "async", "kernel")
# Share of the whole latency that each stage takes, roughly as in a real migration.
STAGES: Final[dict[str, dict[str, float]]] = {
    "uffd": {"raise": 0.03, "notify": 0.22, "serve": 0.55, "fill": 0.06, "wake": 0.14},
    "exit": {"raise": 0.08, "serve": 0.62, "fill": 0.2, "reenter": 0.1},
    "async": {"raise": 0.05, "notify": 0.25, "serve": 0.5, "fill": 0.06, "wake": 0.14},
}
# Standard normal quantiles of p50, p90, p99 and of the largest of a few thousand.
_QUANTILES: Final = {"p50": 0.0, "p90": 1.2816, "p99": 2.3263, "max": 3.6}
# The phase in which a demo guest is: seconds of uffd mode, then seconds of exit mode.
_PHASE_S: Final = 12


def summary(median_ns: float, sigma: float, count: int) -> Json:
    """A log-normal latency as count, sum and percentiles in ns."""
    values: Json = {name: round(median_ns * math.exp(sigma * z)) for name, z in _QUANTILES.items()}
    return {"count": count, "sum": round(count * median_ns * math.exp(sigma**2 / 2)), **values}


def _chance(*seeds: int) -> float:
    """A number in [0, 1) that looks like chance: half a million of them make the history of 256 vCPUs."""
    mixed = math.sin(sum(seed * factor for seed, factor in zip(seeds, (12.9898, 78.233, 37.719), strict=True)))
    return mixed * 43_758.5453 % 1


@dataclass
class Guest:
    """One VM with `scenario.vcpus` vCPUs; every number follows from the time alone."""

    scenario: Scenario
    faults: Json = field(default_factory=dict)
    course: Course | None = None
    hung_since_ns: int = 0

    def median_ns(self, vcpu: int, mode: str, second: int) -> float:
        """Latency's median of one vCPU in one second: a slow wave, a hot vCPU now and then, some noise."""
        noise = 0.87 * (_chance(vcpu, second, len(mode)) - 0.5)
        wave = 0.7 * math.sin(second / 17 + vcpu / max(self.scenario.vcpus, 1) * 5)
        hot = 2.6 if (second // 9 + vcpu) % 23 == 0 else 0.0
        return {"uffd": 90e3, "exit": 34e3, "async": 140e3}.get(mode, 60e3) * math.exp(noise + wave + hot)

    def active(self, second: int) -> tuple[str, ...]:
        """Modes in which the guest faults in that second."""
        if self.scenario.idle:
            return ()
        if not self.scenario.handlers:
            return ("exit",)
        phase = (second // _PHASE_S) % 3
        return (("uffd",), ("exit",), ("uffd", "exit"))[phase] + (("async",) if self.scenario.asynchronous else ())

    def tick(self, second: int) -> Json:
        """One column of the time series."""
        vcpus, modes = self.scenario.vcpus, {}
        for mode in self.active(second):
            medians = [self.median_ns(vcpu, mode, second) for vcpu in range(min(vcpus, 16))]
            rate = vcpus * 1e9 / (sum(medians) / len(medians) * 12)
            latency = summary(sum(medians) / len(medians), 0.8, 0)
            modes[mode] = {"rate_per_s": rate, **{name: latency[name] for name in _QUANTILES}}
        active = self.active(second)
        heat = [
            round(max(self.median_ns(vcpu, mode, second) for mode in active) * math.exp(0.8 * 2.3263))
            if active and (vcpu + second) % 31
            else None
            for vcpu in range(vcpus)
        ]
        depth = round(vcpus * (0.5 + 0.45 * math.sin(second / 6))) if "uffd" in active else 0
        if self.hung_since_ns:
            age_ns = (second + 1) * TICK_NS - self.hung_since_ns
            heat, depth = [age_ns if age_ns > 0 else None] * vcpus, vcpus
        queue = {"pending": 0 if self.hung_since_ns else depth // 3, "total": depth}
        course = self.course or Course(self.scenario, 0)
        told = course.tick(second * TICK_NS)
        if self.hung_since_ns:
            told |= {"stall": [1.0] * vcpus, "stalled": {"mean": vcpus, "peak": vcpus, "vcpus": vcpus}}
        return {"time_ns": second * TICK_NS, "modes": modes, "heat": heat, "queue": queue, **told}

    def vcpu_row(self, vcpu: int, second: int, window_s: int) -> Json:
        """One row of the table of vCPUs."""
        active = self.active(second)
        median = self.median_ns(vcpu, active[0], second // 3) if active else 0.0
        rate = 1e9 / (median * 12) if active else 0.0
        stall = min(0.98, 0.1 + 0.9 * abs(math.sin(vcpu * 1.3 + second / 31))) if active else 0.0
        open_since_ns = self.hung_since_ns + vcpu * 1_000_000 if self.hung_since_ns else 0
        stuck = bool(active) and (vcpu + second) % 5 == 0
        return {
            "vcpu": vcpu,
            "tid": 4300 + vcpu,
            "name": f"CPU {vcpu}/KVM",
            "faults": {mode: round(second % 3600 * rate / 4) if mode in ("uffd", "exit") else 0 for mode in MODES},
            "rate_per_s": rate,
            "latency_ns": summary(median, 0.8, round(rate * window_s))
            if active
            else {"count": 0, "sum": 0, "p50": 0, "p90": 0, "p99": 0, "max": 0},
            "stall": 1.0 if self.hung_since_ns else stall,
            "open_since_ns": second * TICK_NS - vcpu * 37_000_000 if stuck else open_since_ns,
        }

    def slowest(self, second: int, window_s: int) -> list[Json]:
        """The slowest fault records of the window."""
        if not self.active(second):
            return []
        rows = []
        for rank in range(10):
            mode = "exit" if rank % 3 == 2 else "uffd"
            latency = round(9_500_000 * 0.82**rank)
            shares = {
                name: share * (1 + 0.6 * math.sin(rank + i)) for i, (name, share) in enumerate(STAGES[mode].items())
            }
            whole = sum(shares.values())
            rows.append(
                {
                    "time_ns": second * TICK_NS - rank % max(window_s, 1) * TICK_NS // 2,
                    "vcpu": rank * 5 % self.scenario.vcpus,
                    "mode": mode,
                    "latency_ns": latency,
                    "stages_ns": {name: round(latency * share / whole) for name, share in shares.items()},
                    "gpa": 0x10_0000 + rank * 0x1_7000,
                    "hva": 0x7F12_3450_0000 + rank * 0x1_7000,
                    "resolver": "CONTINUE" if rank % 4 == 3 else "COPY",
                    "handler_tid": 4290 + rank % 2,
                    "tid": 4300 + rank,
                    "access": "write",
                    "memslot": 1,
                    "presence": "minor" if rank % 4 == 3 else "missing",
                    "inferred": ["gpa", "hva", "access", "memslot", "presence"] if mode == "exit" else [],
                    "error": "EFAULT" if mode == "exit" else None,
                    "exit_flags": [],
                    "exit_bytes": None,
                }
            )
        return rows

    def _hardware(self, window_s: int) -> Json:
        """Hardware exits by reason, as on a host with VMX."""
        if self.scenario.hardware != "counted":
            return {}
        each = {
            "EPT_VIOLATION": (4100, 96_000), "IO_INSTRUCTION": (3100, 11_400), "EXTERNAL_INTERRUPT": (1250, 2_900),
            "HLT": (377, 3_100_000), "MSR_WRITE": (340, 1_150), "EPT_MISCONFIG": (120, 9_300),
            "PREEMPTION_TIMER": (75, 1_900), "PAUSE_INSTRUCTION": (9, 2_400), "CPUID": (2, 71_000),
        }  # fmt: skip
        return {
            name: {"count": per_s * window_s, "sum_ns": per_s * window_s * mean_ns, "max_ns": mean_ns * 17}
            for name, (per_s, mean_ns) in each.items()
        }

    def over_window(self, second: int, window_s: int) -> Json:
        """What the frame says about the window as a whole."""
        seen = sorted({mode for back in range(window_s) for mode in self.active(second - back)})
        count = round(800 * window_s * self.scenario.vcpus**0.5)
        modes = {
            mode: {
                **summary(self.median_ns(3, mode, second // 2), 0.8, count),
                "rate_per_s": count / window_s,
            }
            for mode in seen
        }
        stages = {
            mode: {name: summary(values["p50"] * share, 0.9, values["count"]) for name, share in STAGES[mode].items()}
            for mode, values in modes.items()
            if mode in STAGES
        }
        demand = count * len(modes)
        exits = {"IO": 3100, "MMIO": 420, "HLT": 77, "INTR": 9}
        return {
            "modes": modes,
            "other": summary(45e3, 0.5, 12 * window_s) if modes else {"count": 0},
            "stages": stages,
            "exits": {f"KVM_EXIT_{name}": number * window_s for name, number in exits.items() if modes}
            | ({"EFAULT": count} if "exit" in modes else {}),
            "hardware": self._hardware(window_s) if modes else {},
            "hardware_state": self.scenario.hardware,
            "fills": {
                "demand": {"COPY": round(demand * 0.7), "CONTINUE": round(demand * 0.3)} if demand else {},
                "background": {"COPY": demand * 3} if demand else {},
                "failed": 2 if demand else 0,
            },
        }
