"""The way in: `exitscope` and `python -m exitscope`."""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # `python -m` puts the current directory there: whatever lies in it would run

import os
import signal


def main() -> None:
    """Run the command line; one clear line where the server's packages are missing."""
    interrupts = signal.getsignal(signal.SIGINT)
    if interrupts is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # there is nothing to tidy up yet
    _open_standard_files()
    try:
        from .cli import main as run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in {"exitscope", "exitscope_probes"}:
            raise
        sys.exit(
            f"exitscope: the Python package {error.name} is missing: `{sys.executable} -m pip install "
            "'exitscope[server]'` installs what the command line and the server need; a host that only collects has "
            f"`{sys.executable} -I -m exitscope_probes collect`"
        )
    if interrupts is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupts)
    try:
        run()
    except Exception:
        import traceback

        traceback.print_exc()
        sys.exit(os.EX_SOFTWARE)  # a defect of ours: not 1, which a person can mend


def _open_standard_files() -> None:
    """Where one is closed (`>&-`), the first file that is opened would take its place, and be printed into."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, so this one
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115 (stays open)


if __name__ == "__main__":
    main()
