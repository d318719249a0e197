"""In-kernel cost per uffd fault of each strategy, and of a kprobe script that does next to nothing: in one VM.

Not every kernel lets functions be traced; that of the VM does. What an emulated processor takes says nothing by itself:
only the ratios count.
"""

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from exitscope_probes.hooks import STRATEGIES
from tests.bench.bpfstats import programs_of, statistics
from tests.bench.cost import cost_of, explain, total_us
from tests.bench.figure import BenchError, Effort, Row, Spread
from tests.bench.tracers import probes, process, wait_for
from tests.vm.kernels import KernelError, fetch
from tests.vm.machine import MachineError, boot

RELEASE = "6.12"
ROUNDS = 5
PAGES = 4000
PEER = Path(__file__).with_name("handle_userfault.bt")
_GUEST = ("--vcpus", 1, "--mode", "uffd", "--thread-id")
_TITLES = {
    "tracepoint": "the tracepoint strategy's",
    "kprobe": "the kprobe strategy's",
    "script": "a bpftrace kprobe script on handle_userfault",
}
_TARGETS = {"tracepoint": 1 / 3, "script": 1.0}
_VM_S = 900.0


def rows(effort: Effort) -> Iterator[Row]:
    """Boots the VM. Raises BenchError."""
    costs = _measured_in_a_vm(effort.rounds(ROUNDS), effort.pages(PAGES))
    for other, title in _TITLES.items():
        ratio = Spread.of([mine / theirs for mine, theirs in zip(costs["fentry"], costs[other], strict=True)])
        target = _TARGETS.get(other)
        yield Row(
            f"in-kernel cost per uffd fault, fentry / {title}",
            f"{ratio:.2f}",
            f"≤ {target:.2f}" if target else "",
            ratio.middle <= target if target else None,
            f"Debian {RELEASE} in emulation",
        )


def _measured_in_a_vm(rounds: int, pages: int) -> dict[str, list[float]]:
    command = f".venv/bin/python -m tests.bench.strategies {rounds} {pages} >/out/costs 2>/out/explained\n"
    with TemporaryDirectory(prefix="exitscope-bench-") as name:
        out = Path(name)
        try:
            with boot(fetch(RELEASE), out, command) as machine:
                status = machine.wait(_VM_S)
        except (KernelError, MachineError) as error:
            raise BenchError(str(error)) from None
        explained = (out / "explained").read_text()
        print(explained, file=sys.stderr)
        if status:
            raise BenchError(explained.strip()[-300:])
        costs: dict[str, list[float]] = json.loads((out / "costs").read_text())
        return costs


@contextmanager
def _script() -> Iterator[set[int]]:
    with process(["bpftrace", str(PEER)]) as peer:
        wait_for(lambda: len(programs_of(peer.pid)) >= 2, "bpftrace", peer)
        time.sleep(2)  # loaded, and attached a moment later
        yield programs_of(peer.pid)


def main() -> None:
    """Inside: prints {strategy or "script": [µs per fault]}."""
    rounds, pages = map(int, sys.argv[1:])
    tracers: dict[str, Callable[[], AbstractContextManager[set[int]]]] = {
        **{strategy: partial(probes, strategy) for strategy in STRATEGIES},
        "script": _script,
    }
    costs = defaultdict(list)
    with statistics():
        for _ in range(rounds):
            for name, attach in tracers.items():
                with attach() as programs:
                    cost_of(programs, (*_GUEST, "--pages", 500))  # emulation translates what it has not met yet
                    costs[name].append(cost_of(programs, (*_GUEST, "--pages", pages)))
    for name, each in costs.items():
        explain(name, each)
    print(json.dumps({name: [total_us(cost) for cost in each] for name, each in costs.items()}))


if __name__ == "__main__":
    main()
