"""Stands in for systemctl in the test of the installer: starts the units' commands as their users would run."""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

UNITS = Path("/etc/systemd/system")
PIDS = Path("/run/exitscope-test")
# What DynamicUser and the capabilities of the units come to. The server may not even read what only root may.
USERS = {
    "exitscope-collector": [],
    "exitscope-server": ["setpriv", "--reuid=nobody", "--regid=nogroup", "--groups=exitscope", "--bounding-set=-all"],
}


def stop(unit: str) -> None:
    file = PIDS / unit
    if file.exists():
        with suppress(ProcessLookupError):
            os.kill(int(file.read_text()), signal.SIGTERM)
        file.unlink()


def start(unit: str) -> None:
    text = (UNITS / f"{unit}.service").read_text()
    (command,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    (file,) = re.findall(r"^EnvironmentFile=-(.*)$", text, re.MULTILINE)
    settings = dict(re.findall(r"^(EXITSCOPE_\w+)=(.*)$", Path(file).read_text(), re.MULTILINE))
    environment = {"PATH": os.environ["PATH"], "STATE_DIRECTORY": "/tmp/state"} | settings
    if unit == "exitscope-collector":
        environment["EXITSCOPE_GROUP"] = "exitscope"
    with (PIDS / "log").open("a") as log:
        process = subprocess.Popen(
            [*USERS[unit], *command.split()],
            env=environment,
            cwd="/",
            umask=0o077,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (PIDS / unit).write_text(str(process.pid))


def main() -> None:
    PIDS.mkdir(exist_ok=True)
    verb = sys.argv[1]
    units = [argument for argument in sys.argv[2:] if not argument.startswith("-")]
    for unit in units:
        if verb in ("restart", "disable"):
            stop(unit)
        if verb == "restart":
            start(unit)


main()
