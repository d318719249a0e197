"""The conditions that a recording was made under: what the host says of itself, what the collector found of each VM."""

from collections.abc import Container
from pathlib import Path
from typing import Any, Final

from exitscope_probes.records import EXIT_NAMES, FILLS, MODES, STAGE_SERIES

from .counters import BACKGROUND, BYTES_BACKGROUND, COUNTS, DEMAND, EXITS, FAILED, PREFETCH, STALL_NS, SUMS_NS, Owner
from .meta import Handler, RecordedVcpu, RecordedVm, Snapshot, Totals, VcpuTotals, VmTotals
from .survey import Counted, Survey

MAX_HANDLERS: Final = 64
_CPUINFO: Final = Path("/proc/cpuinfo")


def cpu_model() -> str | None:
    """What the host calls its processors; None if it does not say."""
    try:
        text = _CPUINFO.read_text(errors="replace")[: 64 << 10]
    except OSError:
        return None
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    if "model name" in fields:
        return fields["model name"][:128]
    if "CPU implementer" in fields:  # arm64 has no name
        return f"CPU implementer {fields['CPU implementer']} part {fields.get('CPU part', '?')}"[:128]
    return None


def hooks(survey: Survey) -> list[dict[str, Any]]:
    """The hook plan, as HELLO said it."""
    said = survey.hello.get("capabilities")
    plan = said.get("hooks") if isinstance(said, dict) else said
    return [hook for hook in plan if isinstance(hook, dict)] if isinstance(plan, list) else []


def profile(survey: Survey) -> dict[str, Any]:
    """What HELLO said of the kernel's series: names of exit flags and the like."""
    said = survey.hello.get("capabilities")
    found = said.get("profile") if isinstance(said, dict) else None
    return found if isinstance(found, dict) else {}


def only(head: dict[str, Any], end: dict[str, Any] | None, survey: Survey) -> list[str] | None:
    """Ids of the VMs that it is of; None: all. Of a killed recorder those that it has records of."""
    if not head.get("vm"):
        return None
    further = map(survey.vm_id, survey.recorded) if end is None else end.get("vms", [])
    return [head["vm"], *further]


def vms(survey: Survey, only: Container[str] | None) -> list[RecordedVm]:
    """Every VM that was there, or those that were asked for; the parts of several sessions joined."""
    found: dict[str, RecordedVm] = {}
    keys = dict.fromkeys([*survey.vms, *(owner.key for owner in survey.counted)])
    for key in keys:
        vm_id = survey.vm_id(key)
        if only is None or vm_id in only:
            found[vm_id] = _vm(survey, key, found.get(vm_id) or RecordedVm(id=vm_id))
    return list(found.values())


def said(vm: RecordedVm) -> dict[str, Any]:
    """The same as VMS says it, the inverse of `vms`; the CPU time of threads is not recorded."""
    handlers = [{"tid": handler.tid, "name": handler.name} for handler in vm.handlers if handler.tid > 0]
    return {"uuid": vm.uuid, "domain": vm.domain, "memory_bytes": vm.memory_bytes, "handlers": handlers}


def totals(survey: Survey, only: Container[str] | None) -> Totals:
    """The kernel's totals at start and stop; those at the stop go on if a collector restarted in between."""
    start, stop = Snapshot(time_ns=survey.started_ns or 0), Snapshot(time_ns=survey.ended_ns)
    for owner in sorted(survey.counted, key=lambda owner: -1 if owner.vcpu is None else owner.vcpu):
        vm_id = survey.vm_id(owner.key)
        if only is not None and vm_id not in only:
            continue
        for snapshot, values, hardware in (
            (start, owner.start, {}),
            (stop, owner.start + owner.grown, owner.hardware),
        ):
            vm = snapshot.vms.setdefault(vm_id, VmTotals())
            if owner.vcpu is None:
                _add_vm(vm, values)
            else:
                _add_vcpu(vm, owner, values, hardware)
    return Totals(start=start, stop=stop)


