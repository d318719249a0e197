"""Field layouts of ordinary tracepoints, from their format files: stable where a raw tracepoint's arguments are not."""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from .tracefs import events as events_directory

_FIELD: Final = re.compile(r"^\s*field:(.+?)\s*(\w+)(?:\[.*\])?;\s*offset:(\d+);\s*size:(\d+);", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Field:
    """Where a field lies in what the tracepoint's program gets, in bytes."""

    offset: int
    size: int


def parse(text: str) -> dict[str, Field]:
    """Fields by name of a format file's text (kernel/trace/trace_events.c), the common ones among them."""
    return {name: Field(int(offset), int(size)) for _, name, offset, size in _FIELD.findall(text)}


@lru_cache
def fields(tracepoint: str, events: Path | None = None) -> dict[str, Field]:
    """Fields of `category:name`; empty where this kernel has none of that name, or does not show it to us.

    events: the directory of the tracepoints, by default the kernel's.
    """
    category, _, name = tracepoint.partition(":")
    try:
        return parse(((events or events_directory()) / category / name / "format").read_text())
    except OSError:
        return {}


def offset_of(path: str, events: Path | None = None) -> int | None:
    """Offset of the field `category:name.field`; None where there is none."""
    tracepoint, _, name = path.partition(".")
    field = fields(tracepoint, events).get(name)
    return field.offset if field else None
