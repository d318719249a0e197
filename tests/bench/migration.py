"""How much longer the postcopy phase of a real migration takes when it is traced, by QEMU's own clock."""

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.figure import BenchError, Effort, Row, Spread
from tests.bench.guests import settle, undisturbed
from tests.bench.tracers import AGAIN, BPFTRACE, COMPARED, OURS, UNTRACED, turns
from tests.kernel.migration import Migration, Plan

ROUNDS = 9
TARGET = 1.05
_VCPUS = 2  # with the threads that send, place and ask for pages, as many as there are processors
_MIB = 1 << 20
_SIZES_MIB = {"unthrottled": 512, "throttled to 8 MB/s": 16}
_QUICK_MIB = 64


def rows(effort: Effort) -> Iterator[Row]:
    taken: dict[tuple[str, str], list[float]] = defaultdict(list)
    for name, tracer in turns(effort.rounds(ROUNDS)):
        with tracer:
            settle()
            for speed in _SIZES_MIB:
                taken[name, speed].append(undisturbed(partial(_postcopy_s, _plan(speed, effort))))
    for speed in _SIZES_MIB:
        untraced = taken[UNTRACED, speed]
        ratios = {name: _ratios(taken[name, speed], untraced) for name in COMPARED}
        for name in OURS:
            yield Row(
                f"postcopy phase traced / untraced, {_VCPUS} vCPUs, {speed}, {name}",
                f"{ratios[name]:.3f}",
                f"≤ {TARGET}",
                ratios[name].middle <= TARGET,
                f"bpftrace {ratios[BPFTRACE]:.3f}; untraced {Spread.of(untraced):.2f} s, again {ratios[AGAIN]:.3f}",
            )


def _plan(speed: str, effort: Effort) -> Plan:
    size_mib = min(_SIZES_MIB[speed], _QUICK_MIB) if effort.quick else _SIZES_MIB[speed]
    if speed == "unthrottled":
        return Plan(vcpus=_VCPUS, first_bytes_per_s=0, blocktime=False, memory_mib=size_mib)
    return Plan(vcpus=_VCPUS, bytes_per_s=8 * _MIB, blocktime=False, memory_mib=size_mib)


def _postcopy_s(plan: Plan) -> float:
    """Of one migration. Raises BenchError if it fails."""
    with TemporaryDirectory(prefix="exitscope-bench-") as directory, Migration(plan, Path(directory)) as migration:
        migration.start()
        if (status := migration.finish().status) != "completed":
            raise BenchError(f"the migration {status}: {migration.source.log().strip()[-300:]}")
        return migration.postcopy_s()


def _ratios(traced: list[float], untraced: list[float]) -> Spread:
    """Of the same round."""
    return Spread.of([mine / theirs for mine, theirs in zip(traced, untraced, strict=True)])
