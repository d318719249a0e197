"""`exitscope compare`: two recordings held against each other."""

import json
from pathlib import Path

import click

from exitscope_probes.output import write

from .settings import takes

_DRIFT_PERCENT = 15.0


@takes("recordings")
@click.command()
@click.argument("a")
@click.argument("b")
@click.option("--json", "as_json", is_flag=True, help="As JSON, all figures.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Also write a report: one file.")
@click.option("--force", is_flag=True, help="Call a winner although the conditions are unfair; it is marked.")
@click.option("--vm-a", help="Only this VM of A.")
@click.option("--vm-b", help="Only this VM of B.")
@click.option(
    "--drift",
    default=_DRIFT_PERCENT,
    show_default=True,
    type=click.FloatRange(0, 100),
    metavar="PERCENT",
    help="How much the median varies from run to run on this machine (`exitscope bench` measures it).",
)
def compare(
    recordings: str | None,
    a: str,
    b: str,
    as_json: bool,
    html: Path | None,
    force: bool,
    vm_a: str | None,
    vm_b: str | None,
    drift: float,
) -> None:
    """Hold recording B against A: which is faster, by how much, how sure that is, and why.

    A and B are files, or ids of recordings in the recordings directory.
    """
    from .compare import report, text
    from .compare.comparison import compare as compare_files
    from .recordings.shelf import find

    first, second = (find(one, recordings) for one in (a, b))
    comparison = compare_files(first, second, force=force, vm_a=vm_a, vm_b=vm_b, drift=drift / 100)
    if html is not None:
        write(html, report.html(comparison))
    if as_json:
        click.echo(json.dumps(comparison.model_dump(), indent=2, allow_nan=False))
    else:
        click.echo(text.terminal(comparison))
