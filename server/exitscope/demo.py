"""The guests of `exitscope demo`: uffd mode and exit mode side by side, and a third that changes; gentle."""

from collections.abc import Sequence
from itertools import cycle
from typing import Final

from exitscope_probes.isolated import python

from .supervise import Child

_COMMON: Final = ("--vcpus", "4", "--pages", "8192", "--order", "random", "--think-us", "3000")
_NETWORK: Final = ("--delay-us", "300", "--delay-dist", "exp")  # the time that a page takes over a network

UFFD: Final = (
    "--name",
    "demo-uffd",
    "--mode",
    "uffd",
    "--handlers",
    "2",
    "--rounds",
    "0",
    *_COMMON,
    *_NETWORK,
)
EXIT: Final = ("--name", "demo-exit", "--mode", "exit", "--rounds", "0", *_COMMON, *_NETWORK)

# Each of these ends by itself after one to two minutes.
_TURN: Final = ("--vcpus", "2", "--pages", "8192", "--rounds", "4", "--think-us", "3000", *_NETWORK)
CHANGING: Final[tuple[tuple[str, ...], ...]] = (
    ("--name", "demo-minor", "--mode", "uffd", "--fault", "minor", "--prefill-percent", "20", *_TURN),
    ("--name", "demo-async", "--mode", "uffd", "--async", *_TURN),
)


def guests() -> list[Child]:
    """The demo's guests, as children to supervise; the page is worth seeing without them, too."""
    return [
        Child("guest demo-uffd", cycle([_command(UFFD)]), essential=False, quiet=True),
        Child("guest demo-exit", cycle([_command(EXIT)]), essential=False, quiet=True),
        Child(
            "guest demo-changing",
            cycle([_command(options) for options in CHANGING]),
            essential=False,
            quiet=True,
        ),
    ]


def _command(options: Sequence[str]) -> list[str]:
    return python("exitscope_probes.guest", *options)
