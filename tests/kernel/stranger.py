"""Processes with VMs that mean no good: stranger.c."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

Stranger = subprocess.Popen[str]


@pytest.fixture(scope="session")
def program(compiled: Callable[[str], Path]) -> Path:
    """The program, compiled."""
    return compiled("stranger")


@contextmanager
def stranger(program: Path, *options: object) -> Iterator[Stranger]:
    """One whose vCPUs have run; killed at the end."""
    pipe = subprocess.PIPE
    with subprocess.Popen([program, *map(str, options)], stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "READY\n"
            yield process
        finally:
            process.kill()
