"""A migration's report as one self-contained HTML file."""

from datetime import UTC, datetime

from .. import report as page
from .. import words
from . import figures, text
from .models import MigrationReport

_BAD = ("failed", "active")


def html(report: MigrationReport) -> str:
    """The whole file. Raises UserError if plotly.js is not installed."""
    made = page.Report(f"{report.vm_name}: {report.kind} migration")
    made.parts += [
        page.heading(f"{report.kind.capitalize()} of {report.vm_name}", 1),
        page.paragraph(_about(report), "muted"),
        page.banner(report.sentence, "bad" if report.state in _BAD else "plain", report.details),
        *figures.all_of(report),
    ]
    for table in text.tables(report):
        if table.rows:
            made.parts += [page.heading(table.title), page.table(table.headings, table.rows)]
        if table.title == text.REQUESTS:
            made.parts.append(page.bullets(report.requests.why))
        elif table.title == text.ACCOUNT:
            made.parts.append(page.bullets(report.account.why))
    for title, sentences in (("What is not known", report.unknown), ("How it is known", report.evidence)):
        if sentences:
            made.parts += [page.heading(title), page.bullets(sentences)]
    return made.html()


def _about(report: MigrationReport) -> str:
    began = datetime.fromtimestamp(report.started_wall_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    known = "QEMU said so" if report.how == "qmp" else "recognised from what the kernel shows"
    return (
        f"Began {began} on {report.host or 'a host without a name'}, lasted {words.duration(report.length_ns)}; "
        f"{report.state}; {report.role}; {known}. Recording {report.recording_name or report.recording}."
    )
