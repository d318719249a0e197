"""`exitscope bench`: the kernel series' experiment on this machine."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click

from exitscope_probes.output import write

from . import words
from .errors import UserError
from .settings import default_recordings, takes

_PAGES = 32_000
_REPEATS = 5
_QUICK_PAGES = 4_000
_QUICK_REPEATS = 2
_QUICK_VCPUS = (1, 2, 4)
_MAX_VCPUS = 256
_MAX_HANDLERS = 64


class _Numbers(click.ParamType[tuple[int, ...]]):
    """Whole numbers parted by commas, as 1,2,4."""

    name = "list"

    def __init__(self, low: int, high: int, word: str | None = None) -> None:
        self.low, self.high, self.word = low, high, word

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """0 stands for the word."""
        if isinstance(value, tuple):
            return value
        numbers = []
        for part in str(value).split(","):
            text = part.strip()
            number = 0 if self.word and text == self.word else int(text) if text.isdecimal() else -1
            if number != 0 and not self.low <= number <= self.high:
                self.fail(f"{part!r} is not a number from {self.low} to {self.high}", param, ctx)
            if number == 0 and text != self.word:
                self.fail(f"{part!r} is not a number from {self.low} to {self.high}", param, ctx)
            numbers.append(number)
        return tuple(dict.fromkeys(numbers))


@takes("recordings", "socket")
@click.command()
@click.option("--vcpus", type=_Numbers(1, _MAX_VCPUS), help="vCPUs to measure. [default: 1,2,4,8,16,32,64]")
@click.option(
    "--mode", "modes", type=click.Choice(["uffd", "exit", "both"]), default="both", show_default=True, help="Modes."
)
@click.option(
    "--handlers",
    type=_Numbers(1, _MAX_HANDLERS, "auto"),
    default="auto",
    show_default=True,
    help="Handler threads of uffd mode; auto: one per vCPU, at most one per CPU.",
)
@click.option(
    "--pages", type=click.IntRange(200, 10_000_000), help=f"Pages that each guest touches. [default: {_PAGES}]"
)
@click.option("--repeats", type=click.IntRange(1, 1000), help=f"Runs of each point. [default: {_REPEATS}]")
@click.option("--seed", default=1, show_default=True, help="Of the random order of the runs.")
@click.option("--quick", is_flag=True, help="Few and short runs: to see that all works.")
@click.option("--untraced", is_flag=True, help="Only the untraced half: needs no root, makes no recordings.")
@click.option("--keep-all", is_flag=True, help="Keep every recording, not one per point.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Also write the report here.")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of recordings, JSON and report. [default: --recordings, where the page lists them]",
)
def bench(
    recordings: str | None,
    socket: str,
    vcpus: tuple[int, ...] | None,
    modes: str,
    handlers: tuple[int, ...],
    pages: int | None,
    repeats: int | None,
    seed: int,
    quick: bool,
    untraced: bool,
    keep_all: bool,
    as_json: bool,
    html: Path | None,
    output: Path | None,
) -> None:
    """Measure fault rates of uffd and exit mode by number of vCPUs, traced and untraced.

    Runs real guests in random order, several times each. Leaves a JSON summary, a report, and a recording of each
    point, which the page lists. Ctrl-C keeps what is finished.
    """
    from . import ownfiles
    from .bench import plan, report, tracer
    from .bench.runner import Bench

    if not untraced and os.geteuid() != 0:
        raise UserError("the traced half needs root: run it with sudo, or add --untraced")
    tracer.refuse_other_collector(socket)
    points = plan.points(
        vcpus or (_QUICK_VCPUS if quick else plan.DEFAULT_VCPUS),
        plan.MODES if modes == "both" else (modes,),
        handlers,
        os.cpu_count() or 1,
    )
    repeats = repeats or (_QUICK_REPEATS if quick else _REPEATS)
    runs = plan.schedule(points, repeats, (False,) if untraced else (False, True), seed)
    directory = output or Path(recordings or default_recordings())
    made = Bench(runs, directory, pages or (_QUICK_PAGES if quick else _PAGES), repeats, seed, keep_all)
    interrupted = False
    with _interruptible():
        try:
            progress: Any  # click's is generic over items that it is not given here
            with click.progressbar(
                length=len(runs),
                label=words.counted(len(points), "point"),
                item_show_func=lambda run: run.title if run else "",
                file=sys.stderr,
                show_pos=True,
            ) as progress:
                made.measure(lambda run: progress.update(1, run))
        except KeyboardInterrupt:
            interrupted = True
    if not made.results:
        raise UserError("interrupted before the first run was finished: nothing is kept")
    summary = made.summary()
    page = directory / f"{made.id}.html"
    shown = report.html(summary)
    ownfiles.write(page, shown)
    if html is not None:
        write(html, shown)
    click.echo(summary.model_dump_json(indent=1, ensure_ascii=True) if as_json else report.terminal(summary))
    click.echo(f"exitscope: kept in {directory}: {made.json_path.name}, {page.name} and recordings", err=True)
    if interrupted:
        raise UserError(f"interrupted: {len(made.results)} of {len(runs)} runs are finished, and kept")


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP end the bench as Ctrl-C does: nothing is left running."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
