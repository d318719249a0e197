"""The kernel tests pass on stock Debian kernels, whatever the strategy, with nested paging and without."""

import pytest

from tests.vm.inside import RUNS, Run
from tests.vm.kernels import METAPACKAGES
from tests.vm.machine import Machine
from tests.vm.results import last_line, objection

# By the host's clock, and generous: other work may share the processors.
SILENCE_S = 600
END_TIMEOUT_S = 300
RUN_TIMEOUT_S = 3600

pytestmark = [pytest.mark.needs("root", "vm"), pytest.mark.timeout(RUN_TIMEOUT_S + END_TIMEOUT_S)]


@pytest.mark.parametrize("run", [run for runs in RUNS.values() for run in runs], ids=lambda run: run.name)
@pytest.mark.parametrize("release", METAPACKAGES)
def test_kernel_tests_pass(machines: dict[str, Machine], said: list[str], release: str, run: Run) -> None:
    machine = machines[release]
    status = machine.read_when_there(f"{run.name}.status", SILENCE_S)
    log = (machine.out / f"{run.name}.log").read_text(errors="replace")
    said.append(f"Linux {machine.version}, {run.name}: {last_line(log)}")
    if (reason := objection(log)) or status != "0":
        pytest.fail(f"Linux {machine.version}, {run.name}: {reason}\n{log}", pytrace=False)


@pytest.mark.parametrize("release", METAPACKAGES)
def test_kernel_stays_well(machines: dict[str, Machine], release: str) -> None:
    """No oops and no panic from boot to power-off."""
    assert machines[release].wait(END_TIMEOUT_S) == 0
