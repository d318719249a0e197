"""What can go wrong for a person who runs the probes: one tree, caught once, in main."""

import sys


class ProbeError(Exception):
    """One clear line, and in `hint` what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}: {self.hint}" if self.hint else self.message


class RingError(ProbeError):
    """The ring holds something that is not a record of the expected type and size."""


class SocketError(ProbeError):
    """The collector's socket cannot be made."""


class RecordingError(ProbeError):
    """The file of a recording cannot be written."""


def fail(error: ProbeError) -> int:
    """Print the error as one line on stderr; returns the exit status for it, 1."""
    print(f"exitscope: {error}", file=sys.stderr)
    return 1
