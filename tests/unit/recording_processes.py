"""Processes that the tests of recordings start: a fake collector, and ours."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from exitscope.recordings.file import RecordingFile

from .fake_collector import FakeCollector

ROOT = Path(__file__).parents[2]
WAIT_S = 20.0
S = 1_000_000_000


def run(*command: object, **options: Any) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}/server:{ROOT}/probes:{ROOT}"}
    return subprocess.Popen(
        [sys.executable, *map(str, command)], cwd=ROOT, env=environment, stderr=subprocess.PIPE, **options
    )


def until(condition: Any, what: str) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)
    return found


@contextmanager
def fake_collector(path: Path, per_second: int = 1000) -> Iterator[subprocess.Popen[bytes]]:
    process = run("-m", "tests.unit.fake_collector", path, per_second)
    try:
        until(path.exists, "the fake collector's socket")
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stderr:
            process.stderr.close()


@contextmanager
def in_thread(collector: FakeCollector) -> Iterator[None]:
    import threading

    ending = threading.Event()

    def serve() -> None:
        while not ending.is_set():
            collector.step()
            time.sleep(0.005)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()
        collector.close(None)


def numbers_in(file: RecordingFile) -> Any:
    table = pq.read_table(file.path, columns=["begin_ns", "gpa", "hva"])
    return table["hva"].to_numpy() // 4096, table["begin_ns"].to_numpy()
