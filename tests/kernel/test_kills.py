"""The product's halves killed (kill -9) amid a guest's faults: little is lost, nobody waits, all goes on by itself."""

import json
import os
import random
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.kernel.harness import finish, guest, wait_until
from tests.product import Product

pytestmark = pytest.mark.needs("root", "bpf", "kvm", "uffd")

S = 1_000_000_000
KILLS = 3


def kill(product: Product, command: str) -> int:
    """CLOCK_MONOTONIC of the kill of the half that runs this command."""
    wait_until(lambda: product.child(command) is not None, f"a process that runs {command}")
    pid = product.child(command)
    assert pid is not None
    killed_ns = time.monotonic_ns()
    os.kill(pid, signal.SIGKILL)
    return killed_ns


def asked(ask: Callable[[], Any]) -> Any:
    """The answer, or why there is none: whoever asks a server that is being killed is refused, and never waits."""
    try:
        return ask()
    except TimeoutError:
        raise
    except (OSError, HTTPException) as error:
        assert not isinstance(getattr(error, "reason", None), TimeoutError), "a request hung"
        return None


def faults(product: Product, pid: int) -> int:
    """Of the VM of this process, 0 while nobody tells of one."""
    answer = asked(lambda: product.get("api/v1/vms")) or {"vms": []}
    return sum(sum(vm["faults"].values()) for vm in answer["vms"] if vm["pid"] == pid)


def record(product: Product) -> str:
    request = urllib.request.Request(product.url + "api/v1/recordings", method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(json.load(answer)["id"])


def test_a_killed_server_loses_a_second_of_a_recording_at_most(start: Callable[..., Product]) -> None:
    with guest("--vcpus", 4, "--pages", 4000, "--rounds", 0, "--think-us", 200) as workload:
        product = start("run")
        product.wait_for_vm(workload.pid)
        for number in range(KILLS):
            recording_id = record(product)
            time.sleep(random.Random(number).uniform(0.7, 1.5))
            killed_ns = kill(product, "serve")
            path = product.socket.parent / "recordings" / f"{recording_id}.parquet"
            wait_until(path.exists, "the recovered recording")
            assert_lost_a_second_at_most(path, killed_ns)
            wait_until(lambda: faults(product, workload.pid) > 0, "a server that answers again")
        finish(workload, signal.SIGTERM)


def assert_lost_a_second_at_most(path: Path, killed_ns: int) -> None:
    begin_ns = pq.read_table(path, columns=["begin_ns"])["begin_ns"].to_numpy()
    assert len(begin_ns)
    assert killed_ns - begin_ns[begin_ns <= killed_ns].max() < S


def test_a_killed_collector_counts_again_by_itself(start: Callable[..., Product]) -> None:
    with guest("--vcpus", 4, "--pages", 4000, "--rounds", 0, "--think-us", 200) as workload:
        product = start("run")
        product.wait_for_vm(workload.pid)
        for _ in range(KILLS):
            before = product.child("collect")
            kill(product, "collect")
            wait_until(lambda before=before: product.child("collect") not in (None, before), "another collector")  # type: ignore[misc]
            seen = faults(product, workload.pid)
            wait_until(lambda seen=seen: faults(product, workload.pid) > seen, "faults counted again")  # type: ignore[misc]
            assert product.process.poll() is None
        finish(workload, signal.SIGTERM)
