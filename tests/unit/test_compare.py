"""Two recordings' files held against each other: figures, conditions, verdict, and what a person reads of it."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from exitscope import words
from exitscope.compare import commandline, report, text
from exitscope.compare.comparison import compare
from exitscope.errors import UserError
from exitscope.recordings.file import RecordingFile
from exitscope.recordings.meta import Load
from exitscope_probes.records import MODE_EXIT, MODE_UFFD, VCPU_OTHER
from tests.unit.recordings import VM, latency_ns, synthetic_meta, synthetic_records, write_recording


def recording(path: Path, mode: int = MODE_UFFD, serve_ns: int = 300_000, seed: int = 1, **meta: Any) -> RecordingFile:
    records = synthetic_records(6000, mode=mode, serve_ns=serve_ns, seed=seed)
    return write_recording(path / f"{mode}-{serve_ns}-{seed}.parquet", records, name=f"run {seed}", **meta)


def with_vm(path: Path, mode: int = MODE_UFFD, serve_ns: int = 300_000, seed: int = 1, **vm: Any) -> RecordingFile:
    """A recording whose VM has these fields."""
    records = synthetic_records(6000, mode=mode, serve_ns=serve_ns, seed=seed)
    meta = synthetic_meta(records, id=f"run-{seed}", name=f"run {seed}")
    meta.vms[0] = meta.vms[0].model_copy(update=vm)
    return write_recording(path / f"vm-{mode}-{serve_ns}-{seed}.parquet", records, meta)


@pytest.fixture
def uffd(tmp_path: Path) -> RecordingFile:
    return recording(tmp_path, MODE_UFFD, 300_000)


def test_exit_mode_that_is_three_times_faster(tmp_path: Path, uffd: RecordingFile) -> None:
    found = compare(uffd, with_vm(tmp_path, MODE_EXIT, 90_000, seed=2, uffd_features=["MISSING", "SIGBUS"]))
    assert found.verdict.outcome == "b_faster"
    pattern = (
        r"B \(exit\) finishes faults [23]\.\d× faster than A \(uffd\) at the median: "
        r"[\d.]+ µs \[[\d.]+, [\d.]+\] against \d+ µs \[\d+, \d+\], at 95 % confidence\."
    )
    assert re.fullmatch(pattern, found.verdict.sentence), found.verdict.sentence
    assert not found.verdict.forced
    assert any("most is serve (" in line for line in found.verdict.details)
    median = found.latency_ns["p50"]
    assert median.ratio.low is not None and median.ratio.low < median.ratio.value < 0.5
    assert (found.a.title, found.b.title) == ("A (uffd)", "B (exit)")
    assert [one.condition for one in found.differences if one.unfair] == []


def test_the_other_way_round_is_the_same(tmp_path: Path, uffd: RecordingFile) -> None:
    other = recording(tmp_path, MODE_EXIT, 90_000, seed=2)
    forth, back = compare(uffd, other, force=True), compare(other, uffd, force=True)
    assert (forth.verdict.outcome, back.verdict.outcome) == ("b_faster", "a_faster")
    assert forth.latency_ns["p50"].ratio.value == pytest.approx(1 / back.latency_ns["p50"].ratio.value)
    assert back.verdict.sentence.count("A (exit) finishes faults") == 1


def test_the_same_again_is_no_difference(tmp_path: Path, uffd: RecordingFile) -> None:
    for seed in range(2, 7):
        found = compare(uffd, recording(tmp_path, seed=seed))
        assert found.verdict.outcome == "no_difference"
        assert found.verdict.sentence.startswith("No difference beyond the drift from run to run at the median")
        assert not any("takes longer" in line for line in found.verdict.details)


def test_shorter_faults_and_fewer_of_them(tmp_path: Path) -> None:
    """What the median hides: 64 vCPUs on 4 CPUs in exit mode."""
    a = write_recording(tmp_path / "a.parquet", synthetic_records(6000, seconds=10))
    b = write_recording(tmp_path / "b.parquet", synthetic_records(6000, seconds=30, serve_ns=60_000, seed=2))
    sentence = compare(a, b).verdict.sentence
    assert sentence.startswith("B (uffd) finishes faults ")
    assert sentence.endswith(
        "; yet B (uffd) gets through fewer faults per second of active time, 200 /s against 600 /s."
    ), sentence


@pytest.mark.parametrize(
    ("value", "text"), [(1.734, "1.7×"), (1.04, "1.04×"), (59.2, "59.2×"), (0.66, "0.66×"), (0.0169, "0.017×")]
)
def test_factors(value: float, text: str) -> None:
    assert words.factor(value) == text


def test_the_same_length_made_of_other_stages(tmp_path: Path) -> None:
    records = synthetic_records(6000)
    other = records.copy()
    other["serve_ns"], other["finish_ns"] = records["finish_ns"], records["serve_ns"]
    found = compare(write_recording(tmp_path / "a.parquet", records), write_recording(tmp_path / "b.parquet", other))
    assert found.verdict.outcome == "no_difference"
    last = found.verdict.details[-1]
    assert re.fullmatch(
        r"Yet the median faults are made of different stages: serve \d+ µs in A and 5\.\d+ µs in B, "
        r"wake 5\.\d+ µs in A and \d+ µs in B\.",
        last,
    ), last


def test_figures_are_those_of_the_records(tmp_path: Path) -> None:
    records = synthetic_records(6000)
    records["vcpu"][::100] = VCPU_OTHER  # another thread of the VMM: not a vCPU's fault
    a = write_recording(tmp_path / "a.parquet", records, synthetic_meta(synthetic_records(6000)))
    found = compare(a, a)
    mine = records[records["vcpu"] != VCPU_OTHER]
    lengths = latency_ns(mine)
    assert found.a.faults == len(mine) == 5940
    assert found.latency_ns["p50"].a.value == pytest.approx(np.quantile(lengths, 0.5), rel=0.02)
    assert found.latency_ns["p99"].a.value == pytest.approx(np.quantile(lengths, 0.99), rel=0.03)
    assert found.latency_ns["max"].a.value == lengths.max()
    assert found.latency_ns["mean"].a.value == pytest.approx(lengths.mean(), rel=1e-6)
    assert found.rate is not None and found.rate.a.value == pytest.approx(594, rel=0.02)
    assert sum(stage.mean_a_ns for stage in found.stages) == pytest.approx(lengths.mean(), rel=1e-6)
    assert sum(stage.a_ns for stage in found.stages) == pytest.approx(np.quantile(lengths, 0.5), rel=0.05)
    assert {pair.vcpu: pair.a.count for pair in found.vcpus if pair.a} == per_vcpu(mine)
    assert {name: (pair.a, pair.b) for name, pair in found.exits.items()} == {"KVM_EXIT_IO": (6, 6)}
    assert found.fills["demand"].a == 6000 and found.fills["background"].a == 3
    assert len(found.ecdf_a.latency_ns) == len(found.ecdf_a.share) <= 200


def per_vcpu(records: npt.NDArray[Any]) -> dict[int, int]:
    return dict(zip(*(column.tolist() for column in np.unique(records["vcpu"], return_counts=True)), strict=True))


@pytest.mark.parametrize(
    ("fields", "condition"),
    [
        ({"kernel": "6.12.0"}, "kernel"),
        ({"cpu_model": "Other CPU"}, "CPU"),
        ({"cpus": 64}, "CPUs"),
        ({"sampling": "1 in 8"}, "sampling"),
        ({"hooks": [{"hook": "vcpu_run", "attachment": "fentry:kvm_arch_vcpu_ioctl_run"}]}, "tracing"),
        ({"loss": {"ring_full": 600}}, "losses"),
    ],
)
def test_what_makes_it_unfair(tmp_path: Path, uffd: RecordingFile, fields: dict[str, Any], condition: str) -> None:
    other = recording(tmp_path, MODE_EXIT, 90_000, seed=2, **fields)
    found = compare(uffd, other)
    assert found.verdict.outcome == "refused"
    assert found.verdict.sentence.startswith(
        f"No winner is called, because the conditions make it unfair ({condition}): "
    )
    assert [one.condition for one in found.differences if one.unfair] == [condition]
    forced = compare(uffd, other, force=True)
    assert (forced.verdict.outcome, forced.verdict.forced) == ("b_faster", True)
    assert forced.verdict.sentence.startswith(f"Unfair, and forced ({condition}): B (exit) finishes")


@pytest.mark.parametrize(
    ("fields", "condition"),
    [
        ({"vmm": "QEMU"}, "VMM"),
        ({"backing": "hugetlb"}, "backing"),
        ({"memory_bytes": 1 << 40}, "guest memory"),
        ({"vcpus": []}, "vCPUs"),
        ({"handlers": []}, "handler threads"),
        ({"uffd_features": ["MINOR_SHMEM"]}, "uffd features"),
    ],
)
def test_what_of_a_vm_makes_it_unfair(
    tmp_path: Path, uffd: RecordingFile, fields: dict[str, Any], condition: str
) -> None:
    found = compare(uffd, with_vm(tmp_path, MODE_UFFD, 90_000, seed=2, **fields))
    assert condition in [one.condition for one in found.differences if one.unfair]
    assert found.verdict.outcome == "refused"


@pytest.mark.parametrize(
    "fields",
    [
        {"host": "elsewhere"},
        {"loss": {"ring_full": 3}},
        {"lost_ns": 500_000_000},
        {"kernel": None},
    ],
)
def test_what_is_told_and_is_fair(tmp_path: Path, uffd: RecordingFile, fields: dict[str, Any]) -> None:
    found = compare(uffd, recording(tmp_path, MODE_EXIT, 90_000, seed=2, **fields))
    assert found.verdict.outcome == "b_faster"
    assert len([one for one in found.differences if one.condition != "handler threads"]) >= 1


@pytest.mark.parametrize(
    ("load", "shown"),
    [
        ({"load_start": Load(average=3.21, vms=1)}, "load average 3.2"),
        ({"load_start": Load(average=0.2), "load_stop": Load(vms=3)}, "2 other VMs"),
        ({"load_start": Load(average=0.2, vms=1), "load_stop": Load(average=5.0, vms=1)}, None),
        ({}, None),
    ],
)
def test_a_busy_machine_is_a_warning(
    tmp_path: Path, uffd: RecordingFile, load: dict[str, Any], shown: str | None
) -> None:
    found = compare(uffd, recording(tmp_path, seed=2, **load))
    told = [one for one in found.differences if one.condition == "machine load"]
    assert [one.b for one in told] == ([shown] if shown else [])
    assert not any(one.unfair for one in found.differences)


def test_memory_is_told_in_units_of_a_person(tmp_path: Path) -> None:
    a = with_vm(tmp_path, seed=1, memory_bytes=1 << 30)
    b = with_vm(tmp_path, seed=2, memory_bytes=(1 << 30) + (1 << 29))
    told = next(one for one in compare(a, b).differences if one.condition == "guest memory")
    assert (told.a, told.b) == ("1 GiB", "1.50 GiB")


def test_the_mode_and_what_belongs_to_it_is_no_unfairness(tmp_path: Path) -> None:
    a = with_vm(tmp_path, MODE_UFFD, command="guest --mode uffd --handlers 2 --vcpus 4", vmm="exitscope guest")
    b = with_vm(
        tmp_path, MODE_EXIT, 90_000, command="guest --mode exit --vcpus 4 --name x", vmm="exitscope guest",
        uffd_features=["MISSING", "SIGBUS"],
    )  # fmt: skip
    found = compare(a, b)
    assert found.verdict.outcome == "b_faster"
    assert {one.condition for one in found.differences} == {"command line", "handler threads", "resolvers"}


@pytest.mark.parametrize(
    ("vmm", "a", "b", "unfair"),
    [
        ("exitscope guest", "g --mode uffd --pages 5", "g --mode exit --pages 6", ["--pages"]),
        ("exitscope guest", "g --mode uffd --handlers 2", "g --mode exit", []),
        ("exitscope guest", "g --delay-us=3", "g --delay-us 3", []),
        ("QEMU", "qemu -m 4G -name a -qmp unix:/x", "qemu -m 4G -name b", []),
        ("QEMU", "qemu -m 4G -smp 2", "qemu -m 8G -smp 2", ["-m"]),
        ("other", "vmm --memory 1", "vmm --memory 2", []),
        ("QEMU", "qemu 'unbalanced -m 4", "qemu -m 4", []),
    ],
)
def test_command_lines(vmm: str, a: str, b: str, unfair: list[str]) -> None:
    assert commandline.unfair(vmm, a, b, same_mode="exit" not in b) == unfair


def test_too_few_faults(tmp_path: Path, uffd: RecordingFile) -> None:
    few = write_recording(tmp_path / "few.parquet", synthetic_records(50))
    found = compare(uffd, few)
    assert found.verdict.outcome == "not_enough"
    assert "B (uffd) has 50 faults" in found.verdict.sentence
    none = write_recording(tmp_path / "none.parquet", synthetic_records(0))
    assert compare(none, none).verdict.outcome == "not_enough"
    for other in (few, none):
        comparison = compare(other, other)
        assert "Too little to compare" in report.html(comparison)
        assert "Too little to compare" in text.terminal(comparison)


def test_one_vm_of_a_recording(uffd: RecordingFile) -> None:
    found = compare(uffd, uffd, vm_a=VM)
    assert (found.a.vm, found.a.faults) == (VM, 6000)
    with pytest.raises(UserError, match=r"has no VM nobody: its VMs are 4001-77"):
        compare(uffd, uffd, vm_b="nobody")


def test_json_has_no_infinities(tmp_path: Path, uffd: RecordingFile) -> None:
    for other in (uffd, write_recording(tmp_path / "none.parquet", synthetic_records(0))):
        json.dumps(compare(uffd, other).model_dump(), allow_nan=False)


def test_the_report_needs_nothing_else_and_escapes(tmp_path: Path, uffd: RecordingFile) -> None:
    evil = '</script><script>alert("x")</script><b>\x1b[31m\u202edesrever\u2066\u200b'
    other = with_vm(tmp_path, MODE_EXIT, 90_000, seed=2, command=evil)
    other.meta.name = evil
    found = compare(uffd, other)
    page = report.html(found)
    assert found.verdict.sentence in page
    assert evil not in page and "alert(" not in page.replace("alert(&quot;x&quot;)", "")
    head = page[: page.index('<script type="application/json"')]
    assert not set("\x1b\u202e\u2066\u200b") & set(head) and "\ufffd[31m\ufffddesrever" in head
    assert "<script" not in head and "src=" not in head and "@import" not in page
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    assert len(figures) == 4 and not set("\x1b\u202e\u2066\u200b") & set(str(figures))
    assert page.count("</script>") == 3
    assert all(len(trace["x"]) <= 200 for trace in figures[0]["data"])


def test_the_terminal_shows_all_tables(tmp_path: Path, uffd: RecordingFile) -> None:
    shown = text.terminal(compare(uffd, recording(tmp_path, MODE_EXIT, 90_000, seed=2, kernel="6.12.0")))
    assert shown.startswith("No winner is called")
    for title in ("Figures", "Stage by stage", "Exit reasons and fills", "Conditions: 3 differences"):
        assert f"\n{title}" in shown
    assert re.search(r"^  kernel +6\.1\.0-test +6\.12\.0 +unfair", shown, re.MULTILINE)


def test_a_file_that_is_gone_or_damaged(tmp_path: Path) -> None:
    gone = recording(tmp_path)
    Path(gone.path).unlink()
    with pytest.raises(UserError, match=r"cannot read the recording .*No such file"):
        compare(gone, gone)
    damaged = recording(tmp_path, seed=9)
    with Path(damaged.path).open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 4000)
    with pytest.raises(UserError, match="cannot read the recording "):
        compare(damaged, damaged)
