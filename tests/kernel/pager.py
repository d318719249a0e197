"""VMs whose memory somebody fills in: pager.c."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def pager_program(compiled: Callable[[str], Path]) -> Path:
    """The program, compiled."""
    return compiled("pager")


class Pager:
    """A running VM. filler: the process that fills its memory; where a daemon does, the descriptor to be taken."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = process.pid
        word, filler = self._line().split()
        assert word == "READY"
        self.filler = int(filler)

    def touch(self, pages: int, late_us: int = 0) -> None:
        """Its vCPU touches so many further pages, each of which comes so late; see `touched`."""
        self.say(f"{pages} {late_us}")

    def touched(self) -> None:
        """Waits until it has."""
        assert self._line() == "DONE"

    def say(self, line: str) -> None:
        """A line that pager.c takes."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """In order."""
        self.process.communicate()
        assert self.process.returncode == 0

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@contextmanager
def pager(program: Path, how: str) -> Iterator[Pager]:
    """See pager.c; killed at the end."""
    pipe = subprocess.PIPE
    with subprocess.Popen([program, how], stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield Pager(process)
        finally:
            process.kill()


class Daemon(Pager):
    """A pager of several VMs."""

    def serve(self, vm: Pager) -> None:
        """Its faults, from now on: of one that is `given` or `lent`."""
        self.do(f"take {vm.pid} {vm.filler}")
        vm.say("taken")

    def do(self, line: str) -> None:
        """See pager.c; waits until it is done."""
        self.say(line)
        self.touched()


@contextmanager
def daemon(program: Path) -> Iterator[Daemon]:
    """See pager.c; killed at the end."""
    pipe = subprocess.PIPE
    with subprocess.Popen([program, "daemon"], stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield Daemon(process)
        finally:
            process.kill()
