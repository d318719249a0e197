"""Recordings of real runs: exact, what the conditions were, kills at random moments, a disk that is really full."""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from exitscope.recordings.columns import from_table
from exitscope.recordings.file import RecordingFile
from exitscope.recordings.shelf import find
from exitscope.recordings.spool import Kind, read_spool
from exitscope_probes.guest.build import binary_path
from exitscope_probes.isolated import python
from exitscope_probes.records import MODES
from tests.kernel.client import collecting
from tests.kernel.harness import TIMEOUT_S, Report, finish, guest, wait_until

pytestmark = pytest.mark.needs("root", "bpf", "kvm", "uffd")

ROOT = Path(__file__).parents[2]
S = 1_000_000_000
Process = subprocess.Popen[str]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A collector's socket."""
    path = tmp_path_factory.mktemp("collector") / "collector.sock"
    with collecting(path):
        yield path


@contextmanager
def recording(path: Path, output: Path, *command: object) -> Iterator[Process]:
    """`exitscope record`, once it really records."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}/server:{ROOT}/probes"}
    arguments = [*python("exitscope", "record"), "--socket", path, "-o", output, *command]
    with subprocess.Popen(
        list(map(str, arguments)), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            spool = Path(f"{output}.spool")
            wait_until(lambda: output.exists() or (spool.exists() and spool.stat().st_size > 500), "a recording")
            yield process
        finally:
            process.kill()


def own(file: RecordingFile, pid: int) -> str:
    """Id of the only VM of a process."""
    (vm,) = [vm for vm in file.meta.vms if vm.pid == pid]
    return vm.id


@pytest.mark.parametrize("mode", ["uffd", "exit"])
def test_a_recording_is_what_the_guest_did(path: Path, tmp_path: Path, mode: str) -> None:
    output = tmp_path / "a.parquet"
    options = ["--vcpus", 2, "--pages", 4000, "--mode", mode, "--order", "random", "--pause-ms-before-exit", 300]
    with recording(path, output, "--name", mode, "--", binary_path(), *options) as process:
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, err
    report: Report = json.loads(out)
    file = RecordingFile.open(output)
    vm_id = own(file, report["pid"])
    vm = file.meta.vm(vm_id)
    assert vm is not None
    records = from_table(pq.read_table(output), {vm.id: number for number, vm in enumerate(file.meta.vms, 1)})
    mine = records[records["vm"] == [vm.id for vm in file.meta.vms].index(vm_id) + 1]
    faults = [vcpu["faults"] for vcpu in report["vcpus"]]
    vcpus = mine["vcpu"].astype(int)
    assert np.bincount(vcpus[mine["mode"] == MODES.index(mode)], minlength=2).tolist() == faults
    assert (np.diff(records["begin_ns"].astype(np.int64)) >= 0).all()
    stop = {vcpu.vcpu: vcpu for vcpu in file.meta.totals.stop.vms[vm_id].vcpus}
    assert [stop[number].faults[mode] for number in (0, 1)] == faults
    histograms = file.histograms()
    assert [histograms[vm_id, number][MODES.index(mode)].sum() for number in (0, 1)] == faults

    assert file.meta.complete and file.meta.note == "" and file.meta.name == mode
    assert file.meta.hooks and file.meta.kernel == os.uname().release and file.meta.cpus == os.cpu_count()
    assert vm.vmm == "exitscope guest" and vm.command and "--order random" in vm.command
    assert [(vcpu.vcpu, vcpu.tid) for vcpu in vm.vcpus] == [(vcpu["vcpu"], vcpu["tid"]) for vcpu in report["vcpus"]]
    assert (vm.backing, vm.memory_bytes) == ("anonymous", 4000 * 4096)
    assert vm.uffd_features == (["SIGBUS"] if mode == "exit" else []) and not vm.async_faults
    assert sum(handler.fills for handler in vm.handlers) == sum(faults)


@pytest.mark.parametrize("seed", range(8))
def test_a_killed_recorder_loses_a_second_at_most(path: Path, tmp_path: Path, seed: int) -> None:
    output = tmp_path / "a.parquet"
    with guest("--vcpus", 2, "--pages", 2000, "--rounds", 0, "--think-us", 200) as workload:
        with recording(path, output) as recorder:
            time.sleep(random.Random(seed).uniform(0.3, 1.5))
            recorder.kill()
            killed_ns = time.monotonic_ns()
            recorder.wait()
        finish(workload, signal.SIGTERM)
    file = find(str(output))
    begin_ns = pq.read_table(output, columns=["begin_ns"])["begin_ns"].to_numpy()
    assert file.meta.lost_ns == S and "killed" in file.meta.note
    assert len(begin_ns) and killed_ns - begin_ns[-1] < S
    assert np.diff(begin_ns).max() < S, "no hole"


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_collector_is_waited_for(tmp_path: Path, seed: int) -> None:
    path, output = tmp_path / "collector.sock", tmp_path / "a.parquet"
    with guest("--vcpus", 2, "--pages", 2000, "--rounds", 0, "--think-us", 200) as workload:
        with collecting(path) as first, recording(path, output) as recorder:
            time.sleep(random.Random(seed).uniform(0.3, 1.0))
            first.kill()
            killed_ns = time.monotonic_ns()
            first.wait()
            time_ns = time.monotonic_ns()
            with collecting(path):
                spool = Path(f"{output}.spool")
                wait_until(lambda: last_fault_ns(spool) > time_ns, "a fault that another collector has seen")
                recorder.send_signal(signal.SIGINT)
                _, err = recorder.communicate(timeout=TIMEOUT_S)
        finish(workload, signal.SIGTERM)
    assert recorder.returncode == 0, err
    assert "no collector ran for" in err
    meta = RecordingFile.open(output).meta
    (gap,) = meta.gaps
    assert gap.from_ns <= killed_ns < gap.to_ns and killed_ns - gap.from_ns < S
    begin_ns = pq.read_table(output, columns=["begin_ns"])["begin_ns"].to_numpy()
    assert (begin_ns > gap.to_ns).any() and (begin_ns < gap.from_ns).any()
    assert len({vm.id for vm in meta.vms}) == len(meta.vms), "the same VM is one VM"


def last_fault_ns(spool: Path) -> int:
    """When the newest fault of a recording in progress began."""
    messages = [message for block in read_spool(spool) if block.kind is Kind.FRAMES for message in block.messages()]
    return max((int(m.arrays["records"]["begin_ns"].max()) for m in messages if "records" in m.arrays), default=0)


def test_a_full_disk_ends_the_recording_never_the_tracing(path: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", disk], check=True)
    try:
        output = disk / "a.parquet"
        with guest("--vcpus", 2, "--pages", 4000, "--rounds", 0) as workload:
            with recording(path, output) as recorder:
                _, err = recorder.communicate(timeout=TIMEOUT_S)
            assert recorder.returncode == 1
            assert "the recording is not whole: the disk is full" in err, err
            assert workload.poll() is None
            with recording(path, tmp_path / "b.parquet") as recorder:  # the collector goes on
                time.sleep(0.3)
                recorder.send_signal(signal.SIGINT)
                recorder.communicate(timeout=TIMEOUT_S)
            finish(workload, signal.SIGTERM)
        file = RecordingFile.open(output)
        assert file.meta.state == "failed" and file.meta.records > 1000 and not file.meta.complete
        assert RecordingFile.open(tmp_path / "b.parquet").meta.complete
    finally:
        subprocess.run(["umount", disk], check=True)
