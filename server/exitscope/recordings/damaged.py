"""Reading a recording that may be damaged, by accident or on purpose: whatever its bytes lead to is one UserError."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from ..errors import ApiError, UserError
from .parquet import first_line

log = logging.getLogger("exitscope")

_T = TypeVar("_T")


@contextmanager
def read_from(path: str) -> Iterator[None]:
    """What fails inside is the recording's fault: UserError, naming it. The log has the details."""
    try:
        yield
    except (UserError, ApiError, GeneratorExit):
        raise
    except Exception as error:  # of Arrow, DuckDB, numpy: there are dozens of ways, and none is the reader's mistake
        log.info("%s cannot be read", path, exc_info=error)
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"cannot read the recording {path}: {reason}") from None


def all_from(path: str, items: Iterator[_T]) -> Iterator[_T]:
    """The items, which are made while they are read."""
    with read_from(path):
        yield from items
