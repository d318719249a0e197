"""Figures of a run with their uncertainty, and of one run against another.

Faults are autocorrelated: a busy core, a handler that fell behind or a slower clock lasts for many faults. So it is
not faults that are resampled but stretches of time: the active time is cut into BLOCKS equal blocks, and the block
bootstrap (Künsch 1989) draws as many with replacement. Twenty to thirty long blocks are what is recommended where the
correlation's length is not known ("batch means", Schmeiser 1982); what correlation is left between neighbouring
blocks widens the interval as that of a first-order autoregression would.

Two runs of the same thing differ by more than their inside shows: other neighbours on the host, another clock,
another placement of threads and pages (Mytkowicz et al., "Producing wrong data without doing anything obviously
wrong", 2009). No statistic of two runs can know that: it is an allowance, DRIFT, measured on machines that share
their host (README, "Comparing runs"), and stated with each verdict.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log, sqrt
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from exitscope_probes.histogram import BUCKETS

from .profile import STAGES, Profile
from .quantiles import quantiles_ns, student_t

BLOCKS: Final = 24
RESAMPLES: Final = 2000
CONFIDENCE: Final = 0.95
SEED: Final = 20260101

DRIFT: Final = 0.15
"""Standard deviation of the logarithm of a run's median from run to run: 15 %."""

DRIFT_FACTOR: Final[Mapping[str, float]] = {"p50": 1.0, "rate": 1.0, "mean": 3.0, "p90": 3.0, "p99": 4.0}
"""Tails drift more than the median does: measured as DRIFT was."""

SMALLEST_EFFECT: Final = 0.10
"""A difference of a smaller share than this is called none, however sure it is."""

MIN_FAULTS: Final = 200
MIN_BLOCKS: Final = 8

QUANTILES: Final[Mapping[str, float]] = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


