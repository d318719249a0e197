"""A large recording: its percentiles over all of it and over parts, its export as CSV, the server's memory meanwhile.

EXITSCOPE_BENCH_RECORDS: how many records, 100 million (1.5 GB) if not given. They are made up, and deleted afterwards.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from exitscope.query.models import RecordingSummary
from exitscope.recordings.columns import SCHEMA, to_table
from exitscope.recordings.file import ROW_GROUP, RecordingWriter
from exitscope.recordings.meta import RecordedVcpu, RecordedVm, RecordingMeta
from exitscope_probes.records import FAULT_DTYPE, SEEN_ACCESS, SEEN_FILL, SEEN_READ, SEEN_SLEEP
from tests.bench.figure import BenchError, Effort, Row, Spread
from tests.bench.tracers import EXITSCOPE, process, said, wait_for

RECORDS = int(os.environ.get("EXITSCOPE_BENCH_RECORDS", "100000000"))
EXPORTED = 20_000_000
ROUNDS = 3
PARTS = 5
PERCENTILES_S = 1.0
EXPORT_SHARE = 0.5
MEMORY_MB = 500
VCPUS = 64
_BASES = 8
_INTERVAL_NS = 10_000
_BEGIN_NS = ROW_GROUP * _INTERVAL_NS
_SECOND_NS = 1_000_000_000
_MEAN_NS = {"raise_ns": 1_800, "notify_ns": 4_000, "serve_ns": 25_000, "fill_ns": 3_500, "finish_ns": 6_000}
_ID = "bench"
_VM = "4001-77"
_COPY = """
import sys, time, duckdb
from exitscope.query.faults import Filters, select
from exitscope.recordings.file import RecordingFile
query = select(RecordingFile.open(sys.argv[1]), Filters(limit=int(sys.argv[2])))
begin = time.monotonic()
copy = f"COPY ({query.text}) TO '/dev/null' (FORMAT csv, USE_TMP_FILE false)"
duckdb.connect(config={"threads": 4}).execute(copy, query.values)
print(time.monotonic() - begin)
"""
"""The same rows, with all the memory that DuckDB wants."""


def rows(effort: Effort) -> Iterator[Row]:
    records = RECORDS // 10 if effort.quick else RECORDS
    with TemporaryDirectory(prefix="exitscope-bench-", dir="/var/tmp") as directory:
        Path(directory).chmod(0o755)
        path = Path(directory) / f"{_ID}.parquet"
        generate(path, records)
        path.chmod(0o644)
        exported = min(EXPORTED, records)
        with _server(Path(directory)) as (server, base):
            first_s = _summary(base, records)
            nearly_s, parts_s, exports, copies = [], [], [], []
            random = np.random.default_rng(1)
            span_ns = records * _INTERVAL_NS
            for _ in range(effort.rounds(ROUNDS)):
                for _ in range(PARTS):
                    cut_ns = int(random.integers(1, _SECOND_NS))
                    nearly_s.append(_summary(base, None, cut_ns, span_ns - cut_ns))
                    parts_s.append(_summary(base, None, *sorted(random.integers(0, span_ns, 2).tolist())))
                exports.append(_export(base, exported))
                copies.append(_copy(path, exported))
            memory_mb = _peak_mb(server.pid)
        size_mb = path.stat().st_size / 1e6
    million = f"{records / 1e6:.0f} million records ({size_mb:.0f} MB, {VCPUS} vCPUs, 2 modes)"
    for where, times_s, remark in (
        ("all but up to a second of", nearly_s, f"all of it, the first time: {first_s:.2f} s"),
        ("random parts of", parts_s, "each asked for once: no answer is kept"),
    ):
        warm = Spread.of(times_s)
        yield Row(
            f"summary with percentiles per vCPU and mode over {where} {million}",
            f"{warm:.2f} s",
            f"≤ {PERCENTILES_S:.0f} s",
            warm.middle <= PERCENTILES_S,
            remark,
        )
    share = Spread.of([copy / export for copy, export in zip(copies, exports, strict=True)])
    yield Row(
        f"speed of the export of {exported / 1e6:.0f} million as CSV over HTTP, DuckDB's own COPY to /dev/null = 1",
        f"{share:.2f}",
        f"≥ {EXPORT_SHARE}",
        share.middle >= EXPORT_SHARE,
        f"{Spread.of(exports):.1f} s, COPY {Spread.of(copies):.1f} s",
    )
    yield Row(
        "most memory of the server meanwhile",
        f"{memory_mb:.0f} MB",
        f"≤ {MEMORY_MB} MB",
        memory_mb <= MEMORY_MB,
    )


def generate(path: Path, records: int) -> None:
    """A recording of random faults of VCPUS vCPUs: a few row groups, again and again at later times."""
    bases = [to_table(_faults(seed), {1: _VM}) for seed in range(min(_BASES, -(-records // ROW_GROUP)))]
    column = SCHEMA.get_field_index("begin_ns")
    span_ns = _BEGIN_NS
    with RecordingWriter(path, _BEGIN_NS) as writer:
        for group in range(-(-records // ROW_GROUP)):
            table = bases[group % len(bases)].slice(0, records - group * ROW_GROUP)
            begin_ns = pc.add(table["begin_ns"], pa.scalar((group + 1) * span_ns, pa.int64()))
            writer.write_table(table.set_column(column, SCHEMA.field(column), begin_ns))
        vcpus = [RecordedVcpu(vcpu=vcpu, tid=9000 + vcpu, name=f"CPU {vcpu}/KVM") for vcpu in range(VCPUS)]
        vm = RecordedVm(id=_VM, pid=4001, name=_ID, vcpus=vcpus)
        ended_ns = (group + 2) * span_ns
        writer.close(RecordingMeta(id=_ID, name=_ID, started_ns=span_ns, ended_ns=ended_ns, vms=[vm]))


def _faults(seed: int) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    random = np.random.default_rng(seed)
    faults = np.zeros(ROW_GROUP, FAULT_DTYPE)
    faults["vm"], faults["resolver"], faults["access"], faults["presence"] = 1, 1, 2, 1
    faults["seen"] = SEEN_ACCESS | SEEN_SLEEP | SEEN_READ | SEEN_FILL
    faults["vcpu"] = random.integers(0, VCPUS, ROW_GROUP)
    faults["mode"] = random.random(ROW_GROUP) < 0.3
    faults["tid"] = 9000 + faults["vcpu"]
    faults["handler_tid"] = random.integers(2000, 2004, ROW_GROUP)
    faults["begin_ns"] = np.sort(random.integers(0, ROW_GROUP * _INTERVAL_NS, ROW_GROUP))
    for name, mean_ns in _MEAN_NS.items():
        faults[name] = random.lognormal(np.log(mean_ns), 0.6, ROW_GROUP).astype(np.uint64)
    faults["gpa"] = random.integers(0, 1 << 22, ROW_GROUP) << 12
    faults["hva"] = faults["gpa"] + 0x7F00_0000_0000
    return faults


@contextmanager
def _server(directory: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    socket = str(directory / "none.sock")
    command = [*EXITSCOPE, "serve", "--socket", socket, "--recordings", str(directory), "--port", "0"]
    with process(command) as started:
        wait_for(lambda: "open http" in said(started), "the server", started)
        yield started, said(started).partition("open ")[2].split()[0]


def _summary(base: str, records: int | None, from_ns: int = 0, to_ns: int | None = None) -> float:
    """Seconds that the summary takes of the whole, or of a part in ns since its begin. records: in it, if known."""
    part = "" if to_ns is None else f"?from_ns={_BEGIN_NS + from_ns}&to_ns={_BEGIN_NS + to_ns}"
    begin = time.monotonic()
    with urlopen(f"{base}api/v1/recordings/{_ID}/summary{part}", timeout=3600) as response:
        text = response.read()
    took = time.monotonic() - begin
    found = RecordingSummary.model_validate(json.loads(text))
    counted = sum(row.latency_ns.count for row in found.vcpus)
    if not counted or counted != (records or counted):
        raise BenchError("the summary lacks records")
    return took


def _export(base: str, records: int) -> float:
    """Seconds that the first records take as CSV."""
    begin = time.monotonic()
    with urlopen(f"{base}api/v1/recordings/{_ID}/faults?format=csv&limit={records}", timeout=3600) as response:
        while response.read(1 << 20):
            pass
    return time.monotonic() - begin


def _copy(path: Path, records: int) -> float:
    done = subprocess.run(
        [sys.executable, "-c", _COPY, str(path), str(records)],
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"DuckDB: {done.stderr.strip()[-300:]}")
    return float(done.stdout.split()[-1])


def _peak_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
