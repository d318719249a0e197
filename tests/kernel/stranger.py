"""Processes with VMs that mean no good: stranger.c."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

Stranger = subprocess.Popen[str]


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, compiled; every user may run it."""
    binary = tmp_path_factory.mktemp("stranger") / "stranger"
    source = Path(__file__).with_name("stranger.c")
    subprocess.run(["gcc", "-O1", "-pthread", "-o", str(binary), str(source)], check=True)
    return binary


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
