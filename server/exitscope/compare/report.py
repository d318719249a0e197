"""A comparison as one self-contained HTML file."""

from datetime import UTC, datetime

from .. import report, words
from . import figures, text
from .models import Comparison, Run

_KINDS = {"a_faster": "good", "b_faster": "good", "no_difference": "plain", "refused": "bad", "not_enough": "bad"}


def html(comparison: Comparison) -> str:
    """The whole file."""
    verdict = comparison.verdict
    page = report.Report(f"{comparison.a.name} against {comparison.b.name}")
    page.parts += [
        report.heading("Two recordings compared", 1),
        *(report.paragraph(_about(letter, run), "muted") for letter, run in (("A", comparison.a), ("B", comparison.b))),
        report.banner(verdict.sentence, "bad" if verdict.forced else _KINDS[verdict.outcome], verdict.details),
        *figures.all_of(comparison),
    ]
    for table in (
        text.conditions(comparison),
        text.figures(comparison),
        text.stages(comparison),
        text.counts(comparison),
    ):
        page.parts.append(report.heading(table.title))
        if table.rows:
            page.parts.append(report.table(table.headings, table.rows, table.marked, words_only=bool(table.marked)))
    page.parts += [report.heading("How this was found"), report.paragraph(_method(comparison))]
    return page.html()


def _about(letter: str, run: Run) -> str:
    began = datetime.fromtimestamp(run.started_wall_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    modes = ", ".join(f"{mode} {words.count(count)}" for mode, count in run.modes.items()) or "none"
    return (
        f"{letter}: {run.name}{f', VM {run.vm}' if run.vm else ''}. Began {began}, lasted "
        f"{words.duration(run.duration_ns)}, of that {words.duration(run.active_ns)} with faults. "
        f"Faults by mode: {modes}; vCPUs: {run.vcpus}."
    )


def _method(comparison: Comparison) -> str:
    return (
        f"Intervals hold at {words.percent(comparison.confidence)} confidence. They come from a bootstrap over "
        f"{comparison.a.blocks} and {comparison.b.blocks} blocks of active time (seed {comparison.seed}), because "
        "neighbouring faults resemble each other; what resemblance is left between blocks widens them. "
        "Two runs of the same thing differ by more than their inside shows: ratios allow for a standard deviation of "
        f"{words.percent(comparison.drift)} of the median from run to run, and more of the tails. The verdict is on "
        f"the median; a difference of less than {words.percent(comparison.smallest_effect)} is called none. "
        "The longest fault is one fault, so it has no interval. Conditions that were looked at: "
        f"{', '.join(comparison.conditions_checked)}."
    )
