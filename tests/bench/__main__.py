"""The figures of the README, measured on this machine: python -m tests.bench [FIGURE…]."""

import importlib
import os
import platform
import sys
import time
from pathlib import Path

import click

from exitscope_probes.errors import ProbeError
from tests import tracefs
from tests.bench.figure import BenchError, Effort, Row
from tests.bench.guests import disturbances, load_average
from tests.bench.table import as_markdown, as_text, update

FIGURES = ("cost", "strategies", "rate", "migration", "ring", "load", "start", "recording", "verdict", "kills")
README = Path(__file__).parents[2] / "README.md"


@click.command()
@click.argument("figures", nargs=-1, type=click.Choice(FIGURES))
@click.option("--quick", is_flag=True, help="Few and small repeats: to see that all works.")
@click.option("--markdown", is_flag=True, help="Print the table as Markdown.")
@click.option("--update-readme", is_flag=True, help="Also keep the table in the README.")
def main(figures: tuple[str, ...], quick: bool, markdown: bool, update_readme: bool) -> None:
    """Measure the figures named, or all of them."""
    if os.geteuid() != 0:
        sys.exit("bench: run it as root: it loads BPF programs")
    tracefs.provide()
    notes = [_conditions()]
    if Path("/proc/sys/kernel/bpf_stats_enabled").read_text().strip() != "0":
        notes.append("kernel.bpf_stats_enabled was on, which slows every tracer: `sysctl kernel.bpf_stats_enabled=0`.")
    rows: list[Row] = []
    for figure in figures or FIGURES:
        started = time.monotonic()
        rows += _measure(figure, Effort(quick))
        print(f"bench: {figure} took {time.monotonic() - started:.0f} s", file=sys.stderr)
    if disturbances:
        notes.append(f"{len(disturbances)} measurements were taken while another VM ran: they are disturbed.")
    shown = as_markdown(rows, notes)
    print(shown if markdown else "\n".join((as_text(rows), *notes)))
    if update_readme:
        update(README, shown)


def _measure(figure: str, effort: Effort) -> list[Row]:
    try:
        module = importlib.import_module(f"tests.bench.{figure}")
        return list(module.rows(effort))
    except (BenchError, ProbeError) as error:
        return [Row(figure, f"not measured: {error}", met=False)]


def _conditions() -> str:
    """What the reader must know about this machine and moment."""
    return (
        f"Medians (lowest–highest) of interleaved repeats on {os.cpu_count()} × {_processor()}, "
        f"Linux {platform.release()}, load {load_average():.1f} before the run."
    )


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