class Interval(NamedTuple):
    """A value and its confidence interval, all in the value's unit."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Blocks:
    """The active time of a run in n blocks.

    counts: (n, BUCKETS) faults by latency; lengths_ns: (n,) active time; stage_sums_ns: (n, 5).
    """

    counts: npt.NDArray[np.int64]
    lengths_ns: npt.NDArray[np.int64]
    stage_sums_ns: npt.NDArray[np.int64]

    @classmethod
    def of(cls, profile: Profile, wanted: int = BLOCKS) -> "Blocks":
        """Consecutive slots together; fewer blocks than wanted where there are fewer active slots."""
        active = np.flatnonzero(profile.active())
        count = min(wanted, len(active))
        if count == 0:
            return cls(np.zeros((0, BUCKETS), np.int64), np.zeros(0, np.int64), np.zeros((0, len(STAGES)), np.int64))
        starts = np.arange(count) * len(active) // count
        return cls(
            np.add.reduceat(profile.slots[active], starts, axis=0),
            np.add.reduceat(profile.slot_lengths_ns()[active], starts),
            np.add.reduceat(profile.slot_stage_sums_ns[active], starts, axis=0),
        )

    @property
    def enough(self) -> bool:
        """Whether intervals can be given at all."""
        return len(self.counts) >= MIN_BLOCKS and int(self.counts.sum()) >= MIN_FAULTS


@dataclass(frozen=True, slots=True)
class Estimate:
    """Figures of one run: name -> value, and the standard error of the value's logarithm.

    Names: p50 p90 p99 mean (ns), rate (faults per second of active time). stages: (5,) mean ns; stage_errors: (5,) ns.
    """

    values: dict[str, float]
    errors: dict[str, float]
    stages_ns: npt.NDArray[np.float64]
    stage_errors_ns: npt.NDArray[np.float64]
    blocks: int

    def interval(self, name: str, confidence: float = CONFIDENCE) -> Interval:
        """Of one figure: what the time within the run shows, without drift from run to run."""
        value, error = self.values[name], self.errors[name]
        width = _safe_exp(student_t(confidence, self.blocks - 1) * error)
        return Interval(value, value / width, value * width)


def estimate(blocks: Blocks, seed: int = SEED, resamples: int = RESAMPLES) -> Estimate:
    """Figures and their errors by the block bootstrap. blocks must be `enough`; the same seed, the same figures."""
    count = len(blocks.counts)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples).astype(np.float64)
    weights = np.concatenate([np.ones((1, count)), drawn])  # the first row is the run itself
    counts = weights @ blocks.counts
    faults = counts.sum(axis=1)
    stages = (weights @ blocks.stage_sums_ns) / np.maximum(faults, 1)[:, None]
    columns = dict(zip(QUANTILES, quantiles_ns(counts, tuple(QUANTILES.values())).T, strict=True))
    columns["mean"] = stages.sum(axis=1)
    columns["rate"] = faults / (weights @ blocks.lengths_ns) * 1e9
    # n blocks tell of n - 1 differences, and neighbouring ones are not wholly independent.
    widen = sqrt(count / (count - 1)) * _correlation_factor(blocks)
    errors = {name: float(np.nanstd(np.log(np.maximum(column[1:], 1e-9)))) * widen for name, column in columns.items()}
    return Estimate(
        {name: float(column[0]) for name, column in columns.items()},
        errors,
        stages[0],
        stages[1:].std(axis=0) * widen,
        count,
    )


def ratio(a: Estimate, b: Estimate, name: str, drift: float = DRIFT, confidence: float = CONFIDENCE) -> Interval:
    """b's figure in units of a's, with the drift from run to run allowed for."""
    between = drift * DRIFT_FACTOR[name]
    parts = ((a.errors[name], a.blocks - 1), (b.errors[name], b.blocks - 1))
    inside = sum(error**2 for error, _ in parts)
    variance = inside + 2 * between**2
    # Welch and Satterthwaite; the drift is given, not estimated: it costs no degree of freedom.
    spent = sum(error**4 / freedom for error, freedom in parts)
    freedom = variance**2 / spent if spent > 0 else float("inf")
    middle = log(b.values[name] / a.values[name])
    width = student_t(confidence, freedom) * sqrt(variance)
    return Interval(exp(middle), _safe_exp(middle - width), _safe_exp(middle + width))


def difference_ns(
    a: Estimate, b: Estimate, drift: float = DRIFT, confidence: float = CONFIDENCE
) -> list[tuple[float, float, float]]:
    """Mean of each stage, b less a, with its interval: ns. The drift of a mean applies to each side's stage."""
    between = drift * DRIFT_FACTOR["mean"]
    found = []
    for stage in range(len(STAGES)):
        mine, theirs = float(a.stages_ns[stage]), float(b.stages_ns[stage])
        errors = (a.stage_errors_ns[stage], b.stage_errors_ns[stage], between * mine, between * theirs)
        width = student_t(confidence, min(a.blocks, b.blocks) - 1) * sqrt(sum(float(e) ** 2 for e in errors))
        found.append((theirs - mine, theirs - mine - width, theirs - mine + width))
    return found


def _correlation_factor(blocks: Blocks) -> float:
    """How much wider than for independent blocks: sqrt((1 + r) / (1 - r)), r the lag-1 correlation of their medians."""
    medians = quantiles_ns(blocks.counts, (0.5,))[:, 0]
    medians = np.log(medians[np.isfinite(medians)])
    count = len(medians)
    if count < MIN_BLOCKS:
        return 1.0
    around = medians - medians.mean()
    power = float((around**2).sum())
    if power <= 0:
        return 1.0
    correlation = float((around[1:] * around[:-1]).sum()) / power
    correlation += (1 + 3 * max(correlation, 0)) / count  # it is estimated too low (Kendall 1954)
    correlation = min(max(correlation, 0.0), 0.8)
    return sqrt((1 + correlation) / (1 - correlation))


def _safe_exp(power: float) -> float:
    return exp(min(max(power, -50.0), 50.0))


def ecdf(counts: npt.NDArray[Any], points: int = 200) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(latency ns, share of faults that took at most so long), at most `points` each, of one histogram (BUCKETS,)."""
    total = float(counts.sum())
    if total <= 0:
        return np.empty(0), np.empty(0)
    shares = np.unique(np.concatenate([np.linspace(0.001, 0.99, points - 60), 1 - np.geomspace(0.01, 1 / total, 60)]))
    return quantiles_ns(counts, tuple(shares.tolist())), shares
