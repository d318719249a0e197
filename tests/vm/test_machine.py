"""A machine whose kernel falls over is a failure, though QEMU ends well."""

from pathlib import Path

import pytest

from tests.vm.kernels import fetch
from tests.vm.machine import MachineError, boot

pytestmark = [pytest.mark.needs("root", "vm"), pytest.mark.timeout(600)]


def test_a_panic_is_a_failure(tmp_path: Path) -> None:
    with (
        boot(fetch("6.12"), tmp_path, "echo c >/proc/sysrq-trigger\n") as machine,
        pytest.raises(MachineError, match="Kernel panic"),
    ):
        machine.wait(300)
