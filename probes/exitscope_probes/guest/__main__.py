"""Runs the guest in place of this process: `python -m exitscope_probes.guest [options]`."""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # `python -m` puts the current directory there: whatever lies in it would run

import os

from exitscope_probes.guest.build import GuestBuildError, binary_path


def main() -> None:
    """Replaces the process by the guest; ends with status 1 and one line when it cannot be built."""
    try:
        binary = binary_path()
    except GuestBuildError as error:
        sys.exit(f"exitscope guest: {error}")
    os.execv(binary, [str(binary), *sys.argv[1:]])


if __name__ == "__main__":
    main()
