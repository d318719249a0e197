"""How long each vCPU stood still in a migration, beside how long its thread was off CPU in handle_userfault.

bpftrace sums, at each sched_switch, how long a thread was away, by the kernel stack that it left with: the time of the
stacks with handle_userfault on them is the truth that our figures are held against. They cannot be the same. We count
from when the thread is switched out (the end of `raise`) to when KVM maps its page (the end of `wake`): the way from
the scheduler back to KVM is ours alone. It is 5-20 µs, bpftrace's own two stack walks per switch included: nothing
where a fault takes 20 ms as in a throttled migration, 2-4 % where it takes 600 µs. On a busy host the thread can be
preempted on that way, which bpftrace sees as another stack: as much is allowed.

The whole stall has the way into handle_userfault, 10-20 µs here, and the faults that the kernel solves alone as well.
"""

from itertools import product
from pathlib import Path
from typing import Final

import pytest

from exitscope_probes.records import MODE_UFFD, SEEN_SLEEP
from tests.kernel.harness import Observed, Watch, whole_ns
from tests.kernel.migration import Migration, Plan
from tests.kernel.offcpu import sleeping
from tests.kernel.test_migration import assert_blocktime

pytestmark = pytest.mark.needs("root", "bpf", "kvm", "uffd", "vm", "bpftrace")

MIB: Final = 1 << 20
TOLERANCE: Final = 0.05
FLOOR_NS: Final = 1_000_000  # a thread may be preempted once between bpftrace's program and ours
WAIT, FAULT = "handle_userfault", "kvm_mmu_page_fault"


def _plan(vcpus: int, shared: bool, preempt: bool) -> Plan:
    """Half of them throttled, so that each value of each setting meets each of every other."""
    if (vcpus > 1) ^ shared ^ preempt:
        return Plan(vcpus=vcpus, shared=shared, preempt=preempt, bytes_per_s=8 * MIB, memory_mib=16)
    return Plan(vcpus=vcpus, shared=shared, preempt=preempt, first_bytes_per_s=0, memory_mib=256)


def _name(plan: Plan) -> str:
    words = (f"{plan.vcpus}-vcpus", "shared" if plan.shared else "anon", "preempt" if plan.preempt else "plain")
    return "-".join((*words, "throttled" if plan.bytes_per_s else "unthrottled"))


PLANS: Final = [_plan(*settings) for settings in product((1, 4), (False, True), (False, True))]


def _asleep_ns(seen: Observed, tid: int) -> int:
    """From when the thread was switched out to when its page was mapped, all its faults together."""
    records = seen.records
    own = records[(records["tid"] == tid) & (records["mode"] == MODE_UFFD) & (records["seen"] & SEEN_SLEEP != 0)]
    return int((whole_ns(own) - own["raise_ns"]).sum())


@pytest.mark.parametrize("plan", PLANS, ids=_name)
def test_the_stall_is_the_time_off_cpu(watch: Watch, tmp_path: Path, plan: Plan) -> None:
    with Migration(plan, tmp_path) as migration, sleeping() as off, watch.losing():
        migration.start()
        account = migration.finish()
        seen = watch.observe(migration.destination.pid)
    watch.retire(migration.source.pid, migration.destination.pid)
    assert account.status == "completed"
    assert_blocktime(seen, account)
    assert min(seen.faults(MODE_UFFD)) > 0
    waits, elsewhere = off.inside(WAIT), off.inside(FAULT, but_not=WAIT)
    for row in seen.vcpus:
        tid = int(row["tid"])
        asleep_ns, off_ns = _asleep_ns(seen, tid), waits[tid]
        allowed_ns = round(TOLERANCE * off_ns) + FLOOR_NS
        assert -allowed_ns <= asleep_ns - off_ns <= allowed_ns + elsewhere[tid]
        assert row["stall_ns"] >= asleep_ns
        if plan.bytes_per_s:
            assert row["stall_ns"] - off_ns <= allowed_ns + elsewhere[tid]
