"""Command lines of VMMs: which of their options make a run another run."""

import shlex
from typing import Final

_GUEST_FAIR: Final = frozenset(
    "--mode --name --seed --wait-start --pause-ms-before-exit --verify --fault-free-pass --rounds".split()
)
"""Options of `exitscope guest` that are the mode itself, or that no fault sees."""

_GUEST_OF_MODE: Final = frozenset("--handlers --batch --thread-id --resolver".split())
"""Its options that belong to one mode; which resolver was used is a condition of its own."""

_QEMU_UNFAIR: Final = frozenset(
    "-m -smp -cpu -machine -M -accel -enable-kvm -object -numa -overcommit -mem-path -mem-prealloc".split()
)
"""Options of QEMU that change what faults and how fast; the others name things, or connect them."""


def options(command: str) -> dict[str, tuple[str, ...]]:
    """Option -> its values in order; what is no option's value is under "". Two hyphens are as good as one to QEMU."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    found: dict[str, tuple[str, ...]] = {}
    last = ""
    for word in words[1:]:
        if word.startswith("-") and len(word) > 1 and not word[1].isdigit():
            last, equals, value = word.partition("=")
            found[last] = found.get(last, ()) + ((value,) if equals else ())
            last = "" if equals else last
        else:
            found[last] = (*found.get(last, ()), word)
            last = ""
    return found


def unfair(vmm: str | None, a: str, b: str, same_mode: bool) -> list[str]:
    """Options in which two command lines of a VMM differ so that their runs cannot be held against each other."""
    mine, theirs = options(a), options(b)
    different = {name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)}
    if vmm == "exitscope guest":
        different -= _GUEST_FAIR if same_mode else _GUEST_FAIR | _GUEST_OF_MODE
    elif vmm == "QEMU":
        different &= _QEMU_UNFAIR | {f"-{name}" for name in _QEMU_UNFAIR}
    else:
        different = set()
    return sorted(different)
