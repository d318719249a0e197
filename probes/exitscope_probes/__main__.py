"""`python -m exitscope_probes collect|doctor`, for a host that has only the probes installed."""

import argparse
import sys

from . import __version__, doctor
from .collector import main as collect
from .hooks import STRATEGIES
from .settings import Settings


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
    return collect(Settings(**arguments))


def add_collect_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `collect`, one for each field of Settings."""
    default = Settings()
    parser.add_argument("--socket", default=default.socket, help="unix socket to serve on (%(default)s)")
    parser.add_argument("--group", help="group that may connect")
    parser.add_argument("--strategy", choices=STRATEGIES, help="use only this kind of attachment")
    parser.add_argument(
        "--ring-bytes", type=_power_of_two, default=default.ring_bytes, help="size of the ring (%(default)s)"
    )
    parser.add_argument("--max-vcpus", type=_positive, default=default.max_vcpus, help="(%(default)s)")
    parser.add_argument("--max-vms", type=_positive, default=default.max_vms, help="(%(default)s)")
    parser.add_argument("--record", metavar="FILE.gz", help="also write what is served to this file")
    parser.add_argument("--record-seconds", type=float, default=default.record_seconds, help="how long (%(default)s)")
    parser.add_argument(
        "--qmp",
        metavar="PATH",
        action="append",
        default=[],
        help="a QEMU's monitor to follow migrations by; repeatable",
    )
    parser.add_argument("--no-qmp", action="store_true", help="ask no VMM's monitor about migrations")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _power_of_two(text: str) -> int:
    number = _positive(text)
    if number < 4096 or number & (number - 1):
        raise argparse.ArgumentTypeError("must be a power of two, at least 4096")
    return number


if __name__ == "__main__":
    sys.exit(main())
