"""The guest as a program: built on demand, trusted only when nobody else can have written it, run as a module."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from exitscope_probes.guest import build as guest_build
from exitscope_probes.isolated import python
from tests.kernel.test_guest import TIMEOUT_S

pytestmark = pytest.mark.needs("kvm", "uffd")


def test_built_once_into_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no guest is installed; and not trusted when others could have written it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    built = guest_build.binary_path()
    built_ns = built.stat().st_mtime_ns
    assert guest_build.binary_path() == built
    assert built.stat().st_mtime_ns == built_ns
    assert list(built.parent.iterdir()) == [built]
    built.chmod(0o777)
    with pytest.raises(guest_build.GuestBuildError, match="writable by others"):
        guest_build.binary_path()


def test_module_becomes_the_guest(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(guest_build.SOURCES.parents[1]),
        "XDG_CACHE_HOME": str(tmp_path),
    }
    command = python("exitscope_probes.guest", "--mode", "exit", "--pages", "3")
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["faults"] == 3


def test_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(guest_build.GuestBuildError, match="install gcc"):
        guest_build.build(tmp_path / "guest")
