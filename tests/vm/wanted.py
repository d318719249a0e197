"""Inside a VM: writes down which probes its tests need, for the host to compile: /out/PAGING-STRATEGY.wanted."""

import sys
from collections.abc import Iterable
from pathlib import Path

from exitscope_probes import loader
from exitscope_probes.hooks import STRATEGIES
from tests.vm.compile_service import write_whole

_OUT = Path("/out")


class _Written(Exception):
    """Enough is known: nothing is to be loaded."""


def main(paging: str) -> None:
    """paging: as in inside.RUNS, and as KVM is loaded now."""
    for strategy in STRATEGIES:

        def write(numbers: dict[str, int], programs: Iterable[str], strategy: str = strategy) -> dict[str, bytes]:
            wanted = {"numbers": numbers, "programs": sorted(programs)}
            write_whole(_OUT / f"{paging}-{strategy}.wanted", wanted)
            raise _Written

        setattr(loader, "compile_probes", write)  # noqa: B010 (it is another module's import)
        try:
            loader.load(strategy=strategy)
        except _Written:
            continue


if __name__ == "__main__":
    main(sys.argv[1])
