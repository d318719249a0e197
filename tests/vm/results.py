"""What to make of pytest's words from inside a VM."""

import re
from typing import Final

# What only newer kernels have; all else that the tests ask for must be there.
_MAY_LACK: Final = ("UFFDIO_MOVE", "UFFDIO_POISON", "KVM_EXIT_MEMORY_FAULT")
_PASSED = re.compile(r"[1-9]\d* passed(, \d+ (skipped|deselected|rerun))* in .*")
_SKIPPED = re.compile(r"^SKIPPED .*?absent capability: (.*)$", re.MULTILINE)


def last_line(log: str) -> str:
    """Pytest's summary, if it came to that."""
    lines = log.splitlines()
    return lines[-1] if lines else "no output"


def objection(log: str) -> str | None:
    """Why a run does not count as passed, None if it does."""
    if not _PASSED.fullmatch(last_line(log)):
        return last_line(log)
    lacking = [reason for reason in _SKIPPED.findall(log) if not reason.startswith(_MAY_LACK)]
    return f"the VM lacks {lacking[0]}" if lacking else None