def owners(survey: Survey) -> list[Owner]:
    """Whose the counters of survey.log are, by number."""
    return [Owner(survey.vm_id(owner.key), owner.vcpu, owner.tid) for owner in survey.counted]


def _vm(survey: Survey, key: tuple[int, int], vm: RecordedVm) -> RecordedVm:
    said = survey.vms.get(key, {})
    for name in ("name", "vmm", "uuid", "domain", "command", "backing", "pid", "memory_bytes", "uffd_features"):
        value = said.get(name)
        if value is not None and isinstance(value, int if name in ("pid", "memory_bytes") else (str, list)):
            setattr(vm, name, value)
    threads = {vcpu.vcpu: vcpu for vcpu in vm.vcpus}
    for owner in survey.counted:
        if owner.key == key and owner.vcpu is not None and owner.vcpu >= 0:
            threads[owner.vcpu] = RecordedVcpu(vcpu=owner.vcpu, tid=owner.tid)
    for one in said.get("vcpus") or []:
        if isinstance(one.get("vcpu"), int):
            threads[one["vcpu"]] = RecordedVcpu(
                vcpu=one["vcpu"], tid=int(one.get("tid") or 0), name=str(one.get("name") or "")
            )
    vm.vcpus = [threads[vcpu] for vcpu in sorted(threads)]
    names = {one.get("tid"): str(one.get("name") or "") for one in said.get("handlers") or []}
    fills = {handler.tid: handler for handler in vm.handlers}
    for (owner_key, tid), count in survey.handlers.items():
        if owner_key == key:
            before = fills[tid].fills if tid in fills else 0
            fills[tid] = Handler(tid=tid, name=names.get(tid, ""), fills=before + count)
    vm.handlers = sorted(fills.values(), key=lambda handler: -handler.fills)[:MAX_HANDLERS]
    vm.memslots = sorted({*vm.memslots, *survey.memslots.get(key, set())})
    vm.async_faults = vm.async_faults or key in survey.async_faults
    return vm


def _add_vm(vm: VmTotals, values: Any) -> None:
    for columns, fills in ((DEMAND, vm.fills_demand), (BACKGROUND, vm.fills_background)):
        for name, count in zip(FILLS, values[columns].tolist(), strict=True):
            if count:
                fills[name] = fills.get(name, 0) + count
    vm.fills_failed += int(values[FAILED])
    vm.bytes_background += int(values[BYTES_BACKGROUND])


def _add_vcpu(vm: VmTotals, owner: Counted, values: Any, hardware: dict[str, list[int]]) -> None:
    at = next((vcpu for vcpu in vm.vcpus if vcpu.vcpu == owner.vcpu), None)
    if at is None:
        at = VcpuTotals(vcpu=-1 if owner.vcpu is None else owner.vcpu)
        vm.vcpus.append(at)
    at.tid = owner.tid
    counts, sums = values[COUNTS].tolist(), values[SUMS_NS].tolist()
    for series, mode in enumerate(MODES):
        at.faults[mode] = at.faults.get(mode, 0) + counts[series]
        at.sum_ns[mode] = at.sum_ns.get(mode, 0) + sums[series]
    for series, (family, stage) in enumerate(STAGE_SERIES, len(MODES)):
        if counts[series]:
            count, sum_ns = at.stages.get(f"{family}.{stage}", (0, 0))
            at.stages[f"{family}.{stage}"] = [count + counts[series], sum_ns + sums[series]]
    for name, count in zip(EXIT_NAMES, values[EXITS].tolist(), strict=True):
        if count:
            at.exits[name] = at.exits.get(name, 0) + count
    for name, (count, sum_ns) in hardware.items():
        before = at.hardware.get(name, [0, 0])
        at.hardware[name] = [before[0] + count, before[1] + sum_ns]
    at.stall_ns += int(values[STALL_NS])
    at.prefetch += int(values[PREFETCH])
