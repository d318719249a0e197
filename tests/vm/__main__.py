"""`python -m tests.vm 6.12 -- COMMAND…`: runs a command as root on a Debian kernel, its exit status being ours."""

import argparse
import shlex
import sys
import tempfile
from pathlib import Path

from tests.vm.kernels import METAPACKAGES, KernelError, fetch
from tests.vm.machine import MachineError, boot, follow


def main() -> int:
    """Boots, runs, and prints what the command prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description=__doc__)
    parser.add_argument("release", choices=METAPACKAGES)
    parser.add_argument("--npt", type=int, choices=(0, 1), default=1, help="nested paging (1) or shadow paging (0)")
    parser.add_argument("--timeout", type=float, default=600, metavar="SECONDS")
    parser.add_argument("--dmesg", action="store_true", help="print the kernel's messages, too")
    parser.add_argument("command", nargs="+", help="one argument: a line for bash; several: a command")
    options = parser.parse_args()
    command = options.command[0] if len(options.command) == 1 else shlex.join(options.command)
    with tempfile.TemporaryDirectory(prefix="exitscope-vm-") as name:
        out = Path(name)
        try:
            with boot(fetch(options.release), out, command + "\n", npt=options.npt) as machine:
                for text in follow(machine, out / "output", options.timeout):
                    print(text, end="", flush=True)
                if options.dmesg and (out / "dmesg").exists():
                    print((out / "dmesg").read_text(errors="replace"))
                return machine.wait(options.timeout)
        except (KernelError, MachineError) as error:
            print(f"tests.vm: {error}", file=sys.stderr)
            return 1


if __name__ == "__main__":
    sys.exit(main())
