"""The frame that the page gets: S4, field by field."""

import json
import time
from typing import Any

from exitscope import frame
from exitscope.aggregate import Aggregate
from exitscope.source import Status
from exitscope.vms import ALL
from exitscope_probes.records import FAILURES, MODE_EXIT, MODES, SERIES, STAGE_SERIES, VCPU_OTHER

from .frames import Feeder, S

MS = 1_000_000
KEYS = {
    "type", "sequence", "time_ns", "wall_ms", "window_ns", "window_filled_ns", "source", "sampling", "vms",
    "vm", "modes", "other", "stages", "vcpus", "exits", "hardware", "hardware_state", "fills",
    "queue", "slowest", "loss", "missing_hooks", "alarms", "threads", "memslots", "migrations",
}  # fmt: skip


def series(family: str, stage: str) -> int:
    return len(MODES) + STAGE_SERIES.index((family, stage))


def shown(aggregate: Aggregate, vm_id: str = "", length_ns: int = 10 * S) -> dict[str, Any]:
    selection = frame.select(aggregate, vm_id)
    built = frame.build(aggregate, Status("live"), selection, length_ns, 1, 0)
    assert json.loads(json.dumps(built, allow_nan=False)) == built
    return built


def busy() -> tuple[Feeder, Aggregate]:
    feeder, aggregate = Feeder(time.monotonic_ns()), Aggregate()
    vm = feeder.add_vm(1, 2, id="one")
    feeder.own(vm, VCPU_OTHER, 40)
    vm.pending, vm.total = 2, 3
    for message in feeder.welcome():
        aggregate.handle(message)
    feeder.fault(vm, 0, 1 * MS, 4)
    feeder.fault(vm, 0, MS // 2, 4, series("uffd", "serve"))
    feeder.fault(vm, 1, 2 * MS, 6, MODE_EXIT)
    feeder.fault(vm, 1, MS, 6, series("exit", "reenter"))
    feeder.fault(vm, VCPU_OTHER, 5 * MS, 1)
    feeder.exit(vm, 1, "EFAULT", 6)
    feeder.fill(vm, "COPY", 10)
    feeder.fill(vm, "CONTINUE", 3, demand=False)
    feeder.fill(vm, "WAKE", 2)
    vm.totals["events_read"], vm.totals["events_done"], vm.totals["fills_failed"] = 9, 4, 1
    vm.totals["failed_by"][FAILURES.index("EEXIST")] = 1
    feeder.vcpus[vm.slots[0]]["open_since_ns"] = feeder.time_ns
    feeder.loss["ring_full"] = 5
    aggregate.handle(feeder.records(vm, [7 * MS], gpa=0x5000, mode=MODE_EXIT, resolver=1, handler_tid=77, tid=88))
    aggregate.handle(feeder.totals(S))
    return feeder, aggregate


def test_a_frame_has_every_field_and_the_numbers_that_were_fed() -> None:
    feeder, aggregate = busy()
    got = shown(aggregate)
    assert set(got) == KEYS
    assert (got["vm"], got["time_ns"], got["window_filled_ns"]) == ("one", feeder.time_ns, S)
    assert got["modes"]["uffd"]["count"] == 4
    assert got["modes"]["exit"]["rate_per_s"] == 6
    assert got["other"]["count"] == 1
    assert got["stages"]["uffd"]["serve"]["sum"] == 2 * MS
    assert list(got["stages"]["exit"]) == ["raise", "serve", "fill", "reenter"]
    assert "async" not in got["stages"]
    assert got["exits"] == {"EFAULT": 6}
    assert got["fills"] == {"demand": {"COPY": 10, "WAKE": 2}, "background": {"CONTINUE": 3}} | {
        "failed": 1,
        "failed_by": {"EEXIST": 1},
    }
    selection = frame.select(aggregate, "")
    assert selection is not None
    (tick,) = aggregate.series.ticks(selection.series_row, selection.rows, 1)
    assert tick["fills"] == {"demand": 10, "background": 3}  # a wake-up places no page
    assert got["queue"] == {"pending": 2, "total": 3, "outstanding": 1}
    assert got["loss"]["ring_full"] == 5
    assert got["missing_hooks"] == ["guest fault: missing"]
    assert got["vms"][0]["rate_per_s"] == 10
    first = got["vcpus"][0]
    assert (first["vcpu"], first["tid"], first["name"], first["faults"]["uffd"]) == (0, 9000, "CPU 0/KVM", 4)
    assert first["open_since_ns"] == feeder.time_ns - S
    assert first["stall"] == 1


def test_a_slow_fault_is_shown_with_the_stages_of_its_mode() -> None:
    feeder, aggregate = busy()
    (fault,) = shown(aggregate)["slowest"]
    assert fault == {
        "time_ns": feeder.time_ns - S - 7 * MS, "vm": "one", "vcpu": 0, "mode": "exit", "latency_ns": 7 * MS,
        "stages_ns": {"raise": 0, "serve": 7 * MS, "fill": 0, "reenter": 0}, "gpa": "0x5000",
        "hva": "0x7f0000001000", "resolver": "COPY", "handler_tid": 77, "tid": 88,
        "access": None, "memslot": None, "presence": None, "inferred": ["gpa", "hva"],
        "error": None, "exit_flags": [], "exit_bytes": None, "handler": None,
    }  # fmt: skip


def test_wall_time_is_the_moment_of_the_data() -> None:
    _, aggregate = busy()
    got = shown(aggregate)
    behind_ms = (time.monotonic_ns() - int(str(got["time_ns"]))) / 1e6
    assert abs(time.time() * 1000 - behind_ms - float(str(got["wall_ms"]))) < 1000


def test_a_collector_of_some_vms_alone_is_marked() -> None:
    feeder = Feeder()
    aggregate = Aggregate()
    for told in ("of process 7 and its descendants", None):
        aggregate.handle(feeder.hello(only=told))
        assert frame.source(aggregate, Status("live"))["only"] == told


def test_without_any_vm_the_frame_is_complete_and_empty() -> None:
    got = shown(Aggregate())
    assert set(got) == KEYS
    assert (got["vm"], got["vms"], got["vcpus"], got["modes"]) == (None, [], [], {})


def test_all_is_shown_even_when_every_vm_has_gone() -> None:
    feeder, aggregate = busy()
    feeder.vms[1].state = "gone"
    aggregate.handle(feeder.vms_message())
    assert shown(aggregate, ALL)["vcpus"] == []
    assert shown(aggregate)["vm"] == "one"  # the last one, rather than nothing
    assert shown(aggregate)["queue"]["pending"] == 0


def test_every_mode_and_stage_has_its_series() -> None:
    assert len(MODES) + len(STAGE_SERIES) == SERIES
