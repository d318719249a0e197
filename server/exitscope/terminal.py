"""Text on its way to a terminal: names in it are strangers', and none may steer it or pass for another line."""

from collections.abc import Iterable

from exitscope_probes.untrusted import cleaned


def joined(lines: Iterable[str]) -> str:
    """One text of these lines, each of which stays one."""
    return "\n".join(map(cleaned, lines))


def shown(text: str) -> str:
    """A text of lines that are ours, however long they are."""
    return "\n".join(cleaned(line, len(line)) for line in text.split("\n"))
