"""The collector's systemd unit asks for what it needs, and for nothing more."""

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNIT = (ROOT / "deploy/exitscope-collector.service").read_text()
GRANTED = frozenset(re.findall(r"CAP_\w+", re.findall(r"^AmbientCapabilities=(.*)$", UNIT, re.MULTILINE)[0]))

_LOAD = """
import json
from exitscope_probes.errors import ProbeError
from exitscope_probes.loader import load
try:
    with load() as probes:
        print(json.dumps({hook.hook: hook.status for hook in probes.hooks}))
except ProbeError:
    print("{}")
"""
_LOOK = """
import os, sys
fds = f"/proc/{sys.argv[1]}/fd"
print(os.readlink(f"{fds}/{os.listdir(fds)[0]}"))
"""

pytestmark = pytest.mark.needs("root", "bpf")


def as_nobody(capabilities: frozenset[str]) -> list[str]:
    """What to put before a command so that it runs as `nobody` with these capabilities, as systemd would start it."""
    names = ",".join(["-all", *(f"+{name.removeprefix('CAP_').lower()}" for name in sorted(capabilities))])
    privileges = ["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--no-new-privs"]
    return ["setpriv", *privileges, *(f"--{which}={names}" for which in ("bounding-set", "inh-caps", "ambient-caps"))]


def run_as_nobody(capabilities: frozenset[str], *command: str) -> str:
    """What the command prints."""
    result = subprocess.run(
        [*as_nobody(capabilities), *command],
        env=os.environ | {"PYTHONPATH": str(ROOT / "probes"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return result.stdout


@cache
def attached_hooks(capabilities: frozenset[str]) -> dict[str, str]:
    """Status per hook; empty if the probes could not be loaded at all."""
    hooks: dict[str, str] = json.loads(run_as_nobody(capabilities, sys.executable, "-c", _LOAD) or "{}")
    return hooks


def test_bounding_set_is_the_ambient_set() -> None:
    bounding = re.findall(r"^CapabilityBoundingSet=(.*)$", UNIT, re.MULTILINE)[0]
    assert set(bounding.split()) == GRANTED


def test_each_capability_has_its_reason() -> None:
    assert set(re.findall(r"^# (CAP_\w+) +\S", UNIT, re.MULTILINE)) == GRANTED


def test_granted_capabilities_attach_what_root_attaches() -> None:
    everything = GRANTED | {"CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"}
    as_root = attached_hooks(everything)
    assert as_root
    assert attached_hooks(GRANTED) == as_root


@pytest.mark.parametrize("capability", ["CAP_BPF", "CAP_PERFMON", "CAP_SYSLOG"])
def test_without_one_something_is_lost(capability: str) -> None:
    with_all = attached_hooks(GRANTED)
    assert attached_hooks(GRANTED - {capability}) != with_all


def test_other_users_processes_can_be_looked_into() -> None:
    look = ("/usr/bin/python3", "-I", "-c", _LOOK, str(os.getpid()))
    assert run_as_nobody(GRANTED, *look)
    for capability in ("CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE"):
        assert not run_as_nobody(GRANTED - {capability}, *look)
