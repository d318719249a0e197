"""A made-up comparison of two recordings, checked against the server's own model of the answer."""

import math
import random
from statistics import NormalDist
from typing import Final

from exitscope.compare import models
from tests.browser.scenario import Scenario
from tests.browser.synthetic import STAGES, Json

_QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
_MODE: Final = {"a": "uffd", "b": "exit"}
_SIGMA: Final = 0.8
_CHECKED: Final = ["kernel", "CPU", "vCPUs", "memory backing", "handler threads", "async page faults", "memslots"]


def compare(scenario: Scenario, a: Json, b: Json, force: bool) -> Json:
    """uffd mode against exit mode, or a recording against itself; unfair where the scenario says so."""
    same = a["id"] == b["id"]
    medians = {"a": 92e3, "b": 92e3 if same else 36e3}
    outcome = "refused" if scenario.unfair and not force else "no_difference" if same else "b_faster"
    sentence = {
        "refused": "No winner is called: B ran with 16 vCPUs, A with 4.",
        "no_difference": "No difference: medians of 92.0 µs and 92.0 µs, ratio 1.00× [0.96, 1.04].",
        "b_faster": "Exit mode (B) answers a fault in 36.0 µs, 2.6× as fast as uffd mode (A) with 92.0 µs.",
    }[outcome]
    latency = {name: _figure(medians, NormalDist().inv_cdf(share)) for name, share in _QUANTILES.items()}
    latency["mean"] = _figure(medians, _SIGMA / 2)
    largest = [models.Bounds(value=value, low=None, high=None) for value in (8.2e6, 3.1e6, 3.1 / 8.2)]
    latency["max"] = models.Figure(a=largest[0], b=largest[1], ratio=largest[2], differs=False)
    answer = models.Comparison(
        a=_run(scenario, a, "a"),
        b=_run(scenario, b, "b"),
        verdict=models.Verdict.model_validate(
            {
                "outcome": outcome,
                "sentence": sentence,
                "details": ["Most of it is notify, which exit mode does not have.", "The tails differ less: p99 1.9×."],
                "forced": scenario.unfair and force,
            }
        ),
        confidence=0.95,
        drift=0.03,
        smallest_effect=0.1,
        seed=1,
        differences=_differences(scenario.unfair),
        conditions_checked=_CHECKED,
        rate=models.Figure(
            a=_bounds(41_234, 0.02), b=_bounds(61_234, 0.02), ratio=_bounds(61_234 / 41_234), differs=True
        ),
        latency_ns=latency,
        ecdf_a=_ecdf(medians["a"]),
        ecdf_b=_ecdf(medians["b"]),
        stages=_stages(medians),
        vcpus=[_vcpu(number, medians) for number in range(scenario.vcpus)],
        exits={"EFAULT": _pair(0, 4_100_000), "KVM_EXIT_IO": _pair(3100, 2900), "KVM_EXIT_MMIO": _pair(77, 80)},
        fills={"demand": _pair(4_100_000, 4_100_000), "background": _pair(200_000, 0), "failed": _pair(0, 0)},
    )
    return answer.model_dump(mode="json")


def _run(scenario: Scenario, row: Json, side: str) -> models.Run:
    mode = _MODE[side]
    return models.Run(
        id=row["id"],
        name=row["name"],
        title=f"{side.upper()} ({mode})",
        mode=mode,
        modes={mode: row["records"]},
        vm=None,
        vcpus=scenario.vcpus,
        faults=row["records"],
        started_wall_ms=round(row["started_wall_ms"]),
        duration_ns=row["duration_ns"],
        active_ns=row["duration_ns"] * 9 // 10,
        blocks=100,
    )


def _bounds(value: float, spread: float = 0.05) -> models.Bounds:
    return models.Bounds(value=value, low=value * (1 - spread), high=value * (1 + spread))


def _pair(a: int, b: int) -> models.CountPair:
    return models.CountPair(a=a, b=b)


def _figure(medians: dict[str, float], z: float) -> models.Figure:
    a, b = (median * math.exp(_SIGMA * z) for median in medians.values())
    return models.Figure(a=_bounds(a, 0.01 + z / 30), b=_bounds(b, 0.01 + z / 30), ratio=_bounds(b / a), differs=a != b)


def _ecdf(median: float) -> models.Ecdf:
    shares = [i / 190 for i in range(1, 190)] + [0.999, 0.9999]
    latency = [median * math.exp(_SIGMA * NormalDist().inv_cdf(share)) for share in shares]
    return models.Ecdf(latency_ns=[*latency, median * 90], share=[*shares, 1.0])


def _stages(medians: dict[str, float]) -> list[models.Stage]:
    parts = {side: {**STAGES[mode]} for side, mode in _MODE.items()}
    for part in parts.values():
        part["wake / reenter"] = part.pop("wake", 0.0) + part.pop("reenter", 0.0)
    made = []
    for stage in ("raise", "notify", "serve", "fill", "wake / reenter"):
        a, b = (parts[side].get(stage, 0.0) * medians[side] for side in "ab")
        mean = models.Bounds(value=(b - a) * 1.4, low=(b - a) * 1.4 - 900, high=(b - a) * 1.4 + 900)
        made.append(
            models.Stage(
                stage=stage,
                a_ns=a,
                b_ns=b,
                difference_ns=b - a,
                mean_a_ns=a * 1.4,
                mean_b_ns=b * 1.4,
                mean_difference_ns=mean,
            )
        )
    return made


def _vcpu(number: int, medians: dict[str, float]) -> models.VcpuPair:
    def figures(side: str) -> models.VcpuFigures:
        p50 = medians[side] * math.exp(random.Random(f"{side}{number}").gauss(0, 0.2))
        return models.VcpuFigures(count=9_000 + number, p50=p50, p99=p50 * 6.4)

    return models.VcpuPair(vcpu=number, a=figures("a"), b=figures("b"))


def _differences(unfair: bool) -> list[models.Difference]:
    found = [
        models.Difference(
            condition="handler threads",
            a="2",
            b="0",
            unfair=False,
            why="Exit mode has none: the vCPU's own thread resolves the fault. That is what is compared.",
        )
    ]
    if unfair:
        why = "More vCPUs contend for the same locks and for the same handlers."
        found.insert(0, models.Difference(condition="vCPUs", a="4", b="16", unfair=True, why=why))
    return found
