"""All kernels at once, a VM each; and what their tests said goes into the summary."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.vm import inside
from tests.vm.kernels import METAPACKAGES, fetch
from tests.vm.machine import CHECKOUT, DIES_WITH_US, Machine, boot
from tests.vm.precompile import fill_caches

_said: list[str] = []


@contextmanager
def compiling(out: Path) -> Iterator[None]:
    """Somebody who compiles for the machine with this /out."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (CHECKOUT, CHECKOUT / "probes")))}
    command = [sys.executable, "-m", "tests.vm.compile_service", str(out)]
    process = subprocess.Popen([*DIES_WITH_US, *command], env=environment)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Machine]]:
    """Running machines by release."""
    kernels = {release: fetch(release) for release in METAPACKAGES}
    fill_caches(kernels.values(), tmp_path_factory.mktemp("survey"))
    with ExitStack() as stack:
        running = {}
        for release, kernel in kernels.items():
            out = tmp_path_factory.mktemp(release)
            stack.enter_context(compiling(out))
            running[release] = stack.enter_context(boot(kernel, out, inside.script()))
        yield running


@pytest.fixture
def said() -> list[str]:
    """Lines for the summary, to be added to."""
    return _said


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in _said:
        terminalreporter.write_line(line)
