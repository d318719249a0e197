"""The sentences that the figures carry: which run is faster, by how much, how sure that is, and why."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

from .. import words
from .models import Bounds, Difference, Figure, Run, Stage, Verdict
from .statistics import CONFIDENCE, MIN_BLOCKS, MIN_FAULTS, SMALLEST_EFFECT, Interval

Outcome = Literal["a_faster", "b_faster", "no_difference", "refused", "not_enough"]
_CONFIDENCE: Final = words.percent(CONFIDENCE)
_REMARKABLE: Final = 0.2
"""A stage that differs by so much of the whole fault is told even where the wholes do not differ."""


def of(
    a: Run,
    b: Run,
    rate: Figure | None,
    latency: Mapping[str, Figure],
    stages: Sequence[Stage],
    differences: Sequence[Difference],
    force: bool,
    drift: float,
) -> Verdict:
    """The verdict is on the median, chosen beforehand; tails and rate are told, and decide nothing."""
    median = latency.get("p50")
    if rate is None or median is None:
        return _verdict("not_enough", _too_little(a, b))
    details = [_allowance(median, drift), *_tails(a, b, latency), _rates(a, b, rate)]
    if stages:
        details.append(explanation(stages, a, b) if median.differs else composition(stages, a, b))
    unfair = list(dict.fromkeys(difference.condition for difference in differences if difference.unfair))
    if unfair and not force:
        sentence = (
            f"No winner is called, because the conditions make it unfair ({', '.join(unfair)}): "
            f"{_both(a, b, median)} at the median, at {_CONFIDENCE} confidence."
        )
        return _verdict("refused", sentence, details)
    outcome, sentence = _median(a, b, median, rate)
    if unfair:
        sentence = f"Unfair, and forced ({', '.join(unfair)}): {sentence}"
    return _verdict(outcome, sentence, details, forced=bool(unfair))


def _verdict(outcome: Outcome, sentence: str, details: Sequence[str] = (), forced: bool = False) -> Verdict:
    return Verdict(outcome=outcome, sentence=sentence, details=[line for line in details if line], forced=forced)


def _too_little(a: Run, b: Run) -> str:
    sides = " and ".join(
        f"{run.title} has {words.counted(run.faults, 'fault')} in {words.counted(run.blocks, 'block')}"
        for run in (a, b)
    )
    return (
        f"Too little to compare: {sides}; at least {MIN_FAULTS} faults in {MIN_BLOCKS} blocks of time are "
        "needed on each side."
    )


def _median(a: Run, b: Run, median: Figure, rate: Figure) -> tuple[Outcome, str]:
    if not median.differs:
        return "no_difference", (
            f"No difference beyond the drift from run to run at the median, at {_CONFIDENCE} confidence: "
            f"{_both(a, b, median)}; B takes {_range(median.ratio)} A's time."
        )
    factor = median.ratio.value
    faster, slower, times = (b, a, 1 / factor) if factor < 1 else (a, b, factor)
    mine, theirs = (median.b, median.a) if factor < 1 else (median.a, median.b)
    return ("b_faster" if factor < 1 else "a_faster"), (
        f"{faster.title} finishes faults {words.factor(times)} faster than {slower.title} at the median: "
        f"{words.interval(_interval(mine))} against {words.interval(_interval(theirs))}, at {_CONFIDENCE} confidence"
        f"{_against(faster, factor, rate)}."
    )


def _against(faster: Run, factor: float, rate: Figure) -> str:
    """The one whose median fault is shorter may still get through fewer faults: said in the same breath."""
    mine, theirs = (rate.b.value, rate.a.value) if factor < 1 else (rate.a.value, rate.b.value)
    if theirs < mine * (1 + SMALLEST_EFFECT):
        return ""
    sure = "" if rate.differs else " (within the drift)"
    return (
        f"; yet {faster.title} gets through fewer faults per second of active time, {words.rate(mine)} against "
        f"{words.rate(theirs)}{sure}"
    )


def _both(a: Run, b: Run, figure: Figure) -> str:
    return (
        f"{words.interval(_interval(figure.a))} in {a.title} against {words.interval(_interval(figure.b))} in {b.title}"
    )


def _allowance(median: Figure, drift: float) -> str:
    low, high = _ends(median.ratio)
    if median.ratio.value < 1:
        low, high = 1 / high, 1 / low
    return (
        f"With a drift of {words.percent(drift)} from run to run allowed for, the factor between the medians lies "
        f"between {words.factor(low)} and {words.factor(high)}; the intervals of each run alone leave it out."
    )


def _tails(a: Run, b: Run, latency: Mapping[str, Figure]) -> list[str]:
    lines = []
    for name in ("p90", "p99"):
        figure = latency[name]
        if not figure.differs:
            lines.append(f"At {name} no difference is shown: {_both(a, b, figure)}.")
            continue
        factor = figure.ratio.value
        shorter, times = (b, 1 / factor) if factor < 1 else (a, factor)
        lines.append(f"At {name} {shorter.title} is {words.factor(times)} faster: {_both(a, b, figure)}.")
    return lines


def _rates(a: Run, b: Run, rate: Figure) -> str:
    return (
        f"Faults per second of active time: {words.rate(rate.a.value)} in {a.title}, "
        f"{words.rate(rate.b.value)} in {b.title}."
    )


def explanation(stages: Sequence[Stage], a: Run, b: Run) -> str:
    """Which stage makes the most of the difference between the two median faults."""
    total = sum(stage.difference_ns for stage in stages)
    whole = max(sum(stage.a_ns for stage in stages), sum(stage.b_ns for stage in stages))
    if abs(total) < 0.02 * whole:
        return "Their median faults are made of stages of about the same lengths."
    same_way = sorted(
        (stage for stage in stages if stage.difference_ns * total > 0), key=lambda stage: -abs(stage.difference_ns)
    )
    slower = b if total > 0 else a
    parts = " and ".join(
        f"{_stage_name(stage, slower)} ({words.duration(abs(stage.difference_ns))}, "
        f"{words.percent(stage.difference_ns / total)})"
        for stage in same_way[:2]
        if stage.difference_ns / total >= 0.1
    )
    other_way = [
        stage for stage in stages if stage.difference_ns * total < 0 and abs(stage.difference_ns / total) > 0.1
    ]
    against = "".join(
        f"; {_stage_name(stage, slower)} goes the other way by {words.duration(abs(stage.difference_ns))}"
        for stage in other_way
    )
    return (
        f"Of the {words.duration(abs(total))} that the median fault of {slower.title} takes longer, most is "
        f"{parts}{against}."
    )


def composition(stages: Sequence[Stage], a: Run, b: Run) -> str:
    """Where two median faults of about the same length spend it differently; empty if they do not."""
    whole = max(sum(stage.a_ns for stage in stages), sum(stage.b_ns for stage in stages))
    apart = [stage for stage in stages if abs(stage.difference_ns) >= _REMARKABLE * whole]
    if not apart or not any(stage.difference_ns > 0 for stage in apart):
        return ""
    parts = ", ".join(
        f"{_stage_name(stage, b if stage.difference_ns > 0 else a)} {words.duration(stage.a_ns)} in A and "
        f"{words.duration(stage.b_ns)} in B"
        for stage in apart
    )
    return f"Yet the median faults are made of different stages: {parts}."


def _stage_name(stage: Stage, slower: Run) -> str:
    if "/" not in stage.stage:
        return stage.stage
    return {"uffd": "wake", "async": "wake", "exit": "reenter", "memory_fault": "reenter"}.get(slower.mode, stage.stage)


def _ends(bounds: Bounds) -> tuple[float, float]:
    low = bounds.value if bounds.low is None else bounds.low
    high = bounds.value if bounds.high is None else bounds.high
    return low, high


def _interval(bounds: Bounds) -> Interval:
    return Interval(bounds.value, *_ends(bounds))


def _range(ratio: Bounds) -> str:
    low, high = _ends(ratio)
    return f"{words.factor(ratio.value)} [{words.factor(low)}, {words.factor(high)}]"
