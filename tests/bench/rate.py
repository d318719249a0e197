"""Fault rate of a traced guest, as a share of the same guest's untraced rate in the same round."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial

from tests.bench.figure import Effort, Row, Spread
from tests.bench.guests import rate_of, run_guest, settle, undisturbed
from tests.bench.tracers import bpftrace, nobody, product, product_shown

ROUNDS = 9
PAGES = 48_000
TARGET = 0.95
MODES = ("uffd", "exit")
_UNTRACED, _PEER = "untraced", "bpftrace"
_TRACERS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    _UNTRACED: nobody,
    "collector": product,
    _PEER: bpftrace,
    "collector and server": product_shown,
}


def rows(effort: Effort) -> Iterator[Row]:
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    names = list(_TRACERS)
    for number in range(effort.rounds(ROUNDS)):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:  # nobody is always first after a pause
            with _TRACERS[name]():
                settle()
                for mode in MODES:
                    rates[name, mode].append(undisturbed(partial(_rate, mode, effort.pages(PAGES))))
    for mode in MODES:
        untraced = rates[_UNTRACED, mode]
        peer = Spread.of(_shares(rates[_PEER, mode], untraced))
        for name in names:
            if name in (_UNTRACED, _PEER):
                continue
            share = Spread.of(_shares(rates[name, mode], untraced))
            yield Row(
                f"fault rate under the {name} / untraced, {mode} mode, 2 vCPUs "
                f"(untraced {Spread.of(untraced).middle / 1e3:.1f} k/s)",
                f"{share:.2f}",
                f"≥ {TARGET}, above bpftrace's",
                share.middle >= TARGET and share.middle > peer.middle,
                f"bpftrace {peer:.2f}",
            )


def _rate(mode: str, pages: int) -> float:
    return rate_of(run_guest("--mode", mode, "--vcpus", 2, "--pages", pages))


def _shares(traced: list[float], untraced: list[float]) -> list[float]:
    return [mine / theirs for mine, theirs in zip(traced, untraced, strict=True)]
