"""Carries out the plan, keeping what is finished at every moment."""

import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from exitscope_probes.procfs import KVM_VM, Proc

from .. import __version__, ownfiles, words
from ..recordings.conditions import cpu_model
from . import guest, summary, tracer
from .models import RunResult, Summary
from .plan import Run
from .published import SOURCE

_SETTLE_S: Final = 0.2
_IDLE_LOAD: Final = 1.0
_LOOK_MS: Final = 500
"""What the collector needs at most to see what a short-lived guest is made of."""


@dataclass(slots=True)
class Bench:
    """A bench in progress. directory: where its recordings and its JSON go; keep_all: keep every recording."""

    runs: Sequence[Run]
    directory: Path
    pages: int
    repeats: int
    seed: int
    keep_all: bool = False
    started_wall_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    results: list[RunResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    id: str = ""

    def __post_init__(self) -> None:
        self.id = self.id or "bench-" + time.strftime("%Y%m%d-%H%M%S", time.gmtime(self.started_wall_ms / 1000))

    @property
    def json_path(self) -> Path:
        """The summary, written anew after every run."""
        return self.directory / f"{self.id}.json"

    def measure(self, done: Callable[[Run], None]) -> None:
        """Make every run, calling done after each; an interruption keeps what is finished. Raises UserError."""
        program = guest.binary()
        ownfiles.make_directory(self.directory)
        load = os.getloadavg()[0]
        if load > _IDLE_LOAD:
            self.notes.append(
                f"The machine was busy before the first run (load average {load:.1f}): rates are lower than it can do."
            )
        others = 0
        try:
            for run in self.runs:
                others += bool(_other_vms())
                self.results.append(self._measure(program, run))
                self.write()
                done(run)
        finally:
            if others:
                self.notes.append(f"{words.counted(others, 'run')} made while another VM ran on this host: disturbed.")
            if self.results:
                self._thin_out()
                self.write()

    def summary(self) -> Summary:
        """What is known so far."""
        return Summary(
            id=self.id,
            version=__version__,
            host=platform.node(),
            kernel=platform.release(),
            cpus=os.cpu_count() or 1,
            cpu_model=cpu_model(),
            started_wall_ms=self.started_wall_ms,
            pages=self.pages,
            repeats=self.repeats,
            seed=self.seed,
            complete=len(self.results) == len(self.runs),
            planned=len(self.runs),
            drift=summary.drift(self.results),
            published=SOURCE,
            notes=self.notes,
            points=summary.points(self.results),
            runs=self.results,
        )

    def write(self) -> None:
        """The JSON, whole at every moment. Raises UserError if it cannot be written."""
        ownfiles.write(self.json_path, self.summary().model_dump_json(indent=1))

    def _measure(self, program: Path, run: Run) -> RunResult:
        result = RunResult(
            mode=run.point.mode,
            vcpus=run.point.vcpus,
            handlers=run.point.handlers,
            repeat=run.repeat,
            traced=run.traced,
            faults=0,
            wall_ns=0,
            rate_per_s=0,
        )
        with ExitStack() as stack:
            one = None
            if run.traced:
                place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="exitscope-bench-")))
                path = stack.enter_context(tracer.collecting(place))
                recording_id = f"{self.id}-{run.point.slug}-{run.repeat + 1}"
                name = f"bench {run.point.title}, repeat {run.repeat + 1}"
                one = stack.enter_context(tracer.recording(path, self.directory, recording_id, name))
            time.sleep(_SETTLE_S)
            measured = guest.run(program, run.point, self.pages, run.repeat + 1, _LOOK_MS if run.traced else 0)
        result.faults, result.wall_ns, result.rate_per_s = measured.faults, measured.wall_ns, measured.rate_per_s
        if one is not None and one.meta is not None:
            ownfiles.hand_over(one.path)
            result.recording, result.recorded = one.meta.id, one.meta.records
            result.loss = tracer.losses(one.meta)
        return result

    def _thin_out(self) -> None:
        """Keep one recording of each point."""
        if self.keep_all:
            return
        kept = {point.recording for point in summary.points(self.results)}
        for result in self.results:
            if result.recording is not None and result.recording not in kept:
                (self.directory / f"{result.recording}.parquet").unlink(missing_ok=True)
                result.recording = None


def _other_vms() -> list[int]:
    """Processes that hold a VM open."""
    proc = Proc()
    return [pid for pid in proc.pids() if KVM_VM in (proc.fd_links(pid) or {}).values()]
