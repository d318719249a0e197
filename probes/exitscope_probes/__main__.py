"""The way in: `python -m exitscope_probes`."""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # `python -m` puts the current directory there: whatever lies in it would run

import os
import signal


def main() -> None:
    """Run the command line; one clear line where numpy is missing."""
    interrupts = signal.getsignal(signal.SIGINT)
    if interrupts is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # there is nothing to tidy up yet
    try:
        from .commandline import main as run
        from .errors import printed
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "exitscope_probes":
            raise
        sys.exit(
            f"exitscope: the Python package {error.name} is missing: `{sys.executable} -m pip install exitscope` "
            "installs what the collector needs"
        )
    if interrupts is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupts)
    try:
        sys.exit(printed(run))
    except Exception:
        import traceback

        traceback.print_exc()
        sys.exit(os.EX_SOFTWARE)  # a defect of ours: not 1, which a person can mend


if __name__ == "__main__":
    main()
