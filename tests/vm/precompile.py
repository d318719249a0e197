"""Compiles the probes for all kernels before their tests begin: beside emulated processors a compiler is slow.

What is needed only the kernels know: each is booted for a moment and asked, where the cache is not of this source.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import exitscope_probes
from exitscope_probes import compiler
from tests.vm.inside import survey_script
from tests.vm.kernels import Kernel
from tests.vm.machine import CHECKOUT, boot

_SURVEY_TIMEOUT_S: Final = 600.0
_COMPILE_TIMEOUT_S: Final = 600.0


def fill_caches(kernels: Iterable[Kernel], scratch: Path) -> None:
    """scratch: an empty directory. Raises MachineError if a kernel does not boot."""
    source = _source()
    stale = [kernel for kernel in kernels if _filled_for(kernel) != source]
    with ExitStack() as stack:
        machines = []
        for kernel in stale:
            out = scratch / kernel.version
            out.mkdir()
            machines.append(stack.enter_context(boot(kernel, out, survey_script())))
        for machine in machines:
            machine.wait(_SURVEY_TIMEOUT_S)
    for kernel in stale:  # all machines are off by now
        environment = os.environ | {
            "CACHE_DIRECTORY": str(kernel.probe_cache),
            "PYTHONPATH": os.pathsep.join(map(str, (CHECKOUT, CHECKOUT / "probes"))),
        }
        command = [sys.executable, "-m", "tests.vm.precompile", str(scratch / kernel.version)]
        subprocess.run(command, env=environment, check=True, timeout=_COMPILE_TIMEOUT_S)
        _stamp(kernel).write_text(source)


def _stamp(kernel: Kernel) -> Path:
    return kernel.probe_cache / "filled-for"


def _filled_for(kernel: Kernel) -> str:
    try:
        return _stamp(kernel).read_text()
    except FileNotFoundError:
        return ""


def _source() -> str:
    """A hash of all that decides what is compiled."""
    package = Path(exitscope_probes.__file__).parent
    files = sorted(path for pattern in ("*.py", "bpf/*") for path in package.glob(pattern))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def main(out: Path) -> None:
    """Compiles what a VM has written down, into CACHE_DIRECTORY."""
    for path in sorted(out.glob("*.wanted")):
        wanted = json.loads(path.read_text())
        compiler.compile_probes(wanted["numbers"], wanted["programs"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
