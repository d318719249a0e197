"""From runs to points."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import log, sqrt
from statistics import median, variance
from typing import Final

from .models import PointResult, RunResult, Spread
from .plan import MODES
from .published import RATES_PER_S

_FEWEST_REPEATS: Final = 3


def points(runs: Iterable[RunResult]) -> list[PointResult]:
    """Every point of which there is at least one run, by vCPUs."""
    found: dict[tuple[int, str, int], list[RunResult]] = defaultdict(list)
    for run in runs:
        found[run.vcpus, run.mode, run.handlers].append(run)
    return [
        _point(of) for _, of in sorted(found.items(), key=lambda item: (item[0][0], _place(item[0][1]), item[0][2]))
    ]


def _place(mode: str) -> int:
    return MODES.index(mode) if mode in MODES else len(MODES)


def drift(runs: Iterable[RunResult]) -> float | None:
    """Standard deviation of the logarithm of a rate from repeat to repeat, pooled over points of three and more."""
    logs: dict[tuple[int, str, int, bool], list[float]] = defaultdict(list)
    for run in runs:
        logs[run.vcpus, run.mode, run.handlers, run.traced].append(log(run.rate_per_s))
    enough = [values for values in logs.values() if len(values) >= _FEWEST_REPEATS]
    if not enough:
        return None
    freedom = [len(values) - 1 for values in enough]
    pooled = sum(variance(values) * f for values, f in zip(enough, freedom, strict=True)) / sum(freedom)
    return sqrt(pooled)


def spread(values: Sequence[float]) -> Spread | None:
    """None of none."""
    return Spread(median=median(values), low=min(values), high=max(values), count=len(values)) if values else None


def nearest_to_median(runs: Sequence[RunResult]) -> RunResult | None:
    """Of the runs with a recording, the one whose rate is nearest to their median: the one that stands for them."""
    recorded = [run for run in runs if run.recording is not None]
    if not recorded:
        return None
    middle = median(run.rate_per_s for run in recorded)
    return min(recorded, key=lambda run: abs(log(run.rate_per_s / middle)))


def _point(runs: Sequence[RunResult]) -> PointResult:
    first = runs[0]
    rates = {traced: {run.repeat: run.rate_per_s for run in runs if run.traced is traced} for traced in (False, True)}
    both = rates[False].keys() & rates[True].keys()
    kept = nearest_to_median(runs)
    return PointResult(
        mode=first.mode,
        vcpus=first.vcpus,
        handlers=first.handlers,
        untraced_per_s=spread(list(rates[False].values())),
        traced_per_s=spread(list(rates[True].values())),
        cost=spread([rates[True][repeat] / rates[False][repeat] for repeat in sorted(both)]),
        published_per_s=RATES_PER_S.get(first.mode, {}).get(first.vcpus),
        recording=kept.recording if kept else None,
    )
