"""`exitscope migration`: the report of a migration in a recording."""

from pathlib import Path

import click

from exitscope_probes.output import write

from .settings import takes


@takes("recordings")
@click.command()
@click.argument("recording")
@click.option(
    "--migration", "number", type=click.IntRange(0), help="Which one, from 0. [default: that with most faults]"
)
@click.option("--json", "as_json", is_flag=True, help="As JSON, all figures.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Also write a report: one file.")
def migration(recordings: str | None, recording: str, number: int | None, as_json: bool, html: Path | None) -> None:
    """What happened in a migration of RECORDING, a file or an id: how long which vCPUs stood still, when, and why.

    Beside it stands QEMU's own account, as far as it was followed.
    """
    from .migration_report import html as page
    from .migration_report import text
    from .migration_report.report import default_number, report
    from .query.engine import Engine
    from .recordings.shelf import find

    file = find(recording, recordings)
    with Engine(Path(file.path).parent) as engine:
        found = report(engine, file, default_number(file.meta.migrations) if number is None else number)
    if html is not None:
        write(html, page.html(found))
    click.echo(found.model_dump_json(indent=2, ensure_ascii=True) if as_json else text.terminal(found))
