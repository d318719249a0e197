"""Processes that belong together: start them, start again what ends, and leave none behind."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from types import FrameType
from typing import Final

from exitscope_probes.libc import die_with_parent

from .serve import CHILD_VARIABLE

_EARLY_S: Final = 3.0
"""Who ends with an error so soon after the first start will not do better the second time."""
_MISTAKES: Final = (1, 2)
"""Exit status after a mistake that a person must mend, such as a port that is taken (cli.py)."""
_STARTING_S: Final = 60.0
"""A busy host may take so long to get to such a mistake."""
_KILLED: Final = (-signal.SIGKILL, -signal.SIGTERM)
_SETTLED_S: Final = 1.0
"""Who lived so long and was killed by somebody else is started again at once: that was no fault of its own."""
_BACKOFF_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
_TIDYING_S: Final = 0.1
"""Who has closed its files and shows no exit status after so long was killed, and the kernel detaches its probes."""
_GRACE_S: Final = 5.0


@dataclass(slots=True, eq=False)
class Child:
    """One process. commands: what to run the first time, the second…

    essential: without it nothing makes sense; quiet: what it prints on stdout is of no interest here.
    """

    name: str
    commands: Iterator[Sequence[str]]
    essential: bool = True
    quiet: bool = False
    process: subprocess.Popen[bytes] | None = None
    files: int = -1  # ends when the process closes its files
    dying: list[subprocess.Popen[bytes]] = field(default_factory=list)
    started_s: float = 0.0
    due_s: float = 0.0
    starts: int = 0
    failures: int = 0
    given_up: bool = False

    @classmethod
    def always(cls, name: str, command: Sequence[str]) -> "Child":
        """The same command every time."""
        return cls(name, repeat(command))

    def start(self) -> None:
        """Run the next command; SIGTERM reaches it when this process ends, however it ends."""
        self.started_s = time.monotonic()
        self.starts += 1
        environment = os.environ | {CHILD_VARIABLE: "1"}
        self.files, held = os.pipe()
        self.process = subprocess.Popen(
            list(next(self.commands)),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if self.quiet else None,
            pass_fds=(held,),
            preexec_fn=die_with_parent,  # noqa: PLW1509 (this process has one thread)
        )
        os.close(held)

    def check(self, now_s: float) -> int | None:
        """Start it if it is due. Returns its exit status if it ended and starting again won't mend that."""
        if self.given_up:
            return None
        if self.process is None:
            if now_s >= self.due_s:
                self.start()
            return None
        self.dying = [process for process in self.dying if process.poll() is None]
        lived_s = now_s - self.started_s
        status = self._status(self.process, lived_s)
        if status is None:
            return None
        self.process = None
        os.close(self.files)
        killed = status in _KILLED and lived_s >= _SETTLED_S
        self.failures = 0 if status == 0 or killed or lived_s > 60 else self.failures + 1
        starting_s = _STARTING_S if status in _MISTAKES else _EARLY_S
        if status > 0 and self.starts == 1 and lived_s < starting_s:
            self.given_up = True
            return status if self.essential else None
        if status != 0:
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            print(f"exitscope: {self.name} {how}, starting it again", file=sys.stderr)
        self.due_s = now_s + (_BACKOFF_S[min(self.failures, len(_BACKOFF_S)) - 1] if self.failures else 0)
        return None

    def _status(self, process: "subprocess.Popen[bytes]", lived_s: float) -> int | None:
        """Its exit status, None while it runs.

        A killed collector takes seconds to end on a busy host, as the kernel waits before it frees each of its probes;
        but it does nothing any more, and its files are closed in the order in which they were opened, ours first.
        """
        status = process.poll()
        if status is None and (self.starts > 1 or lived_s > _EARLY_S) and select.select((self.files,), (), (), 0)[0]:
            try:
                return process.wait(_TIDYING_S)
            except subprocess.TimeoutExpired:
                process.kill()  # that it is
                self.dying.append(process)
                return -signal.SIGKILL
        return status


def supervise(children: list[Child]) -> int:
    """Until SIGTERM or SIGINT (returns 0), or until an essential child cannot be started (its status)."""
    stopping = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    failed = None
    try:
        while not stopping and failed is None:
            for child in children:
                failed = child.check(time.monotonic())
                if failed is not None:
                    break
            time.sleep(0.05)
    finally:
        _end(children)
        for number, handler in previous.items():
            signal.signal(number, handler)
    return failed or 0


def _end(children: list[Child]) -> None:
    """SIGTERM to all, SIGKILL to who has not ended after five seconds."""
    processes = [process for child in children for process in (child.process, *child.dying) if process]
    for process in processes:
        process.terminate()
    deadline_s = time.monotonic() + _GRACE_S
    for process in processes:
        try:
            process.wait(max(deadline_s - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
