"""What a collector can be told: the one table that every command line, the environment and the help texts come from."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .hooks import STRATEGIES, Strategy
from .recording import DEFAULT_SECONDS
from .socketfile import DEFAULT_PATH

MAX_VCPUS: Final = 4096
"""vCPUs followed at once unless told otherwise, by collector and server; memory grows with those there are."""
MAX_VMS: Final = 1024
MOST_VCPUS: Final = 8191  # maps.py has eight threads for each, which bpf/maps.h numbers with 16 bits
MOST_VMS: Final = 4096
_MIN_RING_BYTES: Final = 4096  # one page: kernel/bpf/ringbuf.c takes a power of two of whole pages


@dataclass(frozen=True, slots=True)
class Settings:
    """ring_bytes: a power of two; only_pid_tree, only_cgroup: see only.only; record: a file, for record_seconds; qmp,
    no_qmp: see migration.Follower.
    """

    socket: str = DEFAULT_PATH
    group: str | None = None
    strategy: Strategy | None = None
    ring_bytes: int = 16 << 20
    max_vcpus: int = MAX_VCPUS
    max_vms: int = MAX_VMS
    only_pid_tree: int | None = None
    only_cgroup: str | None = None
    record: str | None = None
    record_seconds: float = DEFAULT_SECONDS
    qmp: Sequence[str] = ()
    no_qmp: bool = False


def _power_of_two(text: str) -> int:
    number = int(text)
    if number < _MIN_RING_BYTES or number & (number - 1):
        raise ValueError(f"it must be a power of two, at least {_MIN_RING_BYTES}")
    return number


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError("it must be at least 1")
    return number


def _up_to(most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        number = _positive(text)
        if number > most:
            raise ValueError(f"it must be at most {most}")
        return number

    return parse


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise ValueError("it must be a number of seconds, 0 or more")
    return number


@dataclass(frozen=True, slots=True)
class Option:
    """One field of Settings. parse: its value from text, or ValueError with what is wanted.

    many: may be given again, and the variable has several, parted by colons; switch: a flag without a value.
    """

    name: str
    help: str
    parse: Callable[[str], Any] = str
    metavar: str = "TEXT"
    choices: tuple[str, ...] = ()
    many: bool = False
    switch: bool = False

    @property
    def flag(self) -> str:
        """As it is written on a command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable that sets it where no flag does."""
        return "EXITSCOPE_" + self.name.upper()

    @property
    def default(self) -> Any:
        """What holds if nobody says anything."""
        return getattr(Settings(), self.name)

    def read(self, text: str) -> Any:
        """The value that this text of the environment stands for. Raises ValueError with what is wanted."""
        if self.switch:
            return _switch(text)
        if self.many:
            return tuple(self.parse(one) for one in text.split(os.pathsep) if one)
        if self.choices and text not in self.choices:
            raise ValueError(f"it must be one of {', '.join(self.choices)}")
        try:
            return self.parse(text)
        except ValueError as error:
            reason = str(error)
            raise ValueError(reason if reason.startswith("it must") else "it must be a number") from None


def _switch(text: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    try:
        return words[text.lower()]
    except KeyError:
        raise ValueError("it must be 1 or 0") from None


OPTIONS: Final[dict[str, Option]] = {
    option.name: option
    for option in (
        Option("socket", "The collector's unix socket.", metavar="PATH"),
        Option("group", "Group that may connect to the collector."),
        Option("strategy", "Use only this kind of hook.", choices=STRATEGIES),
        Option("ring_bytes", "Size of the ring of fault records, a power of two.", _power_of_two, "BYTES"),
        Option("max_vcpus", "vCPUs followed at once.", _up_to(MOST_VCPUS), "NUMBER"),
        Option("max_vms", "VMs followed at once.", _up_to(MOST_VMS), "NUMBER"),
        Option("only_pid_tree", "Trace only the VMs of this process and its descendants.", _positive, "PID"),
        Option("only_cgroup", "Trace only the VMs in this control group (cgroup2).", metavar="PATH"),
        Option("record", "Also write what is collected to this file (gzip).", metavar="PATH"),
        Option("record_seconds", "How long to record.", _seconds, "SECONDS"),
        Option(
            "qmp",
            "Monitor (QMP) of a QEMU whose migrations to follow; others are found by their command line.",
            metavar="PATH",
            many=True,
        ),
        Option("no_qmp", "Ask no VMM's monitor about migrations.", switch=True),
    )
}


def from_environment(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The settings that environment variables give, by name. Raises ValueError naming a variable that is wrong."""
    given: dict[str, Any] = {}
    for option in OPTIONS.values():
        text = environment.get(option.variable, "")
        if not text:  # an empty variable says nothing, as with the flags of other programs
            continue
        try:
            given[option.name] = option.read(text)
        except ValueError as error:
            raise ValueError(f"{option.variable}={text}: {error}") from None
    return given
