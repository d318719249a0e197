"""`exitscope bench` without guests: its plan, what it makes of results, what it says, and how it refuses."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from exitscope import ownfiles
from exitscope.bench import guest, plan, process, report, summary, tracer
from exitscope.bench.guest import Measured
from exitscope.bench.models import RunResult, Summary
from exitscope.bench.plan import Point, Run
from exitscope.bench.published import RATES_PER_S, SOURCE
from exitscope.bench.runner import Bench
from exitscope.cli import main
from exitscope.errors import UserError


def result(mode: str, vcpus: int, rate: float, repeat: int = 0, traced: bool = False, **fields: Any) -> RunResult:
    return RunResult(
        mode=mode, vcpus=vcpus, handlers=2 if mode == "uffd" else 0, repeat=repeat, traced=traced,
        faults=1000, wall_ns=int(1000 / rate * 1e9), rate_per_s=rate, **fields,
    )  # fmt: skip


def test_points_are_every_combination_once() -> None:
    found = plan.points((1, 8), plan.MODES, (plan.AUTO, 1), cpus=4)
    assert found == [
        Point(1, "exit", 0), Point(1, "uffd", 1), Point(8, "exit", 0), Point(8, "uffd", 1), Point(8, "uffd", 4),
    ]  # fmt: skip
    assert [point.slug for point in found] == ["exit-1v", "uffd-1v-1h", "exit-8v", "uffd-8v-1h", "uffd-8v-4h"]
    assert (found[0].title, found[4].title) == ("exit, 1 vCPU", "uffd, 8 vCPUs, 4 handlers")


def test_the_order_is_random_seeded_and_interleaved() -> None:
    points = plan.points((1, 2, 4, 8), plan.MODES, (plan.AUTO,), cpus=4)
    runs = plan.schedule(points, 5, (False, True), seed=1)
    assert runs == plan.schedule(points, 5, (False, True), seed=1) != plan.schedule(points, 5, (False, True), seed=2)
    assert set(Counter(runs).values()) == {1} and len(runs) == 8 * 5 * 2
    for repeat in range(5):
        part = runs[repeat * 16 : (repeat + 1) * 16]
        assert {run.repeat for run in part} == {repeat}, "one repeat after the other"
        pairs = list(zip(part[::2], part[1::2], strict=True))
        assert all(a.point == b.point and a.traced is not b.traced for a, b in pairs), "back to back"
    assert len({tuple(run.point for run in runs[i * 16 : i * 16 + 16]) for i in range(5)}) > 1
    assert len({run.traced for run in runs[::2]}) == 2, "neither kind is always first"


def test_a_point_is_a_median_with_its_spread_and_its_cost() -> None:
    runs = [result("uffd", 4, rate, i) for i, rate in enumerate((100, 300, 200))]
    runs += [result("uffd", 4, rate, i, True, recording=f"r{i}") for i, rate in enumerate((90, 150, 190))]
    runs += [result("exit", 4, 400)]
    uffd, exits = summary.points(runs)
    assert uffd.untraced_per_s is not None and uffd.traced_per_s is not None and uffd.cost is not None
    assert uffd.untraced_per_s.model_dump() == {"median": 200, "low": 100, "high": 300, "count": 3}
    assert (uffd.cost.low, uffd.cost.median, uffd.cost.high) == (0.5, 0.9, 0.95), "repeat by repeat"
    assert (uffd.recording, uffd.published_per_s) == ("r1", 210_000)
    assert (exits.traced_per_s, exits.cost, exits.recording, exits.published_per_s) == (None, None, None, 809_000)


def test_drift_is_what_repeats_differ_by() -> None:
    assert summary.drift([result("uffd", 1, 100), result("uffd", 1, 110, 1)]) is None
    drift = summary.drift([result("uffd", v, 100 * 1.2**i, i) for v in (1, 2) for i in range(3)])
    assert drift == pytest.approx(0.182, abs=0.001)  # ln 1.2


def test_published_figures_are_those_of_the_series() -> None:
    uffd, exits = RATES_PER_S["uffd"], RATES_PER_S["exit"]
    assert list(uffd) == list(exits) == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert (uffd[1], exits[1], uffd[256], exits[256]) == (150_000, 340_000, 36_000, 4_012_000)


@pytest.fixture
def whole(tmp_path: Path) -> Summary:
    made = Bench([], tmp_path, pages=1000, repeats=2, seed=1)
    made.results = [
        result(mode, vcpus, rate * (1 if traced else 1.25), repeat, traced)
        for mode, rate in (("uffd", 10_000), ("exit", 20_000))
        for vcpus in (1, 2)
        for repeat in range(2)
        for traced in (False, True)
    ]
    return made.summary()


def test_the_table_labels_what_was_published(whole: Summary) -> None:
    shown = report.terminal(whole)
    lines = shown.splitlines()
    assert "published on 256 cores" in lines[0]
    assert re.search(r"1 +uffd +2 +12\.5 k/s \(12\.5–12\.5\) +10\.0 k/s \(.*\) +0\.80 \(.*\) +– +150 k/s", lines[1])
    assert re.search(r"1 +exit +– +25\.0 k/s .* 2\.0× +340 k/s", lines[2])
    assert SOURCE in shown and "They were not measured here." in shown
    assert "at 80 % of their untraced rate" in shown


def test_the_page_shows_measured_and_published_apart(whole: Summary) -> None:
    page = report.html(whole)
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    names = [trace["name"] for trace in figures[0]["data"]]
    assert names == [
        "uffd here, 2 handlers", "uffd here, traced, 2 handlers", "exit here", "exit here, traced",
        "uffd, published (256 cores)", "exit, published (256 cores)",
    ]  # fmt: skip
    assert {trace["line"]["color"] for trace in figures[0]["data"][4:]} == {"--muted"}
    assert figures[0]["layout"]["xaxis"]["type"] == figures[0]["layout"]["yaxis"]["type"] == "log"
    assert "not measured here" in page and page.count("</script>") == 3


class FakeGuests:
    """Stands in for guests: each takes no time; interrupts at one of them."""

    def __init__(self, interrupt_at: int | None = None, fail_at: int | None = None) -> None:
        self.made, self.interrupt_at, self.fail_at = 0, interrupt_at, fail_at

    def __call__(self, _program: Path, point: Point, pages: int, _seed: int, _pause_ms: int) -> Measured:
        self.made += 1
        if self.made == self.interrupt_at:
            raise KeyboardInterrupt
        if self.made == self.fail_at:
            raise UserError(f"the guest of {point.title} failed: no /dev/kvm")
        return Measured(pages, 10_000_000 * point.vcpus)


def quick(monkeypatch: pytest.MonkeyPatch, guests: FakeGuests, *options: str) -> Any:
    monkeypatch.setattr(guest, "run", guests)
    monkeypatch.setattr(guest, "binary", lambda: Path("/nonexistent"))
    monkeypatch.setattr("exitscope.bench.runner._SETTLE_S", 0)
    return CliRunner().invoke(main, ["bench", "--untraced", "--quick", "--socket", "/nonexistent", *options])


def test_untraced_from_end_to_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    guests = FakeGuests()
    done = quick(monkeypatch, guests, "--vcpus", "1,2", "-o", str(tmp_path), "--html", str(tmp_path / "own.html"))
    assert done.exit_code == 0, done.output
    assert guests.made == 2 * 2 * 2
    (summary_path,) = tmp_path.glob("bench-*.json")
    kept = Summary.model_validate_json(summary_path.read_text())
    assert kept.complete and len(kept.runs) == 8 and len(kept.points) == 4
    assert not any(run.traced for run in kept.runs)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".html"}
    assert (tmp_path / "own.html").read_text() == summary_path.with_suffix(".html").read_text()


def test_json_is_the_only_thing_on_stdout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done = quick(monkeypatch, FakeGuests(), "--vcpus", "1", "--mode", "exit", "--json", "-o", str(tmp_path))
    assert [point["mode"] for point in json.loads(done.stdout)["points"]] == ["exit"]


def test_an_interruption_keeps_what_is_finished(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done = quick(monkeypatch, FakeGuests(interrupt_at=4), "--vcpus", "1,2", "-o", str(tmp_path))
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1] == "exitscope: interrupted: 3 of 8 runs are finished, and kept"
    kept = Summary.model_validate_json(next(tmp_path.glob("*.json")).read_text())
    assert (kept.complete, len(kept.runs), kept.planned) == (False, 3, 8)
    assert "3 of 8 runs" in done.stdout


def test_a_failure_is_one_line_and_keeps_what_is_finished(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done = quick(monkeypatch, FakeGuests(fail_at=2), "--vcpus", "1", "--mode", "uffd", "-o", str(tmp_path))
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1] == "exitscope: the guest of uffd, 1 vCPU, 1 handler failed: no /dev/kvm"
    assert len(Summary.model_validate_json(next(tmp_path.glob("*.json")).read_text()).runs) == 1


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    done = CliRunner().invoke(main, ["bench", "--quick"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "exitscope: the traced half needs root: run it with sudo, or add --untraced\n"


def test_a_running_collector_would_spoil_it(tmp_path: Path) -> None:
    path = str(tmp_path / "collector.sock")
    tracer.refuse_other_collector(path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with pytest.raises(UserError, match=r"a collector runs on .* stop it first"):
            tracer.refuse_other_collector(path)


@pytest.mark.parametrize("options", [["--vcpus", "0"], ["--vcpus", "1,x"], ["--vcpus", "257"], ["--handlers", "65"]])
def test_wrong_usage_is_2(options: list[str]) -> None:
    assert CliRunner().invoke(main, ["bench", *options]).exit_code == 2


def test_a_child_ends_with_its_bench() -> None:
    """Even when the bench is killed: the kernel tells the child."""
    script = (
        "import subprocess, sys, time\n"
        "from exitscope.bench.process import child\n"
        "with child(['sleep', '60'], subprocess.DEVNULL, subprocess.DEVNULL) as process:\n"
        "    print(process.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as bench:
        assert bench.stdout is not None
        pid = int(bench.stdout.readline())
        bench.kill()
        bench.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1][:3]:
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.02)


def test_a_child_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_GRACE_S", 0.1)
    command = [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"]
    with process.child(command, subprocess.DEVNULL, subprocess.DEVNULL) as stubborn:
        time.sleep(0.5)
    assert stubborn.returncode is not None


def test_only_one_recording_of_each_point_is_kept(tmp_path: Path) -> None:
    made = Bench([Run(Point(1, "exit", 0), 0, True)], tmp_path, 100, 3, 1)
    for repeat, rate in enumerate((100, 200, 400)):
        (tmp_path / f"r{repeat}.parquet").touch()
        made.results.append(result("exit", 1, rate, repeat, True, recording=f"r{repeat}"))
    made._thin_out()
    assert [path.name for path in tmp_path.iterdir()] == ["r1.parquet"]
    assert [run.recording for run in made.results] == [None, "r1", None]


def test_files_are_whole_private_and_no_links_are_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "set.json").symlink_to(victim)
    ownfiles.write(tmp_path / "set.json", "{}")
    assert victim.read_text() == "precious"
    assert (tmp_path / "set.json").read_text() == "{}" and not (tmp_path / "set.json").is_symlink()
    assert (tmp_path / "set.json").stat().st_mode & 0o777 == 0o600
    (tmp_path / "link").symlink_to(victim)
    before = victim.stat()
    ownfiles.hand_over(tmp_path / "link")
    assert victim.stat().st_uid == before.st_uid
    with pytest.raises(UserError, match="cannot write"):
        ownfiles.write(tmp_path / "nowhere" / "x", "")
    assert {path.name for path in tmp_path.iterdir()} == {"victim", "set.json", "link"}
