"""A comparison as tables: for the terminal, and for the report."""

from collections.abc import Callable

from .. import words
from ..tables import Table, columns
from ..terminal import joined
from .models import Bounds, Comparison, Figure
from .statistics import Interval


def figures(comparison: Comparison) -> Table:
    """Rate and latency of both runs."""
    rows = []
    if comparison.rate:
        rows.append(_row("faults per second", comparison.rate, words.rate, _plain(words.rate)))
    rows += [_row(name, figure, words.duration, words.interval) for name, figure in comparison.latency_ns.items()]
    return Table("Figures", ("", comparison.a.title, comparison.b.title, "B / A", "differs"), rows)


def stages(comparison: Comparison) -> Table:
    """Stage by stage: the median fault, and the mean over all."""
    rows = [
        (
            stage.stage,
            words.duration(stage.a_ns),
            words.duration(stage.b_ns),
            _signed(stage.difference_ns),
            words.duration(stage.mean_a_ns),
            words.duration(stage.mean_b_ns),
            _signed_bounds(stage.mean_difference_ns),
        )
        for stage in comparison.stages
    ]
    headings = ("stage", "A: median fault", "B: median fault", "B − A", "A: mean", "B: mean", "B − A [interval]")
    return Table("Stage by stage", headings, rows)


def counts(comparison: Comparison) -> Table:
    """Exit reasons and fills."""
    rows = [(f"exit {name}", words.count(pair.a), words.count(pair.b)) for name, pair in comparison.exits.items()]
    rows += [
        (f"hardware exit {name}", words.count(pair.a), words.count(pair.b))
        for name, pair in comparison.hardware_exits.items()
    ]
    rows += [(f"{name} fills", words.count(pair.a), words.count(pair.b)) for name, pair in comparison.fills.items()]
    return Table("Exit reasons and fills", ("", comparison.a.title, comparison.b.title), rows)


def conditions(comparison: Comparison) -> Table:
    """What differs between the runs."""
    rows = [
        (one.condition, _short(one.a), _short(one.b), "unfair" if one.unfair else "fair", one.why)
        for one in comparison.differences
    ]
    same = len(comparison.conditions_checked) - len({one.condition for one in comparison.differences})
    differ = f"{words.counted(len(rows), 'difference')}, " if rows else "all "
    title = f"Conditions: {differ}{same} the same"
    return Table(title, ("condition", "A", "B", "", "why"), rows, [one.unfair for one in comparison.differences])


def terminal(comparison: Comparison) -> str:
    """All of it as text."""
    lines = [comparison.verdict.sentence, *(f"  {line}" for line in comparison.verdict.details)]
    for letter, run in (("A", comparison.a), ("B", comparison.b)):
        lines.append(f"  {letter}: {run.name}, {words.counted(run.faults, 'fault')} in {words.duration(run.active_ns)}")
    for table in (figures(comparison), stages(comparison), counts(comparison), conditions(comparison)):
        lines += ["", table.title, *columns(table)]
    return joined(lines)


def _row(
    name: str, figure: Figure, value: Callable[[float], str], whole: Callable[[Interval], str]
) -> tuple[str, str, str, str, str]:
    return (
        name,
        _bounds(figure.a, value, whole),
        _bounds(figure.b, value, whole),
        _bounds(figure.ratio, words.factor, _plain(words.factor)),
        "" if figure.ratio.low is None else "yes" if figure.differs else "no",
    )


def _bounds(bounds: Bounds, value: Callable[[float], str], whole: Callable[[Interval], str]) -> str:
    if bounds.low is None or bounds.high is None:
        return value(bounds.value)
    return whole(Interval(bounds.value, bounds.low, bounds.high))


def _plain(value: Callable[[float], str]) -> Callable[[Interval], str]:
    return lambda of: f"{value(of.value)} [{value(of.low)}, {value(of.high)}]"


def _signed(ns: float) -> str:
    return f"{'+' if ns >= 0 else '−'}{words.duration(abs(ns))}"


def _signed_bounds(bounds: Bounds) -> str:
    if bounds.low is None or bounds.high is None:
        return _signed(bounds.value)
    return f"{_signed(bounds.value)} [{_signed(bounds.low)}, {_signed(bounds.high)}]"


def _short(text: str, longest: int = 160) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
