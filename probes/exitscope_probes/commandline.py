"""`python -m exitscope_probes collect|doctor`, for a host that has only the probes installed."""

import argparse
from collections.abc import Callable
from typing import Any

from . import __version__, doctor
from .collector import main as collect
from .settings import OPTIONS, Option, Settings, from_environment


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run; returns the exit status (2, by argparse, for wrong usage)."""
    parser = argparse.ArgumentParser(prog="exitscope_probes", description="The privileged half of exitscope.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    collector = commands.add_parser("collect", help="trace all VMs and serve what is seen on a unix socket")
    add_collect_arguments(collector)
    doctor_parser = commands.add_parser("doctor", help="what this host can show, and what to do about the rest")
    doctor_parser.add_argument("--json", action="store_true", help="as JSON")
    arguments = vars(parser.parse_args(argv))
    if arguments.pop("command") == "doctor":
        return doctor.main(as_json=arguments["json"])
    try:
        environment = from_environment()
    except ValueError as error:
        collector.error(str(error))
    return collect(Settings(**environment | arguments))


def add_collect_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `collect`, one for each field of Settings. What is not given is not in the result."""
    for option in OPTIONS.values():
        default = f" [default: {option.default}]" if option.default else ""
        details: dict[str, Any] = {"help": f"{option.help} [env var: {option.variable}]{default}"}
        if option.switch:
            details["action"] = "store_true"
        else:
            details |= {"type": _reader(option), "metavar": option.metavar, "choices": option.choices or None}
            details |= {"action": "append"} if option.many else {}
        parser.add_argument(option.flag, default=argparse.SUPPRESS, **details)


def _reader(option: Option) -> Callable[[str], Any]:
    """What argparse calls; it shows the message of an ArgumentTypeError as it is."""

    def read(text: str) -> Any:
        try:
            return option.read(text) if not option.many else option.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read
