"""`exitscope bench` as a whole, with real guests; and real recordings held against each other."""

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exitscope.bench import process, tracer
from exitscope.compare.comparison import compare
from exitscope.recordings.file import RecordingFile
from exitscope_probes.guest.build import binary_path
from exitscope_probes.isolated import python
from tests.kernel.harness import TIMEOUT_S, wait_until

pytestmark = pytest.mark.needs("root", "bpf", "kvm", "uffd")


def command(directory: Path, *options: object) -> list[str]:
    given = ["--socket", directory / "nobody.sock", "-o", directory / "set", *options]
    return python("exitscope", "bench", *map(str, given))


def summary_in(directory: Path) -> dict[str, Any]:
    """What is kept by now; nothing at first."""
    found = list((directory / "set").glob("bench-*.json"))
    return json.loads(found[0].read_text()) if found else {"runs": []}


@pytest.mark.timeout(300)
def test_a_tiny_bench(tmp_path: Path) -> None:
    """Two repeats of 1 and 2 vCPUs, both modes, traced and untraced: what is recorded is what the guests counted."""
    done = subprocess.run(
        command(tmp_path, "--vcpus", "1,2", "--repeats", 2, "--pages", 800, "--keep-all"),
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = summary_in(tmp_path)
    assert made["complete"] and len(made["runs"]) == made["planned"] == 2 * 2 * 2 * 2
    assert [(point["vcpus"], point["mode"]) for point in made["points"]] == [
        (1, "uffd"), (1, "exit"), (2, "uffd"), (2, "exit"),
    ]  # fmt: skip
    for run in made["runs"]:
        assert run["faults"] == 800
        if not run["traced"]:
            assert run["recording"] is None
            continue
        assert run["loss"] == {}
        recording = RecordingFile.open(tmp_path / "set" / f"{run['recording']}.parquet")
        assert recording.meta.records == run["recorded"] == 800
        (vm,) = recording.meta.vms
        assert len(vm.vcpus) == run["vcpus"]
        assert f"--mode {run['mode']}" in str(vm.command)
    for point in made["points"]:
        assert point["untraced_per_s"]["count"] == point["traced_per_s"]["count"] == point["cost"]["count"] == 2
        assert point["recording"] is not None
    assert {path.suffix for path in (tmp_path / "set").iterdir()} == {".json", ".html", ".parquet"}
    assert "published on 256 cores" in done.stdout


@pytest.mark.timeout(200)
def test_ctrl_c_leaves_nothing_running_and_keeps_what_is_finished(tmp_path: Path) -> None:
    options = command(tmp_path, "--vcpus", "2", "--mode", "exit", "--repeats", 50, "--pages", 20_000)
    with subprocess.Popen(options, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as bench:
        wait_until(lambda: len(summary_in(tmp_path)["runs"]) >= 3, "three runs")
        children = descendants(bench.pid)
        bench.send_signal(signal.SIGINT)
        output, errors = bench.communicate(timeout=TIMEOUT_S)
    assert bench.returncode == 1
    made = summary_in(tmp_path)
    assert not made["complete"]
    assert errors.splitlines()[-1] == f"exitscope: interrupted: {len(made['runs'])} of 100 runs are finished, and kept"
    assert "exit" in output and "Traceback" not in errors
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), "the end of all children")
    left = {path.name for path in (tmp_path / "set").iterdir() if path.suffix != ".html"}
    assert left == {f"{made['points'][0]['recording']}.parquet", f"{made['id']}.json"}


def descendants(pid: int) -> list[int]:
    """Processes below this one."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(child), *descendants(int(child))]
    return found


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with tracer.collecting(tmp_path_factory.mktemp("collector")) as path:
        yield path


def record(socket: str, directory: Path, name: str, *options: object) -> RecordingFile:
    """A recording of one guest of 2 vCPUs."""
    given = ["--vcpus", 2, "--pages", 3000, "--name", name, "--pause-ms-before-exit", 500, *options]
    with tracer.recording(socket, directory, name, name) as made:
        guest = [str(binary_path()), *map(str, given)]
        with process.child(guest, subprocess.DEVNULL, subprocess.DEVNULL) as running:
            assert running.wait(TIMEOUT_S) == 0
    return RecordingFile.open(made.path)


@pytest.mark.timeout(200)
def test_real_runs_alike_and_real_runs_that_differ(socket: str, tmp_path: Path) -> None:
    """A network of 500 µs is a difference of several times: found each time. The same network again is none.

    The same proof for uffd mode against exit mode, whose difference depends on how busy the machine is, is
    measured by tests/bench/verdict.py.
    """
    slow = [record(socket, tmp_path, f"slow-{i}", "--mode", "exit", "--delay-us", 500) for i in range(4)]
    fast = [record(socket, tmp_path, f"fast-{i}", "--mode", "exit") for i in range(2)]
    for i, one in enumerate(slow):
        for other in slow[:i]:
            alike = compare(one, other)
            assert alike.verdict.outcome == "no_difference", alike.verdict.sentence
            assert not any(difference.unfair for difference in alike.differences), alike.differences
    for one in slow:
        for other in fast:
            refused = compare(one, other)
            assert refused.verdict.outcome == "refused"
            assert [d.condition for d in refused.differences if d.unfair] == ["command line"]
            found = compare(one, other, force=True)
            assert (found.verdict.outcome, found.verdict.forced) == ("b_faster", True), found.verdict.sentence
            assert any("most is serve (" in line for line in found.verdict.details), found.verdict.details
    assert compare(slow[0], slow[1]).exits["EFAULT"].a == 3000
    assert compare(slow[0], slow[1]).fills["demand"].a == 3000
