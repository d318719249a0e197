"""What runs in the VMs: the kernel tests, with each strategy, under nested and under shadow paging."""

import os
import shlex
from dataclasses import dataclass
from typing import Final

from exitscope_probes.hooks import STRATEGIES

_COUNTS, _ENDS, _WAITERS = (f"tests/kernel/test_{name}.py::test" for name in ("counts", "ends", "waiters"))
# Who faulted, how often, how it ended: a third of those tests, for time is short where processors are emulated. Kicked
# vCPUs are left to other machines: on one emulated CPU an event may be seen to be read after the vCPU asked again,
# and of 50 faults 49 were told apart (Linux 6.12, fentry and kprobe).
_EACH: Final = (
    "tests/kernel/test_attach.py",
    f"{_COUNTS}_every_fault_is_counted_once",
    f"{_COUNTS}_background_fills_are_no_faults",
    f"{_COUNTS}_faults_that_the_kernel_solves_alone",
    f"{_COUNTS}_exits_are_counted_by_reason",
    f"{_ENDS}_killed_in_a_fault",
    f"{_ENDS}_killed_while_a_kworker_waits",
    f"{_ENDS}_handlers_that_die",
    f"{_WAITERS}_a_vmm_thread_waits_as_other",
    *("-k", "not -8] and not shmem and not (background and minor)"),
)
# What attaches several strategies to the same run of a guest; with nested paging, other tracers, too.
_TOGETHER: Final = {
    "npt": ("tests/kernel/test_parity.py", "tests/kernel/test_hardware_exits.py"),
    "shadow": ("tests/kernel/test_parity.py",),
}


# The clock in there may run three times too fast: how long a test may take is the host's to say (test_kernels.py).
_PATIENCE: Final = "EXITSCOPE_TEST_PATIENCE=20"
# Plugins that happen to be installed would take longer to import than the tests.
_PYTEST: Final = (
    *("env", _PATIENCE, "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1", ".venv/bin/python", "-m", "pytest", "-p", "pytest_timeout"),
    *("-p", "tests.vm.inside_plugin"),
    *("-p", "no:cacheprovider", "-q", "--tb=short", "-o", "timeout=0"),
    # As on the host CI tries once more what fails, in sight: the last line, which the summary repeats, counts it.
    *(("-p", "pytest_rerunfailures", "--reruns", "1") if os.environ.get("CI") else ()),
)
_SHADOW: Final = "rmmod kvm_amd && insmod /run/modules/kvm_amd.ko npt=0 || exit\n"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of pytest in a VM, which leaves NAME.log and NAME.status in the VM's /out."""

    name: str
    arguments: tuple[str, ...]

    def script(self) -> str:
        """A line of bash."""
        command = shlex.join([*_PYTEST, *self.arguments])
        return f"{command} >/out/{self.name}.log 2>&1; echo $? >/out/{self.name}.status\n"


def _runs(paging: str) -> tuple[Run, ...]:
    each = (Run(f"{paging}-{strategy}", (f"--strategy={strategy}", *_EACH)) for strategy in STRATEGIES)
    return (*each, Run(f"{paging}-together", (f"--strategy={STRATEGIES[0]}", *_TOGETHER[paging])))


RUNS: Final = {paging: _runs(paging) for paging in _TOGETHER}
"""By how the guests' memory is paged: NPT, or KVM's shadow page tables."""


def script() -> str:
    """Bash that does all runs, from nested paging, which KVM is loaded with, to none."""
    nested, shadow = ("".join(run.script() for run in runs) for runs in RUNS.values())
    return f"{nested}{_SHADOW}{shadow}"


def survey_script() -> str:
    """Bash that writes down what the runs will need compiled."""
    nested, shadow = (f".venv/bin/python -m tests.vm.wanted {paging} || exit\n" for paging in RUNS)
    return f"{nested}{_SHADOW}{shadow}"
