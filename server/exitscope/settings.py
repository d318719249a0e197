"""The one table of settings: flags, environment variables, defaults and --help all come from here."""

import pwd
from collections.abc import Callable
from typing import Any, Final

import click

from exitscope_probes.socketfile import DEFAULT_PATH

DEFAULT_PORT: Final = 8765
_USERS: Final = ("exitscope", "nobody")


def default_user() -> str:
    """Whom a server started by root becomes: `exitscope` if there is such a user, else `nobody`."""
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in _USERS if name in known), _USERS[-1])


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
        _setting("--socket", default=DEFAULT_PATH, show_default=True, help="The collector's unix socket."),
        _setting("--source", type=click.Path(), help="Replay this recording instead of the collector."),
        _setting("--replay-reason", help="Why a replay is shown; the page says it."),
        _setting("--group", help="Group that may connect to the collector. [default: that of --user]"),
        _setting(
            "--strategy",
            type=click.Choice(["fentry", "kprobe", "tracepoint"]),
            help="Use only this kind of hook.",
        ),
        _setting(
            "--ring-bytes",
            type=click.IntRange(4096),
            help="Size of the ring of fault records, a power of two.",
        ),
        _setting("--max-vcpus", type=click.IntRange(1), help="vCPUs followed at once."),
        _setting("--max-vms", type=click.IntRange(1), help="VMs followed at once."),
        _setting("--record", type=click.Path(), help="Also write what is collected to this file (gzip)."),
        _setting("--record-seconds", type=click.FloatRange(0), help="How long to record."),
    )
}

SERVER: Final = ("host", "port", "allow_host", "user")
COLLECTOR: Final = (
    "socket",
    "group",
    "strategy",
    "ring_bytes",
    "max_vcpus",
    "max_vms",
    "record",
    "record_seconds",
)


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
            if one is not None:
                arguments += [flag, str(one)]
    return arguments
