"""In-kernel cost per fault, from BPF run-time statistics, against a bpftrace script that does less."""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial

from tests.bench.bpfstats import run_times, statistics
from tests.bench.figure import Effort, Row, Spread
from tests.bench.guests import faults_of, run_guest, settle, undisturbed
from tests.bench.tracers import bpftrace, probes

ROUNDS = 5
PAGES = 20_000
TARGET = 0.5
_GUEST = ("--vcpus", 2)
_VARIANTS = {
    "uffd fault": ("--mode", "uffd", "--thread-id"),
    "uffd fault, no THREAD_ID": ("--mode", "uffd"),
    "exit fault": ("--mode", "exit"),
}
_TARGETED = {name for name in _VARIANTS if name.startswith("uffd")}
_TRACERS: dict[str, Callable[[], AbstractContextManager[set[int]]]] = {"ours": probes, "peer": bpftrace}

Cost = dict[str, tuple[float, float]]
"""{program: (ns, runs) per fault}"""


def rows(effort: Effort) -> Iterator[Row]:
    costs: dict[tuple[str, str], list[Cost]] = defaultdict(list)
    with statistics():
        for _ in range(effort.rounds(ROUNDS)):
            for tracer, attach in _TRACERS.items():
                with attach() as programs:
                    settle()
                    for variant, options in _VARIANTS.items():
                        command = (*_GUEST, *options, "--pages", effort.pages(PAGES))
                        costs[tracer, variant].append(undisturbed(partial(cost_of, programs, command)))
    for variant in _VARIANTS:
        ours, peer = ([total_us(cost) for cost in costs[tracer, variant]] for tracer in _TRACERS)
        ratio = Spread.of([mine / theirs for mine, theirs in zip(ours, peer, strict=True)])
        targeted = variant in _TARGETED
        yield Row(
            f"in-kernel cost per {variant} / a bpftrace script's",
            f"{ratio:.2f}; {Spread.of(ours):.2f} µs",
            f"≤ {TARGET}" if targeted else "",
            ratio.middle <= TARGET if targeted else None,
            f"bpftrace {Spread.of(peer):.2f} µs",
        )
        for tracer in _TRACERS:
            explain(f"{tracer}, {variant}", costs[tracer, variant])


def cost_of(programs: set[int], options: tuple[object, ...]) -> Cost:
    """What the programs cost while a guest runs, per fault that it counts."""
    before = run_times(programs)
    faults = faults_of(run_guest(*options))
    after = run_times(programs)
    return {
        f"{end.name} #{place}": (
            (end.run_time_ns - before[number].run_time_ns) / faults,
            (end.runs - before[number].runs) / faults,
        )
        for place, (number, end) in enumerate(sorted(after.items()))
    }


def total_us(cost: Cost) -> float:
    """In µs."""
    return sum(ns for ns, _ in cost.values()) / 1e3


def explain(title: str, costs: list[Cost]) -> None:
    """Where the time goes, for whoever wants to make it less."""
    print(f"  {title}", file=sys.stderr)
    for program in sorted(costs[0], key=lambda name: -costs[0][name][0]):
        ns = Spread.of([cost[program][0] for cost in costs])
        runs = Spread.of([cost[program][1] for cost in costs]).middle
        if runs >= 0.05:
            print(f"    {program:24} {ns:7.0f} ns/fault  {runs:6.2f} runs/fault", file=sys.stderr)
