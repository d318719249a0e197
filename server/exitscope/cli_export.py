"""`exitscope export` and `exitscope summary`: what is in a recording, from the command line."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from exitscope_probes.output import writing

from .errors import UserError
from .settings import takes
from .terminal import shown

if TYPE_CHECKING:
    from .recordings.file import RecordingFile

_FORMATS = ("json", "csv", "parquet", "arrow", "perfetto")
_TEXT = ("json", "csv")

_part = (
    click.option("--vm", help="Only the VM with this id."),
    click.option("--from", "from_s", type=click.FloatRange(0), help="Only from so many seconds after its begin on."),
    click.option("--to", "to_s", type=click.FloatRange(0), help="Only until so many seconds after its begin."),
)


@takes("recordings")
@click.command()
@click.argument("recording")
@click.option("--format", type=click.Choice(_FORMATS), default="json", show_default=True, help="perfetto: a trace.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="File to write. [default: stdout]"
)
@_part[0]
@click.option("--vcpu", type=int, multiple=True, help="Only this vCPU; -1: other threads. May be given several times.")
@click.option("--mode", type=click.Choice(("uffd", "exit", "memory_fault", "async")), multiple=True, help="Likewise.")
@_part[1]
@_part[2]
@click.option("--min-latency-ns", type=click.IntRange(0), help="Only faults at least so long.")
@click.option("--max-latency-ns", type=click.IntRange(0), help="Only faults at most so long.")
@click.option("--limit", type=click.IntRange(1), help="At most so many faults.")
@click.option("--offset", type=click.IntRange(0), default=0, help="Leave out so many at the begin.")
def export(
    recordings: str | None,
    recording: str,
    format: str,
    output: Path | None,
    vm: str | None,
    vcpu: tuple[int, ...],
    mode: tuple[str, ...],
    from_s: float | None,
    to_s: float | None,
    **bounds: Any,
) -> None:
    """Take away the faults of RECORDING, a file or an id, in another format."""
    from .export.formats import FORMATS
    from .query.engine import Engine
    from .query.faults import Filters

    file = _find(recording, recordings, vm)
    from_ns, to_ns = _moments(file, from_s, to_s)
    filters = Filters(vm, vcpu, mode, from_ns, to_ns, **bounds)
    if output is None and format not in _TEXT and sys.stdout.isatty():
        raise UserError(f"{format} is not for a terminal: use -o FILE")
    with Engine(Path(file.path).parent) as engine, _target(output, file) as target:
        plain = output is None and sys.stdout.isatty()
        for chunk in FORMATS[format].stream(engine, file, filters):
            target.write(shown(chunk.decode(errors="replace")).encode() if plain else chunk)


@takes("recordings")
@click.command()
@click.argument("recording")
@click.option("--json", "as_json", is_flag=True, help="As JSON, all figures.")
@_part[0]
@_part[1]
@_part[2]
def summary(
    recordings: str | None, recording: str, as_json: bool, vm: str | None, from_s: float | None, to_s: float | None
) -> None:
    """What RECORDING, a file or an id, comes down to: latencies, stages, vCPUs, exits, slowest faults, migrations."""
    from .query.engine import Engine
    from .query.summary import summary as summarize
    from .query.text import migrations, terminal

    file = _find(recording, recordings, vm)
    with Engine(Path(file.path).parent) as engine:
        found = summarize(engine, file, vm, *_moments(file, from_s, to_s))
    of_vm = [one for one in file.meta.migrations if vm in (None, one.vm)]
    if as_json:
        found["migrations"] = [one.model_dump(exclude={"samples"}) for one in of_vm]
        click.echo(json.dumps(found))
    else:
        click.echo("\n\n".join(part for part in (terminal(found), migrations(of_vm)) if part))


def _find(name: str, directory: str | None, vm: str | None) -> "RecordingFile":
    from .recordings.shelf import find

    file = find(name, directory)
    if vm is not None and file.meta.vm(vm) is None:
        known = ", ".join(one.id for one in file.meta.vms) or "none"
        raise UserError(f"no VM {vm} in {name}: it has {known}")
    return file


def _moments(file: "RecordingFile", from_s: float | None, to_s: float | None) -> tuple[int | None, int | None]:
    """Seconds since the recording's begin as moments of its clock, ns."""
    if from_s is not None and to_s is not None and to_s <= from_s:
        raise click.BadParameter("it must be after --from", param_hint="--to")
    start_ns = file.meta.started_ns
    from_ns, to_ns = (None if seconds is None else start_ns + round(seconds * 1e9) for seconds in (from_s, to_s))
    return from_ns, to_ns


@contextmanager
def _target(output: Path | None, file: "RecordingFile") -> Iterator[BinaryIO]:
    """Where to write. Raises UserError."""
    if output is None:
        yield sys.stdout.buffer
        return
    if output.exists() and output.samefile(file.path):
        raise UserError(f"{output} is the recording itself: choose another -o FILE")
    with writing(output) as target:
        yield target
