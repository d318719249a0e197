"""The command line. Exit status: 0 done, 1 failed with one clear line, 2 wrong usage, 70 a defect of exitscope."""

import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import click

from exitscope_probes.errors import ProbeError, close_stdout, fail, printed
from exitscope_probes.isolated import python

from . import __version__
from .cli_bench import bench
from .cli_compare import compare
from .cli_export import export, summary
from .cli_migration import migration
from .cli_record import record
from .errors import UserError
from .settings import COLLECTOR, SERVER, as_arguments, default_user, takes

_PASS_THROUGH: dict[str, Any] = {"ignore_unknown_options": True, "help_option_names": []}


class _Lines(click.Group):
    """Turns what a user can mend into one line and exit status 1."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run; what could not be printed is told, too."""
        return printed(lambda: click.Group.main(self, *arguments, **options))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (UserError, ProbeError) as error:
            ctx.exit(fail(error))
        except BrokenPipeError:  # click would make it a failure
            close_stdout()
            ctx.exit(0)
        except KeyboardInterrupt:
            ctx.exit(128 + signal.SIGINT)


@click.group(cls=_Lines, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="exitscope")
def main() -> None:
    """See where every vCPU's time goes while guest memory isn't there yet."""


@takes(*SERVER, "socket", "source", "replay_reason")
@main.command()
def serve(socket: str, **settings: Any) -> None:
    """Show what the collector sees: page, API and metrics. Needs no privileges."""
    from .serve import serve as run_server

    run_server(socket_path=socket, **settings)


@takes("user", *COLLECTOR)
@main.command()
def collect(user: str | None, **settings: Any) -> None:
    """Trace all VMs of this host and serve what is seen on a unix socket. Needs root."""
    sys.exit(_collect(user, settings))


@takes(*SERVER, *COLLECTOR)
@main.command()
def run(**settings: Any) -> None:
    """collect + serve, as two processes."""
    sys.exit(_run(settings, demo=False))


@takes(*SERVER, *COLLECTOR)
@main.command()
def demo(**settings: Any) -> None:
    """run + guests that fault, so that there is something to see; a recording of them where nothing can be traced."""
    sys.exit(_run(settings, demo=True))


@main.command(context_settings=_PASS_THROUGH)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def guest(options: tuple[str, ...]) -> None:
    """The real KVM demand-paging workload; `exitscope guest --help` lists its options."""
    command = python("exitscope_probes.guest", *options)
    os.execv(command[0], command)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def doctor(as_json: bool) -> None:
    """What this host can show, hook by hook, and what to do about what it cannot."""
    from exitscope_probes import doctor as probes_doctor

    sys.exit(probes_doctor.main(as_json))


main.add_command(record)
main.add_command(export)
main.add_command(summary)
main.add_command(compare)
main.add_command(migration)
main.add_command(bench)


def _collect(user: str | None, settings: dict[str, Any]) -> int:
    from exitscope_probes import collector
    from exitscope_probes.settings import Settings

    given = {name: value for name, value in _with_group(user, settings).items() if value is not None}
    return collector.main(Settings(**given))


def _with_group(user: str | None, settings: dict[str, Any]) -> dict[str, Any]:
    """The collector's settings; where nobody says whose group may connect, it is the server's."""
    from .privileges import group_of

    if os.geteuid() == 0 and settings["group"] is None:
        return settings | {"group": group_of(user or default_user())}
    return settings


def _run(settings: dict[str, Any], demo: bool) -> int:
    from exitscope_probes.checks import usable

    from .demo import guests
    from .supervise import Child, supervise

    reason = usable()
    if reason and not demo:  # a recording would show guests of somewhere else as this host's
        raise UserError(f"live tracing is not possible here: {reason}")
    exitscope = python("exitscope")
    settings["port"] = settings["port"] or _free_port(settings["host"])  # a server started again must be where it was
    server = [*exitscope, "serve", *as_arguments(settings, SERVER)]
    if reason is None:
        options = as_arguments(_with_group(settings["user"], settings), COLLECTOR)
        children = [
            Child.always("the server", [*server, *as_arguments(settings, ("socket",))]),
            Child.always("the collector", python("exitscope_probes", "collect", *options)),  # soon up: half the imports
        ]
        return supervise(children + (guests() if demo else []))
    recording = _bundled_recording()
    print(f"exitscope: replaying a recording, because live tracing is not possible: {reason}", file=sys.stderr)
    return supervise([Child.always("the server", [*server, "--source", str(recording), "--replay-reason", reason])])


def _free_port(host: str) -> int:
    try:
        with socket.create_server((host, 0)) as probe:
            return int(probe.getsockname()[1])
    except OSError as error:
        raise UserError(f"--host {host} cannot be used: {error.strerror or error}") from None


def _bundled_recording() -> Path:
    found = sorted((Path(__file__).parent / "data").glob("*.gz"))
    if not found:
        raise UserError("live tracing is not possible here, and no recording is bundled: `exitscope doctor` says why")
    return found[0]
