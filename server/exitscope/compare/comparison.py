"""Two recordings to one Comparison."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Final

import numpy as np

from ..recordings.file import RecordingFile
from . import conditions, models, reading, verdict
from .profile import STAGES, Profile
from .quantiles import middle_stages_ns, quantiles_ns
from .side import Side
from .statistics import (
    CONFIDENCE,
    DRIFT,
    QUANTILES,
    SEED,
    SMALLEST_EFFECT,
    Blocks,
    Estimate,
    Interval,
    difference_ns,
    ecdf,
    estimate,
    ratio,
)

MAX_VCPUS: Final = 1024
_STAGE_NAMES: Final = (*STAGES[:-1], "wake / reenter")


def compare(
    a: RecordingFile,
    b: RecordingFile,
    force: bool = False,
    vm_a: str | None = None,
    vm_b: str | None = None,
    drift: float = DRIFT,
) -> models.Comparison:
    """All of both recordings, or of one VM each. Raises UserError if a recording has no such VM.

    force: call a winner although the conditions are unfair. drift: see statistics.DRIFT.
    """
    sides = Side.of("A", a, vm_a), Side.of("B", b, vm_b)
    blocks = [Blocks.of(side.profile) for side in sides]
    estimates = [estimate(one, SEED + i) if one.enough else None for i, one in enumerate(blocks)]
    rate, latency = _figures(sides, estimates, drift)
    stages = _stages(sides, estimates, drift)
    different = [models.Difference(**asdict(one)) for one in conditions.differences(*sides)]
    runs = [_run(side, one) for side, one in zip(sides, blocks, strict=True)]
    ecdf_a, ecdf_b = (_ecdf(side.profile) for side in sides)
    return models.Comparison(
        a=runs[0],
        b=runs[1],
        verdict=verdict.of(runs[0], runs[1], rate, latency, stages, different, force, drift),
        confidence=CONFIDENCE,
        drift=drift,
        smallest_effect=SMALLEST_EFFECT,
        seed=SEED,
        differences=different,
        conditions_checked=conditions.checked(),
        rate=rate,
        latency_ns=latency,
        ecdf_a=ecdf_a,
        ecdf_b=ecdf_b,
        stages=stages,
        vcpus=_vcpus(sides[0].profile, sides[1].profile),
        exits=_pairs(*(reading.exits(side.meta, side.vm) for side in sides)),
        hardware_exits=_pairs(*(reading.hardware_exits(side.meta, side.vm) for side in sides)),
        fills=_pairs(*(reading.fills(side.meta, side.vm) for side in sides)),
    )


def _run(side: Side, blocks: Blocks) -> models.Run:
    return models.Run(
        id=side.meta.id,
        name=side.meta.name or side.meta.id,
        title=side.title,
        mode=side.mode,
        modes=dict(side.profile.modes.most_common()),
        vm=side.vm,
        vcpus=len(side.profile.vcpu_ids),
        faults=side.profile.faults,
        started_wall_ms=side.meta.started_wall_ms,
        duration_ns=side.meta.duration_ns,
        active_ns=int(blocks.lengths_ns.sum()),
        blocks=len(blocks.counts),
    )


def _figures(
    sides: tuple[Side, Side], estimates: list[Estimate | None], drift: float
) -> tuple[models.Figure | None, dict[str, models.Figure]]:
    """(rate, latency); without intervals there is no rate, and no latency but what the histograms say."""
    a, b = estimates
    if a is None or b is None:
        plain = [quantiles_ns(side.profile.slots.sum(axis=0), tuple(QUANTILES.values())) for side in sides]
        figures = {
            name: _unbounded(float(plain[0][i]), float(plain[1][i]))
            for i, name in enumerate(QUANTILES)
            if all(side.profile.faults for side in sides)
        }
        return None, figures
    figures = {name: _figure(a, b, name, drift) for name in (*QUANTILES, "mean")}
    figures["max"] = _unbounded(*(float(side.profile.max_ns) for side in sides))
    return _figure(a, b, "rate", drift), figures


def _figure(a: Estimate, b: Estimate, name: str, drift: float) -> models.Figure:
    of_both = ratio(a, b, name, drift)
    apart = of_both.low > 1 or of_both.high < 1
    large = max(of_both.value, 1 / of_both.value) >= 1 + SMALLEST_EFFECT
    return models.Figure(
        a=_bounds(a.interval(name)), b=_bounds(b.interval(name)), ratio=_bounds(of_both), differs=apart and large
    )


def _bounds(of: Interval) -> models.Bounds:
    return models.Bounds(value=of.value, low=of.low, high=of.high)


def _unbounded(a: float, b: float) -> models.Figure:
    """A single fault, like the longest, has no interval that could be found by resampling."""
    values = [models.Bounds(value=value, low=None, high=None) for value in (a, b, b / a if a > 0 else 0.0)]
    return models.Figure(a=values[0], b=values[1], ratio=values[2], differs=False)


def _stages(sides: tuple[Side, Side], estimates: list[Estimate | None], drift: float) -> list[models.Stage]:
    profiles = [side.profile for side in sides]
    if not all(profile.faults for profile in profiles):
        return []
    middles = [middle_stages_ns(profile.slots.sum(axis=0), profile.stage_sums_ns) for profile in profiles]
    means = [profile.stage_sums_ns.sum(axis=0) / profile.faults for profile in profiles]
    a, b = estimates
    intervals = difference_ns(a, b, drift) if a is not None and b is not None else None
    stages = []
    for i, name in enumerate(_STAGE_NAMES):
        low, high = intervals[i][1:] if intervals else (None, None)
        stages.append(
            models.Stage(
                stage=name,
                a_ns=float(middles[0][i]),
                b_ns=float(middles[1][i]),
                difference_ns=float(middles[1][i] - middles[0][i]),
                mean_a_ns=float(means[0][i]),
                mean_b_ns=float(means[1][i]),
                mean_difference_ns=models.Bounds(value=float(means[1][i] - means[0][i]), low=low, high=high),
            )
        )
    return stages


def _ecdf(profile: Profile) -> models.Ecdf:
    latency, share = ecdf(profile.slots.sum(axis=0))
    return models.Ecdf(latency_ns=latency.tolist(), share=share.tolist())


def _vcpus(a: Profile, b: Profile) -> list[models.VcpuPair]:
    found = [_per_vcpu(profile) for profile in (a, b)]
    numbers = sorted(found[0].keys() | found[1].keys())[:MAX_VCPUS]
    return [models.VcpuPair(vcpu=number, a=found[0].get(number), b=found[1].get(number)) for number in numbers]


def _per_vcpu(profile: Profile) -> dict[int, models.VcpuFigures]:
    p50, p99 = np.nan_to_num(quantiles_ns(profile.vcpus, (0.5, 0.99))).T
    counts = profile.vcpus.sum(axis=1)
    return {
        number: models.VcpuFigures(count=int(counts[row]), p50=float(p50[row]), p99=float(p99[row]))
        for number, row in profile.vcpu_ids.items()
    }


def _pairs(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, models.CountPair]:
    names = sorted(a.keys() | b.keys(), key=lambda name: -max(a.get(name, 0), b.get(name, 0)))
    return {name: models.CountPair(a=a.get(name, 0), b=b.get(name, 0)) for name in names}
