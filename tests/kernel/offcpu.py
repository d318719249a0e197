"""Time off CPU by kernel stack, by bpftrace: it shares no code with the probes, and asks nothing of them."""

import json
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.kernel.harness import TIMEOUT_S

_SCRIPT: Final = Path(__file__).with_suffix(".bt")


class OffCpu:
    """What was seen once `sleeping` is over: off_ns, by (thread id, names of the kernel functions on its stack)."""

    def __init__(self) -> None:
        self.off_ns: Counter[tuple[int, tuple[str, ...]]] = Counter()

    def inside(self, function: str, but_not: str = "") -> Counter[int]:
        """ns that each thread was off CPU below a kernel function, but not below another, by thread id."""
        inside: Counter[int] = Counter()
        for (tid, stack), off_ns in self.off_ns.items():
            inside[tid] += off_ns if function in stack and but_not not in stack else 0
        return inside

    def read(self, line: str) -> None:
        """A line of bpftrace's JSON: a map's keys are `tid,stack`, a stack is lines of `name+offset`."""
        said = json.loads(line) if line.strip() else {}
        if said.get("type") != "map":
            return
        for key, off_ns in said["data"].get("@off_ns", {}).items():
            tid, _, stack = key.partition(",")
            self.off_ns[int(tid), tuple(frame.partition("+")[0] for frame in stack.split())] += off_ns


@contextmanager
def sleeping() -> Iterator[OffCpu]:
    """bpftrace watches all threads that are named as QEMU names its vCPUs while the context lasts."""
    seen = OffCpu()
    command = ["bpftrace", "-f", "json", str(_SCRIPT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout and process.stderr
            for line in process.stdout:
                if "tracing" in line:
                    break
            else:
                raise AssertionError(f"bpftrace: {process.stderr.read()}")
            yield seen
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=TIMEOUT_S)
            assert process.returncode == 0, errors
            for line in output.splitlines():
                seen.read(line)
        finally:
            process.kill()
