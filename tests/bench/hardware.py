"""In-kernel cost per hardware exit beside a bpftrace script, both attached to the same run.

`python -m tests.vm 6.12 -- .venv/bin/python -m tests.bench.hardware`: it takes a KVM that shows hardware exits.
"""

import sys
import time
from pathlib import Path

from tests.bench.bpfstats import programs_of, run_times, statistics
from tests.bench.figure import BenchError
from tests.bench.guests import run_guest
from tests.bench.tracers import probes, process, wait_for

PEER = Path(__file__).with_name("hardware.bt")
GUEST = ("--mode", "none", "--vcpus", 1, "--pages", 4000)
ROUNDS = 5


def main() -> int:
    """Prints ns per exit and program; 1 if no exit was seen."""
    with probes() as ours, process(["bpftrace", str(PEER)]) as peer, statistics():
        wait_for(lambda: len(programs_of(peer.pid)) >= 2, "bpftrace", peer)
        time.sleep(2)  # loaded, and attached a moment later
        sides = {"exitscope": ours, "bpftrace": programs_of(peer.pid)}
        for _ in range(ROUNDS):
            before = run_times(ours | sides["bpftrace"])
            run_guest(*GUEST)
            after = run_times(ours | sides["bpftrace"])
            for side, programs in sides.items():
                spent = {
                    number: (
                        after[number].run_time_ns - before[number].run_time_ns,
                        after[number].runs - before[number].runs,
                    )
                    for number in programs
                    if side != "exitscope" or after[number].name.startswith("on_hardware")
                }
                exits = max(runs for _, runs in spent.values())
                if not exits:
                    raise BenchError("no hardware exit: this KVM shows none")
                each = ", ".join(
                    f"{after[n].name} {ns / max(runs, 1):.0f} ns" for n, (ns, runs) in sorted(spent.items())
                )
                whole = sum(ns for ns, _ in spent.values()) / exits
                print(f"{side:10} {whole:6.0f} ns per exit ({exits} exits: {each})", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"bench: {error}")
