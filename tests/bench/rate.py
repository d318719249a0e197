"""Fault rate of a traced guest, as a share of the same guest's untraced rate in the same round."""

from collections import defaultdict
from collections.abc import Iterator
from functools import partial

from tests.bench.figure import Effort, Row, Spread
from tests.bench.guests import rate_of, run_guest, settle, undisturbed
from tests.bench.tracers import AGAIN, BPFTRACE, COMPARED, OURS, UNTRACED, turns

ROUNDS = 9
PAGES = 48_000
TARGET = 0.95
MODES = ("uffd", "exit")


def rows(effort: Effort) -> Iterator[Row]:
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    for name, tracer in turns(effort.rounds(ROUNDS)):
        with tracer:
            settle()
            for mode in MODES:
                rates[name, mode].append(undisturbed(partial(_rate, mode, effort.pages(PAGES))))
    for mode in MODES:
        shares = {name: Spread.of(_shares(rates[name, mode], rates[UNTRACED, mode])) for name in COMPARED}
        untraced, peer = Spread.of(rates[UNTRACED, mode]).middle, shares[BPFTRACE]
        for name in OURS:
            yield Row(
                f"fault rate traced / untraced, {mode} mode, 2 vCPUs, {name}",
                f"{shares[name]:.2f}",
                f"≥ {TARGET}, above bpftrace",
                shares[name].middle >= TARGET and shares[name].middle > peer.middle,
                f"bpftrace {peer:.2f}; untraced {untraced / 1e3:.1f} k/s, again {shares[AGAIN]:.2f} of that",
            )


def _rate(mode: str, pages: int) -> float:
    return rate_of(run_guest("--mode", mode, "--vcpus", 2, "--pages", pages))


def _shares(traced: list[float], untraced: list[float]) -> list[float]:
    return [mine / theirs for mine, theirs in zip(traced, untraced, strict=True)]
