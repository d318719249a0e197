"""The one table of settings: flags, environment variables, defaults and --help all come from here."""

import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from exitscope_probes.settings import OPTIONS
from exitscope_probes.settings import Option as CollectorOption

DEFAULT_PORT: Final = 8765
SHARED_USER: Final = "nobody"
"""Every system has it, and other programs run as it, too."""
_USERS: Final = ("exitscope", SHARED_USER)
_UNITS_NS: Final = {
    "": 1_000_000_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
}


def default_user() -> str:
    """Whom a server started by root becomes: `exitscope` if there is such a user, else `nobody`."""
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in _USERS if name in known), _USERS[-1])


def default_recordings() -> str:
    """Where recordings are kept: what systemd gives, else the user's state directory, else the system's."""
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if given:
        return str(Path(given) / "recordings")
    home = os.environ.get("XDG_STATE_HOME") or ("/var/lib" if os.geteuid() == 0 else str(Path.home() / ".local/state"))
    return str(Path(home) / "exitscope" / "recordings")


class Duration(click.ParamType[str]):
    """A length of time such as 30d; stays text, so that it can be handed on. `nanoseconds` reads it."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text, if it is one."""
        try:
            nanoseconds(str(value))
        except ValueError:
            self.fail(f"{value!r} is no length of time such as 30d, 12h, 90m, 10s or 500ms", param, ctx)
        return str(value)


def nanoseconds(duration: str) -> int:
    """Of a Duration; ValueError if it is none."""
    number = duration.rstrip("dhms")
    unit_ns = _UNITS_NS.get(duration[len(number) :])
    if unit_ns is None or not number.isdigit() or len(number) > 9:
        raise ValueError(duration)
    return int(number) * unit_ns


class _Read(click.ParamType[Any]):
    """The value of a collector's option, read as the collector itself would read it."""

    envvar_list_splitter = os.pathsep

    def __init__(self, option: CollectorOption) -> None:
        self._option = option
        self.name = option.metavar.lower()

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value, if the text is one."""
        if not isinstance(value, str):
            return value
        try:
            return self._option.parse(value) if self._option.many else self._option.read(value)
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


def _of_the_collector(option: CollectorOption) -> click.Option:
    details: dict[str, Any] = {"help": option.help, "envvar": option.variable, "show_envvar": True}
    if option.switch:
        details["is_flag"] = True
    else:
        details["type"] = click.Choice(option.choices) if option.choices else _Read(option)
        details |= {"multiple": True} if option.many else {"default": option.default, "show_default": True}
    return click.Option([option.flag], **details)


def _setting(flag: str, **details: Any) -> click.Option:
    variable = "EXITSCOPE_" + flag.removeprefix("--").replace("-", "_").upper()
    return click.Option([flag], envvar=variable, show_envvar=True, **details)


SETTINGS: Final[dict[str, click.Option]] = {
    option.name or "": option
    for option in (
        _setting(
            "--host",
            default="127.0.0.1",
            show_default=True,
            help="Address to listen on; loopback is for this machine.",
        ),
        _setting(
            "--port",
            default=DEFAULT_PORT,
            show_default=True,
            type=click.IntRange(0, 65535),
            help="Port of the page; 0: any free one.",
        ),
        _setting("--allow-host", multiple=True, help="Further name by which browsers may reach the page."),
        _setting(
            "--user",
            help="User that the server becomes when root starts it. [default: exitscope, else nobody]",
        ),
        _setting("--recordings", type=click.Path(), help="Directory of the recordings. [default: see README]"),
        _setting(
            "--recordings-max-bytes",
            default=10 << 30,
            show_default=True,
            type=click.IntRange(0),
            help="Bytes of all recordings together; the oldest are deleted beyond it. 0: no limit.",
        ),
        _setting(
            "--recordings-max-age",
            default="30d",
            show_default=True,
            type=Duration(),
            help="Recordings older than this are deleted: a number and s, m, h or d. 0: no limit.",
        ),
        _setting(
            "--auto-record",
            is_flag=True,
            help="Record each migration by itself, from its first sign to its last fill.",
        ),
        _setting(
            "--alarm-stall",
            default="1s",
            show_default=True,
            type=Duration(),
            help="Alarm when a vCPU stands still for longer in one fault. 0: never.",
        ),
        _setting(
            "--alarm-fault",
            default="5s",
            show_default=True,
            type=Duration(),
            help="Alarm when a fault is unresolved for longer: its page may never come. 0: never.",
        ),
        _setting(
            "--alarm-handler",
            default="1s",
            show_default=True,
            type=Duration(),
            help="Alarm when vCPUs wait and nothing is read or filled for longer. 0: never.",
        ),
        _setting(
            "--alarm-vm-stall",
            default=75,
            show_default=True,
            type=click.IntRange(0, 100),
            help="Alarm when a VM's vCPUs together stand still for more percent of the last 10 s. 0: never.",
        ),
        _setting(
            "--metrics-buckets",
            default="few",
            show_default=True,
            type=click.Choice(["few", "exact"]),
            help="Latency buckets in /metrics; exact: all 592, for convert_classic_histograms_to_nhcb in Prometheus.",
        ),
        _setting(
            "--metrics-per",
            default="vcpu",
            show_default=True,
            type=click.Choice(["vcpu", "vm"]),
            help="Whether /metrics has a series for each vCPU, or one for each VM.",
        ),
        _setting("--source", type=click.Path(), help="Replay this recording instead of the collector."),
        _setting("--replay-reason", help="Why a replay is shown; the page says it."),
        *map(_of_the_collector, OPTIONS.values()),
    )
}

SERVER: Final = (
    "host",
    "port",
    "allow_host",
    "user",
    "recordings",
    "recordings_max_bytes",
    "recordings_max_age",
    "auto_record",
    "alarm_stall",
    "alarm_fault",
    "alarm_handler",
    "alarm_vm_stall",
    "metrics_buckets",
    "metrics_per",
)
COLLECTOR: Final = tuple(OPTIONS)


def takes(*names: str) -> Callable[[click.Command], click.Command]:
    """Decorator: give a command these settings, in this order."""

    def decorate(command: click.Command) -> click.Command:
        command.params[:0] = [SETTINGS[name] for name in names]
        return command

    return decorate


def as_arguments(values: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    """The command line of a child process that gets the same settings; what is not set is left out."""
    arguments: list[str] = []
    for name in names:
        value = values.get(name)
        flag = SETTINGS[name].opts[0]
        for one in value if isinstance(value, tuple) else [value]:
            if one is True:  # a switch
                arguments.append(flag)
            elif one is not None and one is not False:
                arguments += [flag, str(one)]
    return arguments
